//! The client's interface; the transport replaces this file.

use crate::model::{
    CreateReply, CreateRequest, Failure, FailureKind, PingReply, PingRequest, SegmentId, SegmentView, StatusView,
};
use std::path::Path;

/// A daemon, as seen by a client.
#[derive(Debug)]
pub struct Client {
    host: String,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon could not be spoken to.
    #[error("reach wormholed at {host}: {reason}")]
    Unreachable {
        /// The daemon's address.
        host: String,
        /// What stood against it.
        reason: String,
        /// What the user can do about it.
        hint: String,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(Failure),
}

impl ClientError {
    /// The failure that the daemon answered with, if it answered.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            Self::Unreachable { .. } => None,
        }
    }

    /// What the user can do about it, where the text does not say so itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(failure) => failure.hint.as_deref(),
            Self::Unreachable { hint, .. } => Some(hint),
        }
    }
}

#[allow(clippy::missing_errors_doc, missing_docs, clippy::unused_async)]
impl Client {
    pub fn new(host: &str, _keyfile: Option<&Path>) -> Result<Self, ClientError> {
        if !host.contains("://") {
            return Err(ClientError::Refused(Failure::new(FailureKind::Invalid, format!("`{host}` is no address"))));
        }
        Ok(Self { host: host.to_owned() })
    }

    fn away<T>(&self) -> Result<T, ClientError> {
        let (reason, hint) = ("no such file".to_owned(), "start it: `wormholed`".to_owned());
        Err(ClientError::Unreachable { host: self.host.clone(), reason, hint })
    }

    pub async fn create(&self, _request: &CreateRequest) -> Result<CreateReply, ClientError> {
        self.away()
    }
    pub async fn delete(&self, _id: &str) -> Result<Vec<SegmentId>, ClientError> {
        self.away()
    }
    pub async fn delete_all(&self) -> Result<Vec<SegmentId>, ClientError> {
        self.away()
    }
    pub async fn list(&self) -> Result<Vec<SegmentView>, ClientError> {
        self.away()
    }
    pub async fn inspect(&self, _id: &str) -> Result<SegmentView, ClientError> {
        self.away()
    }
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.away()
    }
    pub async fn ping(&self, _request: &PingRequest) -> Result<PingReply, ClientError> {
        self.away()
    }
    pub async fn measure(&self) -> Result<PingReply, ClientError> {
        self.away()
    }
}
