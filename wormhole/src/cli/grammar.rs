//! The language of `wormhole create`: words, read left to right, change a current segment.
//!
//! [`parse`] reads in two steps: the words into drafts that hold only what was given, then the drafts into a [`Spec`]
//! that is complete with defaults. Only the second step knows how a segment's head follows from its parent's tail.

use super::check;
use super::error::WordError;
use super::lex::{Word, nearest, suggest};
use crate::model::{End, Host, Link, Options, Place, Proto, RunSpec, Spec, Url, Via, is_container, is_segment_id};

/// Segments in one line. Bounds the depth of what crosses the wire; real lines have two or three.
pub const MAX_SEGMENTS: usize = 32;

/// Reads the words of one `create` line.
///
/// # Errors
/// The first word that is wrong, with what would be right.
pub fn parse(words: &[String]) -> Result<Spec, WordError> {
    let mut reader = Reader { words, at: 0, done: Vec::new(), current: Draft::default() };
    while let Some(text) = words.get(reader.at) {
        let index = reader.at;
        reader.at += 1;
        match Word::read(text) {
            Some(word) => reader.apply(word, index)?,
            None => return Err(reader.unknown(text, index)),
        }
    }
    if words.is_empty() {
        return Err(WordError::at(words, 0, "nothing to create: no words").hint("see `wormhole help create` for the language"));
    }
    let mut drafts = reader.done;
    drafts.push(reader.current);
    let parts = complete(&drafts);
    check::check(words, &drafts, &parts)?;
    Ok(nest(drafts, parts))
}

/// Gives every segment of `spec` the same options.
pub fn set_options(spec: &mut Spec, options: &Options) {
    let mut next = Some(spec);
    while let Some(spec) = next {
        spec.options = options.clone();
        next = spec.link.as_mut().map(|link| &mut link.spec);
    }
}

/// What the words gave for one end.
#[derive(Debug, Default)]
pub(super) struct Given {
    proto: Option<Proto>,
    place: Option<Place>,
    host: Option<Host>,
    port: Option<u16>,
    path: Option<String>,
    /// Index of the last word that changed it.
    pub(super) by: Option<usize>,
}

/// What the words gave for one segment.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// How it hangs on the one before it.
    pub(super) via: Option<Via>,
    /// Index of its first word: the link, except for the root.
    pub(super) start: usize,
    pub(super) id: Option<(String, usize)>,
    pub(super) head: Given,
    pub(super) tail: Given,
    /// Index of the word that began the tail.
    pub(super) tail_at: Option<usize>,
    trigger: bool,
}

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    done: Vec<Draft>,
    current: Draft,
}

// === impl Reader ===

impl Reader<'_> {
    fn apply(&mut self, word: Word, index: usize) -> Result<(), WordError> {
        match word {
            Word::Url => {
                let text = self.argument(word, "an URL such as :3306")?;
                let url = text.parse::<Url>().map_err(|error| {
                    let unknown = error.message.starts_with("unknown");
                    let part = text.get(error.span.clone()).filter(|_| unknown).unwrap_or_default();
                    let near = nearest(part, &["tcp", "udp", "unix", "pid", "docker"]).map(str::to_owned);
                    self.wrong(self.at - 1, error.message).span(error.span).suggest(near)
                })?;
                self.url(url)
            }
            Word::Id => self.id(),
            Word::DockerNs => {
                let place = match self.words.get(self.at) {
                    Some(text) if Word::read(text).is_none() => {
                        self.at += 1;
                        if !is_container(text) {
                            let message = if text.is_empty() {
                                "an empty word is not the id or name of a container: an unset variable of the shell?".to_owned()
                            } else {
                                format!("`{text}` is not the id or name of a container")
                            };
                            let near = suggest(text).filter(|near| near.starts_with("url "));
                            return Err(self.wrong(self.at - 1, message).suggest(near));
                        }
                        Place::Docker { name: text.clone() }
                    }
                    // `docker-ns` alone is the host's own namespace.
                    _ => Place::Host,
                };
                self.place(place)
            }
            Word::DockerRun => {
                let args = self.argument(word, "ARGS, quoted as one word: docker-run \"-e A=B IMAGE\"")?;
                args.parse::<RunSpec>().map_err(|error| {
                    let culprit = error.culprit.as_deref().filter(|culprit| !culprit.is_empty());
                    let span = culprit.and_then(|culprit| Some(args.find(culprit)?..args.find(culprit)? + culprit.len()));
                    let wrong = self.wrong(self.at - 1, error.message).span(span.unwrap_or(0..args.len()));
                    let wrong = wrong.suggest(error.suggestion);
                    if args.contains(' ') { wrong } else { wrong.hint("ARGS is one word: docker-run \"-e A=B IMAGE\"") }
                })?;
                self.place(Place::Run { args })
            }
            Word::Tail | Word::Trigger => self.tail(word, index),
            Word::Child => self.link(Via::Child, index),
            Word::Chain => self.link(Via::Chain, index),
            Word::Remote => self.host(word).and_then(|host| self.link(Via::Remote { host }, index)),
            Word::Tunnel => self.host(word).and_then(|host| self.link(Via::Tunnel { host }, index)),
            Word::Udptunnel => self.host(word).and_then(|host| self.link(Via::Udptunnel { host }, index)),
        }
    }

    fn wrong(&self, index: usize, message: impl Into<String>) -> WordError {
        WordError::at(self.words, index, message)
    }

    fn unknown(&self, text: &str, index: usize) -> WordError {
        if text.trim().is_empty() {
            return self.wrong(index, "an empty word").hint("an unset variable of the shell?");
        }
        let error = self.wrong(index, format!("`{text}` is not a word of the language"));
        if text.split_whitespace().next().and_then(Word::read).is_some() {
            return error.hint(format!("quotes make one word of it: write {} without them", text.trim()));
        }
        match suggest(text) {
            Some(near) => error.suggest(Some(near)),
            None => error.hint(format!("the words are {}", Word::ALL.map(Word::as_str).join(", "))),
        }
    }

    /// The word after `word`, which must not be one of the language: it was forgotten then.
    fn argument(&mut self, word: Word, what: &str) -> Result<String, WordError> {
        let Some(text) = self.words.get(self.at) else {
            return Err(self.wrong(self.at, format!("`{}` needs {what}", word.as_str())));
        };
        if Word::read(text).is_some() {
            let message = format!("`{}` needs {what}, but `{text}` is a word of the language", word.as_str());
            return Err(self.wrong(self.at, message));
        }
        self.at += 1;
        Ok(text.clone())
    }

    /// The HOST of `remote`, `tunnel` and `udptunnel`.
    fn host(&mut self, word: Word) -> Result<String, WordError> {
        let text = self.argument(word, "a HOST")?;
        let index = self.at - 1;
        let url = text.parse::<Url>().map_err(|error| self.wrong(index, error.message).span(error.span))?;
        if url.host.is_none() || url.proto.is_some() || url.ns.is_some() || url.port == Some(0) {
            return Err(self.wrong(index, format!("`{text}` is not a HOST: write a name or an address, with :PORT if need be")));
        }
        Ok(url.to_string())
    }

    fn id(&mut self) -> Result<(), WordError> {
        let text = self.argument(Word::Id, "an ID")?;
        let index = self.at - 1;
        if !is_segment_id(&text) {
            let message = format!("`{text}` is not an id: 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first");
            return Err(self.wrong(index, message));
        }
        if self.current.id.is_some() {
            return Err(self.wrong(index, "the segment already has an id"));
        }
        if self.done.iter().any(|draft| draft.id.as_ref().is_some_and(|(id, _)| *id == text)) {
            return Err(self.wrong(index, format!("the id `{text}` is already used in this line")));
        }
        self.current.id = Some((text, index));
        Ok(())
    }

    /// The end that words change now.
    fn end(&mut self) -> &mut Given {
        if self.current.tail_at.is_some() { &mut self.current.tail } else { &mut self.current.head }
    }

    /// A part that was given before; the usual reason is a forgotten `tail`.
    fn twice(&self, what: &str) -> WordError {
        let (end, hint) = if self.current.tail_at.is_some() {
            ("tail", "a further segment begins with `child` or `chain`")
        } else {
            ("head", "is a `tail` missing before it?")
        };
        self.wrong(self.at - 1, format!("the {end}'s {what} is already given")).hint(hint)
    }

    fn url(&mut self, url: Url) -> Result<(), WordError> {
        let index = self.at - 1;
        let end = self.end();
        let twice = [
            (url.ns.is_some() && end.place.is_some(), "namespace"),
            (url.port.is_some() && end.port.is_some(), "port"),
            (url.host.is_some() && end.host.is_some(), "host"),
            (url.proto.is_some() && end.proto.is_some(), "protocol"),
        ];
        if let Some((_, what)) = twice.iter().find(|(twice, _)| *twice) {
            return Err(self.twice(what));
        }
        end.proto = url.proto.or(end.proto);
        end.place = url.ns.map(Place::from).or(end.place.take());
        end.host = url.host.or(end.host.take());
        end.port = url.port.or(end.port);
        end.path = url.path.or(end.path.take());
        end.by = Some(index);
        if end.proto == Some(Proto::Unix) && (end.host.is_some() || end.port.is_some()) {
            return Err(self.wrong(index, "a unix socket has neither host nor port"));
        }
        Ok(())
    }

    fn place(&mut self, place: Place) -> Result<(), WordError> {
        let index = self.at - 1;
        let end = self.end();
        if end.place.is_some() {
            return Err(self.twice("namespace"));
        }
        end.place = Some(place);
        end.by = Some(index);
        Ok(())
    }

    fn tail(&mut self, word: Word, index: usize) -> Result<(), WordError> {
        let again = match word {
            // `tail … trigger …` is fine: the first words of the tail set what is known, the trigger does the rest.
            Word::Trigger => self.current.trigger,
            _ => self.current.tail_at.is_some(),
        };
        if again {
            let message = format!("`{}`: the tail has already begun", word.as_str());
            return Err(self.wrong(index, message).hint("a further segment begins with `child` or `chain`"));
        }
        self.current.tail_at.get_or_insert(index);
        self.current.trigger = word == Word::Trigger;
        Ok(())
    }

    fn link(&mut self, via: Via, index: usize) -> Result<(), WordError> {
        if self.done.len() + 1 >= MAX_SEGMENTS {
            return Err(self.wrong(index, format!("more than {MAX_SEGMENTS} segments in one line")));
        }
        if via.is_remote() && self.current.tail.place.is_some() {
            let by = self.current.tail.by.unwrap_or(index);
            return Err(self
                .wrong(by, "the tail has a namespace, but it leads to another machine")
                .hint(format!("write it after `{}`", self.words.get(index).map_or("", String::as_str))));
        }
        let next = Draft { via: Some(via), start: index, ..Draft::default() };
        self.done.push(std::mem::replace(&mut self.current, next));
        Ok(())
    }
}

// === impl Given ===

impl Given {
    /// The end that `base` becomes when it is changed by what was given.
    fn over(&self, base: &End) -> End {
        let place = self.place.clone().unwrap_or_else(|| base.place.clone());
        let addressed = self.host.is_some() || self.port.is_some();
        let proto = match self.proto {
            Some(proto) => proto,
            // `:80` where a unix socket would be inherited: nothing but a port was meant.
            None if addressed && base.proto == Proto::Unix => Proto::Tcp,
            None => base.proto,
        };
        if proto == Proto::Unix {
            let path = self.path.clone().unwrap_or_else(|| base.path.clone());
            return End { proto, place, path, ..End::local() };
        }
        let host = self.host.clone().unwrap_or_else(|| base.host.clone());
        let port = self.port.unwrap_or(base.port);
        End { proto, place, host, port, path: String::new() }
    }

    /// True when a namespace was asked for.
    pub(super) fn has_place(&self) -> bool {
        self.place.is_some()
    }

    /// True when a container that is to be run was asked for.
    pub(super) fn runs(&self) -> bool {
        matches!(self.place, Some(Place::Run { .. }))
    }
}

/// Head and tail of every draft, complete with defaults.
fn complete(drafts: &[Draft]) -> Vec<(End, End)> {
    let mut ends: Vec<(End, End)> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let base = match (&draft.via, ends.last()) {
            (Some(via), Some((_, tail))) => below(tail, via),
            _ => End::local(),
        };
        let head = draft.head.over(&base);
        // The tail has the head's protocol and port (or path), but neither its namespace nor its host.
        let base = End { place: Place::Host, host: Host::localhost(), ..head.clone() };
        let tail = draft.tail.over(&base);
        ends.push((head, tail));
    }
    // Only now are the heads known that the tails of chains and of remote hops lead to.
    for (index, draft) in drafts.iter().enumerate().skip(1) {
        let Some((before, [(head, _), ..])) = ends.split_at_mut_checked(index) else { continue };
        let Some((_, tail)) = before.last_mut() else { continue };
        match &draft.via {
            Some(Via::Chain) => {
                let place = match &head.place {
                    // Still the container that the parent's tail runs.
                    Place::Parent => tail.place.clone(),
                    place => place.clone(),
                };
                if matches!(head.place, Place::Run { .. }) {
                    // One container, not two: the parent's tail runs it and the child's head is in it.
                    head.place = Place::Parent;
                }
                *tail = End { place, ..head.clone() };
            }
            Some(via) if via.is_remote() => *tail = End { place: Place::Host, ..head.clone() },
            _ => {}
        }
    }
    ends
}

/// Where the head of the next segment starts from.
fn below(tail: &End, via: &Via) -> End {
    let place = match &tail.place {
        _ if via.is_remote() => Place::Host,
        Place::Run { .. } | Place::Parent => Place::Parent,
        place => place.clone(),
    };
    End { place, ..tail.clone() }
}

/// The drafts as one spec, each in the link of the one before it.
fn nest(drafts: Vec<Draft>, ends: Vec<(End, End)>) -> Spec {
    let mut link = None;
    let mut root = None;
    for (draft, (head, tail)) in drafts.into_iter().zip(ends).rev() {
        let id = draft.id.map(|(id, _)| id);
        let spec = Spec { id, head, tail, trigger: draft.trigger, link: link.take(), options: Options::default() };
        match draft.via {
            Some(via) => link = Some(Box::new(Link { via, spec })),
            None => root = Some(spec),
        }
    }
    // The first draft is the root and the only one without a link.
    root.unwrap_or_else(|| Spec {
        id: None,
        head: End::local(),
        tail: End::local(),
        trigger: false,
        link: None,
        options: Options::default(),
    })
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "wrong_tests.rs"]
mod wrong;
