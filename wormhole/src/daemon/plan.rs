//! From one spec with what hangs on it to a list of segments, checked before anything is touched.

use crate::model::{Failure, FailureKind, Place, SegmentId, Spec, Via};
use crate::segment::SegmentError;
use std::collections::BTreeSet;

/// A segment to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its id.
    pub id: SegmentId,
    /// The segment it hangs on.
    pub parent: Option<SegmentId>,
    /// True when its tail is the head of the next one in the list.
    pub chained: bool,
    /// What was asked for, without what hangs on it.
    pub spec: Spec,
}

/// Fills in the ids that the user did not give.
///
/// # Errors
/// An id that is `taken` or used twice.
pub fn name_all(spec: &mut Spec, taken: &BTreeSet<SegmentId>) -> Result<(), Failure> {
    let mut used = taken.clone();
    let mut next = Some(&mut *spec);
    while let Some(spec) = next {
        if let Some(id) = &spec.id
            && !used.insert(id.clone())
        {
            let free = format!("choose another id, or remove that one: wormhole delete {id}");
            return Err(Failure::new(FailureKind::Refused, format!("the id {id} is taken")).hint(free));
        }
        next = spec.link.as_mut().map(|link| &mut link.spec);
    }
    let mut next = Some(spec);
    while let Some(spec) = next {
        if spec.id.is_none() {
            spec.id = Some(fresh(&mut used)?);
        }
        next = spec.link.as_mut().map(|link| &mut link.spec);
    }
    Ok(())
}

/// A short random id that is not in `used`; six of 32 letters and digits that cannot be taken for each other.
fn fresh(used: &mut BTreeSet<SegmentId>) -> Result<SegmentId, Failure> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    for _ in 0..64 {
        let mut random = [0u8; 6];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::new(FailureKind::Failed, format!("the system has no random numbers: {e}")))?;
        let id: String = random.iter().map(|r| char::from(LETTERS[usize::from(r % 32)])).collect();
        // An id of digits alone would read as a number, one that starts with a digit as a prefix of a container's.
        if id.starts_with(|c: char| c.is_ascii_alphabetic()) && used.insert(id.clone()) {
            return Ok(id);
        }
    }
    Err(Failure::new(FailureKind::Failed, "no free id was found").hint("give one: `id NAME`"))
}

/// The segments of a named spec, the root first.
///
/// # Errors
/// A word that this build does not carry out.
pub fn flatten(spec: &Spec) -> Result<Vec<Planned>, Failure> {
    check_words(spec)?;
    let mut planned = Vec::new();
    let mut parent = None;
    let mut next = Some(spec);
    while let Some(spec) = next {
        let id = spec.id.clone().unwrap_or_default();
        let chained = matches!(spec.link.as_deref(), Some(link) if link.via == Via::Chain);
        let alone = Spec { link: None, ..spec.clone() };
        planned.push(Planned { id: id.clone(), parent: parent.replace(id), chained, spec: alone });
        next = spec.link.as_ref().map(|link| &link.spec);
    }
    Ok(planned)
}

/// Refuses a tree with words that are not carried out yet, and names them all.
fn check_words(root: &Spec) -> Result<(), Failure> {
    let run = |place: &Place| matches!(place, Place::Run { .. } | Place::Parent);
    let mut words: Vec<&'static str> = Vec::new();
    let mut next = Some(root);
    while let Some(spec) = next {
        let link = spec.link.as_deref();
        let found = [
            spec.trigger.then_some("trigger"),
            (run(&spec.head.place) || run(&spec.tail.place)).then_some("docker-run"),
            match link.map(|link| &link.via) {
                Some(Via::Remote { .. }) => Some("remote"),
                Some(Via::Tunnel { .. }) => Some("tunnel"),
                Some(Via::Udptunnel { .. }) => Some("udptunnel"),
                Some(Via::Child | Via::Chain) | None => None,
            },
        ];
        for word in found.into_iter().flatten() {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        next = link.map(|link| &link.spec);
    }
    if words.is_empty() { Ok(()) } else { Err(SegmentError::NotInThisBuild { words }.into()) }
}

/// The spec without the part that starts at segment `id`; `None` when that is the whole.
pub fn without(spec: &Spec, id: &str) -> Option<Spec> {
    if spec.id.as_deref() == Some(id) {
        return None;
    }
    let mut left = spec.clone();
    left.link = spec
        .link
        .as_ref()
        .and_then(|link| without(&link.spec, id).map(|spec| Box::new(crate::model::Link { via: link.via.clone(), spec })));
    Some(left)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{End, Link, Options};

    fn spec(id: Option<&str>, link: Option<(Via, Spec)>) -> Spec {
        Spec {
            id: id.map(str::to_owned),
            head: End::local(),
            tail: End::local(),
            trigger: false,
            link: link.map(|(via, spec)| Box::new(Link { via, spec })),
            options: Options::default(),
        }
    }

    #[test]
    fn ids_are_filled_in_and_differ() {
        let mut tree = spec(None, Some((Via::Child, spec(Some("mine"), Some((Via::Chain, spec(None, None)))))));
        name_all(&mut tree, &BTreeSet::new()).unwrap();
        let planned = flatten(&tree).unwrap();
        let ids: BTreeSet<_> = planned.iter().map(|p| p.id.clone()).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.contains("mine") && ids.iter().all(|id| !id.is_empty()));
        assert_eq!(planned[1].parent.as_ref(), Some(&planned[0].id));
        assert_eq!(planned.iter().map(|p| p.chained).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn an_id_cannot_be_used_twice() {
        let taken = BTreeSet::from(["x".to_owned()]);
        let error = name_all(&mut spec(Some("x"), None), &taken).unwrap_err();
        assert!(error.message.contains("x is taken"));
        let mut twice = spec(Some("y"), Some((Via::Child, spec(Some("y"), None))));
        assert_eq!(name_all(&mut twice, &taken).unwrap_err().kind, FailureKind::Refused);
    }

    #[test]
    fn words_of_later_builds_are_named() {
        let remote = spec(None, Some((Via::Remote { host: "h".into() }, spec(None, None))));
        let mut trigger = spec(None, None);
        trigger.trigger = true;
        let mut run = spec(None, None);
        run.tail.place = Place::Run { args: "redis".into() };
        for (spec, word) in [(remote, "remote"), (trigger, "trigger"), (run, "docker-run")] {
            let error = flatten(&spec).unwrap_err();
            assert_eq!(error.kind, FailureKind::NotInThisBuild);
            assert!(error.message.contains(word), "{error}");
        }
        let mut both = spec(None, None);
        both.trigger = true;
        both.tail.place = Place::Run { args: "redis".into() };
        assert_eq!(flatten(&both).unwrap_err().message, "`trigger` and `docker-run` are not in this build");
    }

    #[test]
    fn a_part_can_be_cut_off() {
        let tree = spec(Some("a"), Some((Via::Child, spec(Some("b"), Some((Via::Child, spec(Some("c"), None)))))));
        assert_eq!(without(&tree, "a"), None);
        assert_eq!(without(&tree, "b"), Some(spec(Some("a"), None)));
        assert_eq!(without(&tree, "c").unwrap().link.unwrap().spec, spec(Some("b"), None));
    }
}
