//! How bodies come in and failures go out: always JSON, always bounded in size and time.

use crate::model::{Failure, FailureKind};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Largest body of a request.
pub(super) const MAX_BODY: usize = 256 * 1024;

/// A body that is not complete after this is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const SEE_OPENAPI: &str = "GET /v1/openapi.json describes every request";

/// A failure with the HTTP status that carries it. Boxed because it travels in `Result`s.
#[derive(Debug)]
pub(super) struct Refusal(Box<(StatusCode, Failure)>);

impl Refusal {
    /// A failure with a status that says more than its kind's.
    pub(super) fn with(status: StatusCode, failure: Failure) -> Self {
        Self(Box::new((status, failure)))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.kind {
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Refused => StatusCode::CONFLICT,
            FailureKind::NotInThisBuild => StatusCode::NOT_IMPLEMENTED,
            FailureKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::with(status, failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, failure) = *self.0;
        (status, axum::Json(failure)).into_response()
    }
}

fn invalid(status: StatusCode, message: String, hint: &str) -> Refusal {
    Refusal::with(status, Failure::new(FailureKind::Invalid, message).hint(hint))
}

/// Reads a JSON body. `absent` is what an empty body without a content type means, if anything.
pub(super) async fn read<T: DeserializeOwned>(request: Request, absent: Option<T>) -> Result<T, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let bytes = collect(request.into_body()).await?;
    if bytes.is_empty() {
        return absent.ok_or_else(|| invalid(StatusCode::BAD_REQUEST, "the body is empty".to_owned(), SEE_OPENAPI));
    }
    let json = kind
        .as_deref()
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")));
    if !json {
        let shown = kind.map_or("no content type".to_owned(), |kind| format!("content type `{}`", kind.escape_debug()));
        return Err(invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the body has {shown}, not `application/json`"),
            "with curl: -H 'content-type: application/json'",
        ));
    }
    parse(&bytes).map_err(|why| invalid(StatusCode::BAD_REQUEST, format!("the body: {why}"), SEE_OPENAPI))
}

async fn collect(body: Body) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => {
            Err(invalid(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY} bytes"), "split the request"))
        }
        Ok(Err(e)) => Err(invalid(StatusCode::BAD_REQUEST, format!("the body did not arrive: {e}"), "send it again")),
        Err(_) => Err(invalid(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
            "send it again",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let parsed = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    // serde ignores `deny_unknown_fields` on the unit variants of an internally tagged enum, and `{"kind": "host",
    // "name": "blue"}` must not quietly mean the host.
    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if let Some((kind, extra)) = extra_field(&value) {
        return Err(format!("unknown field `{}`, `{kind}` has no fields", extra.escape_debug()));
    }
    Ok(parsed)
}

/// A field beside a `kind` that has none.
fn extra_field(value: &Value) -> Option<(&str, &str)> {
    match value {
        Value::Array(items) => items.iter().find_map(extra_field),
        Value::Object(fields) => {
            if let Some(Value::String(kind)) = fields.get("kind")
                && matches!(kind.as_str(), "host" | "parent" | "child" | "chain")
                && let Some(extra) = fields.keys().find(|key| *key != "kind")
            {
                return Some((kind, extra));
            }
            fields.values().find_map(extra_field)
        }
        _ => None,
    }
}
