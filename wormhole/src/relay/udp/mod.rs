//! stub
use super::Route;
use crate::model::ConnectionView;
use std::sync::Arc;
use tokio::sync::oneshot;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadId(u64);
pub struct UdpEngine;
pub struct UdpConfig {
    pub max_sessions_total: usize,
}
impl UdpEngine {
    pub fn start(_c: UdpConfig) -> std::io::Result<Self> {
        Ok(Self)
    }
    pub fn add(&self, _h: rustix::fd::OwnedFd, _r: Arc<Route>) -> HeadId {
        HeadId(0)
    }
    pub fn remove(&self, _h: HeadId) -> oneshot::Receiver<()> {
        oneshot::channel().1
    }
    pub fn sessions(&self, _h: HeadId) -> oneshot::Receiver<Vec<ConnectionView>> {
        oneshot::channel().1
    }
    pub fn retarget(&self, _h: HeadId) {}
}
