//! `create --dry-run`: the segments as a tree.

use super::error::join;
use super::print::{print, print_options};
use crate::model::{End, Place, Proto, Spec, Url, Via};
use std::fmt::Write as _;

/// What `create` would do with `spec`.
pub fn plan(spec: &Spec) -> String {
    let mut out = String::from("plan, nothing has been done\n");
    let mut next = Some((spec, None::<&Via>));
    let mut machine = None;
    let mut prefix = String::new();
    // A loop: the depth is the user's. Every segment is the last branch of the one before it.
    while let Some((spec, via)) = next {
        if let Some(host) = via.and_then(host) {
            machine = Some(host);
        }
        let link = spec.link.as_deref();
        let title = match &spec.id {
            Some(id) => format!("segment {id}"),
            None => "segment".to_owned(),
        };
        line(&mut out, &prefix, "└─", &format!("{}{title}", via.map(relation).unwrap_or_default()));
        prefix.push_str("   ");
        let mut rows = vec![format!("listens on   {}", place(&spec.head, machine, "a free port"))];
        match link.map(|link| &link.via) {
            Some(via) if via.is_remote() => rows.push(format!("leads to     {}", hop(via))),
            _ => rows.push(format!("connects to  {}", place(&spec.tail, machine, "the port of the head"))),
        }
        if spec.trigger {
            rows.push("when         something first connects (trigger)".to_owned());
        }
        let options = print_options(&spec.options);
        if !options.is_empty() {
            rows.push(format!("options      {}", join(&options)));
        }
        for (index, row) in rows.iter().enumerate() {
            let last = link.is_none() && index + 1 == rows.len();
            line(&mut out, &prefix, if last { "└─" } else { "├─" }, row);
        }
        next = link.map(|link| (&link.spec, Some(&link.via)));
    }
    let mut words = print_options(&spec.options);
    words.extend(print(spec));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "with every default: wormhole create {}", join(&words));
    out
}

fn line(out: &mut String, prefix: &str, branch: &str, text: &str) {
    let _ = writeln!(out, "{prefix}{branch} {text}");
}

fn host(via: &Via) -> Option<&str> {
    match via {
        Via::Child | Via::Chain => None,
        Via::Remote { host } | Via::Tunnel { host } | Via::Udptunnel { host } => Some(host),
    }
}

fn relation(via: &Via) -> String {
    match via {
        Via::Child => "child: ".to_owned(),
        Via::Chain => "chain: ".to_owned(),
        Via::Remote { host } | Via::Tunnel { host } | Via::Udptunnel { host } => format!("on {host}: "),
    }
}

fn hop(via: &Via) -> String {
    match via {
        Via::Child | Via::Chain => "the next segment".to_owned(),
        Via::Remote { host } => format!("the daemon of {host} over TLS"),
        Via::Tunnel { host } => format!("the daemon of {host} through an IPsec tunnel (ESP)"),
        Via::Udptunnel { host } => format!("the daemon of {host} through an IPsec tunnel (ESP in UDP)"),
    }
}

/// An end in words; `unknown` is what port 0 means.
fn place(end: &End, machine: Option<&str>, unknown: &str) -> String {
    let url = Url { ns: None, ..Url::from(end) };
    let url = if end.proto != Proto::Unix && end.port == 0 {
        format!("{}, {unknown},", Url { port: None, ..url })
    } else {
        url.to_string()
    };
    let own = machine.map_or("on this host".to_owned(), |host| format!("on {host}"));
    let place = match &end.place {
        Place::Host => own,
        Place::Named { name } => format!("in the namespace {name} {own}"),
        Place::Pid { pid } => format!("in the namespace of process {pid} {own}"),
        Place::Docker { name } => format!("in the container {name} {own}"),
        Place::Run { args } => format!("in a new container {own}: docker run {}", args.escape_debug()),
        Place::Parent => "in the container that the segment above runs".to_owned(),
    };
    format!("{url} {place}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::cli::{parse, set_options};
    use crate::model::{Mode, Options};

    fn shown(line: &str, options: &Options) -> String {
        let mut spec = parse(&shell_words::split(line).unwrap()).unwrap();
        set_options(&mut spec, options);
        plan(&spec)
    }

    #[test]
    fn one_segment() {
        assert_eq!(
            shown("id db url unix:///run/a tail url blue@:80", &Options::default()),
            "\
plan, nothing has been done
└─ segment db
   ├─ listens on   unix:///run/a on this host
   └─ connects to  tcp://127.0.0.1:80 in the namespace blue on this host
with every default: wormhole create id db url unix:///run/a tail url tcp://blue@127.0.0.1:80
"
        );
    }

    #[test]
    fn a_tree_with_triggers_and_another_machine() {
        let options = Options { fastpath: Some(Mode::Off), idle_stop_ms: Some(90_000), ..Options::default() };
        let line = "trigger docker-run '-e A=1 wp' url :80 child url :3306 tunnel srv tail docker-ns db";
        assert_eq!(
            shown(line, &options),
            "\
plan, nothing has been done
└─ segment
   ├─ listens on   tcp://127.0.0.1, a free port, on this host
   ├─ connects to  tcp://127.0.0.1:80 in a new container on this host: docker run -e A=1 wp
   ├─ when         something first connects (trigger)
   ├─ options      --fastpath off --idle-stop 1m30s
   └─ child: segment
      ├─ listens on   tcp://127.0.0.1:3306 in the container that the segment above runs
      ├─ leads to     the daemon of srv through an IPsec tunnel (ESP)
      ├─ options      --fastpath off --idle-stop 1m30s
      └─ on srv: segment
         ├─ listens on   tcp://127.0.0.1:3306 on srv
         ├─ connects to  tcp://127.0.0.1:3306 in the container db on srv
         └─ options      --fastpath off --idle-stop 1m30s
with every default: wormhole create --fastpath off --idle-stop 1m30s url tcp://127.0.0.1:0 trigger \
url tcp://127.0.0.1:80 docker-run '-e A=1 wp' child url tcp://127.0.0.1:3306 tunnel srv url tcp://127.0.0.1:3306 \
tail url tcp://docker:db@127.0.0.1:3306
"
        );
    }
}
