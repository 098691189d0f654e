//! A [`Spec`] as the words that mean it: `parse(print(spec))` is `spec` again, except for its options.

use super::lex::Word;
use crate::model::{End, Options, Place, Spec, Url, Via};

/// The words of `spec`, every default written out.
pub fn print(spec: &Spec) -> Vec<String> {
    let mut out = Vec::new();
    let mut base = Place::Host;
    let mut next = Some(spec);
    while let Some(spec) = next {
        let link = spec.link.as_deref();
        if let Some(id) = &spec.id {
            put(&mut out, Word::Id);
            out.push(id.clone());
        }
        end(&mut out, &spec.head, &base);
        if spec.trigger {
            put(&mut out, Word::Trigger);
        }
        match link.map(|link| (&link.via, &link.spec.head.place)) {
            // These tails follow from the next head; only a container that is to be run is said here.
            Some((Via::Chain, Place::Parent)) => {
                if !spec.trigger {
                    put(&mut out, Word::Tail);
                }
                place(&mut out, &spec.tail.place, &Place::Host);
            }
            Some((via, _)) if via.is_remote() || *via == Via::Chain => {}
            _ => {
                if !spec.trigger {
                    put(&mut out, Word::Tail);
                }
                end(&mut out, &spec.tail, &Place::Host);
            }
        }
        if let Some(link) = link {
            via(&mut out, &link.via);
            base = match (&link.via, &link.spec.head.place, &spec.tail.place) {
                (Via::Chain, Place::Parent, _) | (Via::Child, _, Place::Run { .. }) => Place::Parent,
                (Via::Child, _, tail) => tail.clone(),
                _ => Place::Host,
            };
        }
        next = link.map(|link| &link.spec);
    }
    out
}

/// The options of `create` that set `options`.
pub fn print_options(options: &Options) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(mode) = options.fastpath {
        let mode = format!("{mode:?}").to_lowercase();
        out.extend(["--fastpath".to_owned(), mode]);
    }
    for (name, value) in [
        ("--idle-timeout", options.idle_timeout_ms),
        ("--udp-timeout", options.udp_timeout_ms),
        ("--connect-timeout", options.connect_timeout_ms),
        ("--start-timeout", options.start_timeout_ms),
        ("--idle-stop", options.idle_stop_ms),
    ] {
        if let Some(ms) = value {
            let duration = humantime::format_duration(std::time::Duration::from_millis(ms));
            out.extend([name.to_owned(), duration.to_string().replace(' ', "")]);
        }
    }
    out
}

fn put(out: &mut Vec<String>, word: Word) {
    out.push(word.as_str().to_owned());
}

fn end(out: &mut Vec<String>, end: &End, base: &Place) {
    put(out, Word::Url);
    out.push(Url::from(end).to_string());
    place(out, &end.place, base);
}

/// What an URL cannot say about a namespace.
fn place(out: &mut Vec<String>, place: &Place, base: &Place) {
    match place {
        Place::Run { args } => {
            put(out, Word::DockerRun);
            out.push(args.clone());
        }
        // Always followed by another word, which makes it the host's own namespace.
        Place::Host if *base != Place::Host => put(out, Word::DockerNs),
        Place::Host | Place::Named { .. } | Place::Pid { .. } | Place::Docker { .. } | Place::Parent => {}
    }
}

fn via(out: &mut Vec<String>, via: &Via) {
    let (word, host) = match via {
        Via::Child => (Word::Child, None),
        Via::Chain => (Word::Chain, None),
        Via::Remote { host } => (Word::Remote, Some(host)),
        Via::Tunnel { host } => (Word::Tunnel, Some(host)),
        Via::Udptunnel { host } => (Word::Udptunnel, Some(host)),
    };
    put(out, word);
    out.extend(host.cloned());
}
