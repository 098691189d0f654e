//! What a controller can be asked to do. The API calls it, the daemon implements it.

use super::failure::Failure;
use super::spec::{SegmentId, Spec};
use super::view::{SegmentView, StatusView};
use std::future::Future;
use std::pin::Pin;

/// The future that a [`Control`] method returns.
pub type ControlFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The controller behind the API.
pub trait Control: Send + Sync + 'static {
    /// Makes a segment and what hangs on it, or nothing at all. Returns the root first.
    fn create(&self, spec: Spec) -> ControlFuture<'_, Vec<SegmentView>>;
    /// Undoes a segment and what hangs on it. Returns the ids that are gone.
    fn delete(&self, id: SegmentId) -> ControlFuture<'_, Vec<SegmentId>>;
    /// Undoes all segments. Returns the ids that are gone.
    fn delete_all(&self) -> ControlFuture<'_, Vec<SegmentId>>;
    /// All segments, ordered by id, children after their parents.
    fn list(&self) -> ControlFuture<'_, Vec<SegmentView>>;
    /// One segment with its open connections. `id` may be an unambiguous prefix.
    fn inspect(&self, id: SegmentId) -> ControlFuture<'_, SegmentView>;
    /// The daemon itself.
    fn status(&self) -> ControlFuture<'_, StatusView>;
}
