//! Which listeners there are, and with which key: decided before anything is bound.

use super::ServerError;
use crate::api::addr::ListenAddr;
use crate::key::{DEFAULT_KEYFILE, Identity, Key, KeyError};
use std::path::Path;

/// What [`Server`](super::Server) shall listen on.
#[derive(Debug)]
pub struct Plan {
    /// The listeners.
    pub listeners: Vec<ListenAddr>,
    /// The identity, if there is a good key.
    pub key: Option<Identity>,
    /// Lines for `StatusView::notes` and the log, e.g. why there is no TCP listener.
    pub notes: Vec<String>,
}

/// Decides on listeners: those of `-H`, or the unix socket, and TCP 9999 only when there is a good key. `keyfile` is
/// what `-K` says; without it the default path is looked at.
///
/// # Errors
/// [`ServerError::Key`] for a bad key that was named, [`ServerError::NeedsKey`] for a TCP listener without a good key.
pub fn plan(hosts: &[ListenAddr], keyfile: Option<&Path>) -> Result<Plan, ServerError> {
    plan_with(hosts, keyfile, Path::new(DEFAULT_KEYFILE))
}

pub(super) fn plan_with(hosts: &[ListenAddr], keyfile: Option<&Path>, default: &Path) -> Result<Plan, ServerError> {
    let mut notes = Vec::new();
    let mut key = None;
    match Key::load(keyfile.unwrap_or(default)) {
        Ok(text) => key = Some(Identity::derive(&text)?),
        Err(refused) if keyfile.is_some() => return Err(refused.into()),
        Err(refused) => {
            if let Some(tcp) = hosts.iter().find(|h| matches!(h, ListenAddr::Tcp { .. })) {
                return Err(ServerError::NeedsKey { addr: tcp.clone(), source: refused });
            }
            if hosts.is_empty() {
                notes.push(format!("no TCP listener: {refused}"));
            } else if !matches!(refused, KeyError::Absent(_)) {
                notes.push(refused.to_string());
            }
        }
    }
    let listeners = match (hosts, &key) {
        ([], Some(_)) => vec![ListenAddr::default_unix(), ListenAddr::default_tcp()],
        ([], None) => vec![ListenAddr::default_unix()],
        (hosts, _) => hosts.to_vec(),
    };
    Ok(Plan { listeners, key, notes })
}
