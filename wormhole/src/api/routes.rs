//! The calls of the control API. Each handler reads, checks, and hands over to the controller.

use super::client::{Client, ClientError};
use super::reply::{Refusal, read};
use super::{openapi, validate, validate_id};
use crate::key::Identity;
use crate::model::{
    Control, CreateReply, CreateRequest, Failure, FailureKind, PingReply, PingRequest, SegmentId, SegmentView, StatusView,
};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What every handler needs.
#[derive(Clone)]
pub(super) struct App {
    pub(super) control: Arc<dyn Control>,
    /// Who this daemon is towards its peers.
    pub(super) identity: Option<Identity>,
    /// Held by everything that must end before the server counts as closed.
    pub(super) alive: mpsc::Sender<Infallible>,
}

/// All routes, for callers that may do everything.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/v1/segments", get(list).post(create).delete(delete_all))
        .route("/v1/segments/{id}", get(inspect).delete(delete))
        .route("/v1/status", get(status))
        .route("/v1/ping", post(ping).get(pong))
        .route("/v1/openapi.json", get(describe))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// One answer to whatever is asked, for callers that may do nothing.
pub(super) fn forbidden(failure: Failure) -> Router {
    Router::new().fallback(move || {
        let failure = failure.clone();
        async move { Refusal::with(StatusCode::FORBIDDEN, failure) }
    })
}

/// Runs the controller's work in a task of its own: a client that hangs up does not stop a `create` half way, and a
/// panic is an answer and not a broken connection.
async fn run<T, F>(app: App, work: impl FnOnce(Arc<dyn Control>) -> F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let work = work(app.control);
    let alive = app.alive;
    let task = tokio::spawn(async move {
        let result = work.await;
        drop(alive);
        result
    });
    match task.await {
        Ok(result) => result.map_err(Refusal::from),
        Err(e) => {
            tracing::error!(error = %e, "a request ended without an answer");
            let failure = Failure::new(FailureKind::Failed, "the daemon failed inside while it carried this out");
            Err(failure.hint("its log says where; please report it").into())
        }
    }
}

fn known(id: Result<Path<String>, PathRejection>) -> Result<SegmentId, Refusal> {
    let Path(id) =
        id.map_err(|e| Failure::new(FailureKind::Invalid, format!("id: {}", e.body_text())).hint("an id is plain ASCII"))?;
    validate_id(&id)?;
    Ok(id)
}

/// Makes a segment and what hangs on it, or nothing at all.
#[utoipa::path(post, path = "/v1/segments", request_body = CreateRequest, responses(
    (status = 200, description = "Made; the root first", body = CreateReply),
    (status = "default", description = "Nothing was made", body = Failure),
))]
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Json<CreateReply>, Refusal> {
    let CreateRequest { spec } = read(request, None).await?;
    validate(&spec)?;
    let segments = run(app, |control| async move { control.create(spec).await }).await?;
    Ok(Json(CreateReply { segments }))
}

/// All segments, ordered by id, children after their parents.
#[utoipa::path(get, path = "/v1/segments", responses(
    (status = 200, description = "All segments", body = Vec<SegmentView>),
    (status = "default", description = "Failed", body = Failure),
))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<SegmentView>>, Refusal> {
    run(app, |control| async move { control.list().await }).await.map(Json)
}

/// Undoes all segments.
#[utoipa::path(delete, path = "/v1/segments", responses(
    (status = 200, description = "The ids that are gone", body = Vec<String>),
    (status = "default", description = "Failed", body = Failure),
))]
pub(super) async fn delete_all(State(app): State<App>) -> Result<Json<Vec<SegmentId>>, Refusal> {
    run(app, |control| async move { control.delete_all().await }).await.map(Json)
}

/// One segment with its open connections.
#[utoipa::path(get, path = "/v1/segments/{id}", params(("id" = String, Path, description = "An id or an unambiguous prefix of one")), responses(
    (status = 200, description = "The segment", body = SegmentView),
    (status = "default", description = "Failed", body = Failure),
))]
pub(super) async fn inspect(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<SegmentView>, Refusal> {
    let id = known(id)?;
    run(app, |control| async move { control.inspect(id).await }).await.map(Json)
}

/// Undoes a segment and what hangs on it.
#[utoipa::path(delete, path = "/v1/segments/{id}", params(("id" = String, Path, description = "An id")), responses(
    (status = 200, description = "The ids that are gone", body = Vec<String>),
    (status = "default", description = "Failed", body = Failure),
))]
pub(super) async fn delete(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<SegmentId>>, Refusal> {
    let id = known(id)?;
    run(app, |control| async move { control.delete(id).await }).await.map(Json)
}

/// The daemon itself.
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, description = "Versions, listeners, limits", body = StatusView),
    (status = "default", description = "Failed", body = Failure),
))]
pub(super) async fn status(State(app): State<App>) -> Result<Json<StatusView>, Refusal> {
    run(app, |control| async move { control.status().await }).await.map(Json)
}

/// Measures the round trip to another machine's daemon, or answers itself when no host is given.
#[utoipa::path(post, path = "/v1/ping", request_body = PingRequest, responses(
    (status = 200, description = "The daemon that was named answered", body = PingReply),
    (status = "default", description = "It did not", body = Failure),
))]
pub(super) async fn ping(State(app): State<App>, request: Request) -> Result<Json<PingReply>, Refusal> {
    let PingRequest { host } = read(request, Some(PingRequest::default())).await?;
    let Some(host) = host else { return Ok(pong().await) };
    let client = Client::with_identity(&host, app.identity.as_ref()).map_err(|e| unreachable(&host, &e))?;
    Ok(Json(client.measure().await.map_err(|e| unreachable(&host, &e))?))
}

/// The smallest question there is.
#[utoipa::path(get, path = "/v1/ping", responses((status = 200, description = "The daemon is there", body = PingReply)))]
pub(super) async fn pong() -> Json<PingReply> {
    Json(PingReply { peer_ms: None, version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(super) async fn describe() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document())
}

/// What a client's error is to somebody who asked a daemon to be that client.
fn unreachable(host: &str, error: &ClientError) -> Failure {
    let (kind, hint) = match error {
        ClientError::Refused(failure) => (failure.kind, failure.hint.clone()),
        ClientError::Host(_) => (FailureKind::Invalid, Some("HOST, HOST:PORT or unix:///path".to_owned())),
        ClientError::Unreachable { hint, .. } => (FailureKind::Failed, Some(hint.clone())),
        ClientError::NoKey { .. } | ClientError::Key(_) => (
            FailureKind::Refused,
            Some("make one with `wormhole keygen`, copy it to both machines, restart wormholed".to_owned()),
        ),
        _ => (FailureKind::Failed, None),
    };
    Failure { kind, message: format!("ping {}: {error}", host.escape_debug()), hint }
}

async fn unknown(uri: Uri) -> Refusal {
    let failure = Failure::new(FailureKind::NotFound, format!("there is no `{}`", uri.path().escape_debug()));
    failure.hint("GET /v1/openapi.json lists all there is").into()
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let failure = Failure::new(FailureKind::Invalid, format!("`{}` does not take {method}", uri.path().escape_debug()));
    Refusal::with(StatusCode::METHOD_NOT_ALLOWED, failure.hint("GET /v1/openapi.json lists what it takes"))
}
