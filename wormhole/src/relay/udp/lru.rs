//! Doubly linked lists through a slab: "used just now" and "silent for longest" in constant time, without allocation.

use slab::Slab;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// An element's place in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    older: u32,
    newer: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { older: NONE, newer: NONE }
    }
}

/// An element that can be in several lists at once, `links[n]` is its place in those of kind n.
pub(super) trait Linked {
    fn links(&mut self) -> &mut [Link; 2];
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    oldest: u32,
    newest: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE }
    }
}

impl List {
    /// The element that was used least recently.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Puts an element that is in no list of this kind at the new end.
    pub(super) fn push<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, at: u32) {
        set(slab, kind, at, Link { older: self.newest, newer: NONE });
        match self.newest {
            NONE => self.oldest = at,
            newest => change(slab, kind, newest, |link| link.newer = at),
        }
        self.newest = at;
    }

    /// Takes an element of this list out of it.
    pub(super) fn unlink<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, at: u32) {
        let Some(element) = slab.get_mut(at as usize) else { return };
        let Link { older, newer } = std::mem::take(&mut element.links()[kind]);
        match older {
            NONE => self.oldest = newer,
            older => change(slab, kind, older, |link| link.newer = newer),
        }
        match newer {
            NONE => self.newest = older,
            newer => change(slab, kind, newer, |link| link.older = older),
        }
    }

    /// Moves an element of this list to the new end.
    pub(super) fn touch<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, at: u32) {
        if self.newest != at {
            self.unlink(slab, kind, at);
            self.push(slab, kind, at);
        }
    }
}

fn change<T: Linked>(slab: &mut Slab<T>, kind: usize, at: u32, change: impl FnOnce(&mut Link)) {
    if let Some(element) = slab.get_mut(at as usize) {
        change(&mut element.links()[kind]);
    }
}

fn set<T: Linked>(slab: &mut Slab<T>, kind: usize, at: u32, to: Link) {
    change(slab, kind, at, |link| *link = to);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Item([Link; 2]);

    impl Linked for Item {
        fn links(&mut self) -> &mut [Link; 2] {
            &mut self.0
        }
    }

    fn walk(list: &List, slab: &mut Slab<Item>, kind: usize) -> Vec<u32> {
        let mut found = Vec::new();
        let mut at = list.oldest();
        while let Some(here) = at {
            found.push(here);
            let next = slab[here as usize].links()[kind].newer;
            at = (next != NONE).then_some(next);
        }
        found
    }

    proptest! {
        #[test]
        fn agrees_with_a_vector(steps in proptest::collection::vec((0u8..3, 0usize..12), 0..200)) {
            let (mut slab, mut lists) = (Slab::new(), [List::default(); 2]);
            let mut model: Vec<u32> = Vec::new();
            for (what, pick) in steps {
                match what {
                    0 => {
                        let at = u32::try_from(slab.insert(Item(Default::default()))).unwrap();
                        for (kind, list) in lists.iter_mut().enumerate() {
                            list.push(&mut slab, kind, at);
                        }
                        model.push(at);
                    }
                    _ if model.is_empty() => {}
                    1 => {
                        let at = model.remove(pick % model.len());
                        for (kind, list) in lists.iter_mut().enumerate() {
                            list.touch(&mut slab, kind, at);
                        }
                        model.push(at);
                    }
                    _ => {
                        let at = model.remove(pick % model.len());
                        for (kind, list) in lists.iter_mut().enumerate() {
                            list.unlink(&mut slab, kind, at);
                        }
                        slab.remove(at as usize);
                    }
                }
                for (kind, list) in lists.iter().enumerate() {
                    prop_assert_eq!(&walk(list, &mut slab, kind), &model);
                }
            }
        }
    }
}
