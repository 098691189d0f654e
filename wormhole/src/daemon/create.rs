//! `create`: check everything, then act from the end of the tree backwards, then record; undo in reverse order when a
//! step fails.

use super::Daemon;
use super::plan::{self, Planned};
use super::records::Record;
use crate::model::{Failure, FailureKind, SegmentId, SegmentView, Spec, Url};
use crate::segment::{Segment, SegmentError, Spot, find};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

impl Daemon {
    pub(super) async fn make(&self, mut spec: Spec) -> Result<Vec<SegmentView>, Failure> {
        let _changes = self.changes.lock().await;
        let taken: BTreeSet<SegmentId> = {
            let state = self.state();
            if state.stopping {
                return Err(Failure::new(FailureKind::Refused, "wormholed is stopping"));
            }
            state.segments.keys().cloned().collect()
        };
        plan::name_all(&mut spec, &taken)?;
        let planned = plan::flatten(&spec)?;
        self.check(&planned).await?;

        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut made: Vec<Arc<Segment>> = Vec::new();
        for planned in planned.into_iter().rev() {
            let segment = Arc::new(self.segment(planned, created, 0, made.last()));
            made.push(Arc::clone(&segment));
            let step = match segment.reconcile().await {
                Ok(()) => self.check_loops(&made, &segment),
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                undo(&made).await;
                return Err(error.into());
            }
        }
        made.reverse();
        let root = made.first().map(|s| s.id.clone()).unwrap_or_default();
        let ports = made.iter().filter(|s| s.spec.head.port == 0).map(|s| (s.id.clone(), s.port())).collect();
        let record = Record { spec, created, ports };
        if let Err(error) = self.records.save(&root, &record) {
            undo(&made).await;
            return Err(Failure::new(FailureKind::Failed, error.to_string()).hint("mend --state-dir"));
        }
        let views = made.iter().map(|s| s.view()).collect();
        let mut state = self.state();
        state.trees.insert(root, record);
        state.segments.extend(made.into_iter().map(|s| (s.id.clone(), s)));
        Ok(views)
    }

    /// All places are there and no head is taken: checked before the first socket is made.
    async fn check(&self, planned: &[Planned]) -> Result<(), SegmentError> {
        let mut heads: Vec<(Spot, SegmentId)> = Vec::new();
        for planned in planned {
            let (head, tail) = (&planned.spec.head, &planned.spec.tail);
            let head_site = find(&head.place, &self.context.docker).await?;
            let tail_site = find(&tail.place, &self.context.docker).await?;
            let url = || Url::from(head).to_string();
            let spot = head_site.spot(head, head.port).await?;
            let port = if tail.port == 0 { head.port } else { tail.port };
            if spot.leads_somewhere() && spot.meets(&tail_site.spot(tail, port).await?) {
                return Err(SegmentError::Loop { url: url(), through: None });
            }
            let among_new =
                heads.iter().find(|(other, _)| spot.leads_somewhere() && other.meets(&spot)).map(|(_, id)| id.clone());
            let taken = among_new.or_else(|| {
                let segments = self.segments();
                segments.iter().find(|s| s.claims(&spot, head)).map(|s| s.id.clone())
            });
            if let Some(id) = taken {
                return Err(SegmentError::HeadTaken { url: url(), id });
            }
            heads.push((spot, planned.id.clone()));
        }
        Ok(())
    }

    /// Follows the tail of a new segment from head to head; it must not come back.
    fn check_loops(&self, made: &[Arc<Segment>], new: &Arc<Segment>) -> Result<(), SegmentError> {
        let mut all = self.segments();
        all.extend(made.iter().cloned());
        let mut path: Vec<SegmentId> = Vec::new();
        let mut at = Arc::clone(new);
        while let Some(tail) = at.tail_spot() {
            let Some(next) = all.iter().find(|s| s.head_spot().is_some_and(|head| head.meets(&tail))) else { return Ok(()) };
            if next.id == new.id {
                let through = if path.is_empty() { None } else { Some(path.join(", ")) };
                return Err(SegmentError::Loop { url: new.head_url(), through });
            }
            if path.contains(&next.id) {
                return Ok(());
            }
            path.push(next.id.clone());
            at = Arc::clone(next);
        }
        Ok(())
    }
}

/// Undoes what `create` had made, the youngest first.
async fn undo(made: &[Arc<Segment>]) {
    for segment in made.iter().rev() {
        segment.close().await;
    }
}
