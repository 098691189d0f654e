//! Why a request was not carried out, in a form that crosses the wire and becomes an exit code.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The class of a failure. The HTTP status and the CLI's exit code follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request itself is wrong: HTTP 400, exit code 2.
    Invalid,
    /// What the request names does not exist: HTTP 404, exit code 4.
    NotFound,
    /// The request is well formed but stands against something that exists (a head already taken, a segment that
    /// would connect to itself), or the caller has no right: HTTP 409, exit code 5.
    Refused,
    /// A word of the language that this build does not carry out yet: HTTP 501, exit code 5.
    NotInThisBuild,
    /// It was tried and went wrong: HTTP 500, exit code 1.
    Failed,
}

/// A failure with what was attempted on what, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
pub struct Failure {
    /// The class, which decides HTTP status and exit code.
    pub kind: FailureKind,
    /// What was attempted, on what, and what stood against it. One line.
    pub message: String,
    /// What the user can do about it. One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of `kind` that says `message`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same failure with a hint of how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
