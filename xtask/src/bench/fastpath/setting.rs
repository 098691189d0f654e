//! Where the fast path is measured, and what is measured there.

use crate::bench::columns::{self, Column};
use crate::bench::peers::{self, Peer};
use anyhow::{Result, bail};

/// Between what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Client and server on the host.
    Host,
    /// From one container to another one.
    Between,
    /// From the host into a container.
    Into,
    /// A connection that has nothing to do with wormhole.
    Unrelated,
}

impl Setting {
    /// All, in the order of the output.
    pub const ALL: [Self; 4] = [Self::Host, Self::Between, Self::Into, Self::Unrelated];

    /// Name on the command line and in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Between => "c2c",
            Self::Into => "h2c",
            Self::Unrelated => "unrelated",
        }
    }

    /// What it is.
    pub fn about(self) -> &'static str {
        match self {
            Self::Host => "client and server on the host",
            Self::Between => "container to container",
            Self::Into => "host to container",
            Self::Unrelated => "a connection that is none of wormhole's, with and without wormholed",
        }
    }

    /// Whether it needs containers.
    pub fn has_containers(self) -> bool {
        matches!(self, Self::Between | Self::Into)
    }

    /// Everything that can be measured there, as variants.
    pub fn peers(self) -> &'static [&'static dyn Peer] {
        match self {
            Self::Host => peers::HOST,
            Self::Between => peers::BETWEEN,
            Self::Into => peers::INTO,
            // Made by itself: variants there are not ways but times.
            Self::Unrelated => &[],
        }
    }

    /// The variants unless the arguments say otherwise: of the other proxies the best ones.
    pub fn by_default(self) -> Vec<&'static str> {
        let names = self.peers().iter().map(|peer| peer.name());
        names.filter(|name| self != Self::Host || !peers::is_proxy(name) || BEST.contains(name)).collect()
    }

    /// The columns unless the arguments name some.
    fn includes(self, column: &Column, quick: bool) -> bool {
        let few = ["size64", "size4k", "size64k", "size64k_cpu", "size1m", "one64k", "one64k_cpu"];
        let all_sizes = self == Self::Host && !quick;
        match self {
            // On one cpu, where the scheduler has no say: the difference looked for is small.
            Self::Unrelated => ["conn1", "one64k"].contains(&column.id),
            Self::Into if column.group == columns::APPS => false,
            // The share of bytes is told beside the speed, and costs nothing.
            _ => all_sizes || !["sizes", "onecpu"].contains(&column.group) || few.contains(&column.id),
        }
    }
}

/// The other proxies that are best at something: at connections and small messages, and at streams.
const BEST: [&str; 2] = [peers::HAPROXY, peers::SOCKET_PROXYD];

/// What is to be measured where.
pub type Choice = Vec<(Setting, Vec<&'static Column>)>;

/// Reads `--only`: names of settings, and of columns or their groups.
pub fn choose(only: &[String], quick: bool) -> Result<Choice> {
    let is_setting = |word: &&String| Setting::ALL.iter().any(|setting| setting.name() == **word);
    let (settings, words): (Vec<&String>, Vec<&String>) = only.iter().partition(is_setting);
    let words: Vec<String> = words.into_iter().cloned().collect();
    let columns = match columns::select(columns::FASTPATH, &words, &[]) {
        Ok(columns) => columns,
        Err(error) => bail!("{error}; and host, c2c, h2c, unrelated"),
    };
    let wanted = |setting: &Setting| settings.is_empty() || settings.iter().any(|name| *name == setting.name());
    let choice = Setting::ALL.into_iter().filter(wanted).map(|setting| {
        let by_default = words.is_empty() || setting == Setting::Unrelated;
        let own = columns.iter().copied().filter(|column| !by_default || setting.includes(column, quick));
        (setting, own.collect::<Vec<_>>())
    });
    Ok(choice.filter(|(_, columns)| !columns.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], quick: bool) -> Result<Vec<(&'static str, usize)>> {
        let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
        Ok(choose(&only, quick)?.into_iter().map(|(setting, columns)| (setting.name(), columns.len())).collect())
    }

    #[test]
    fn settings_and_columns() -> Result<()> {
        assert_eq!(names(&["host", "rtt1"], false)?, [("host", 1)]);
        assert_eq!(names(&["mariadb"], false)?, [("host", 1), ("c2c", 1), ("h2c", 1)]);
        assert_eq!(names(&["unrelated"], false)?, [("unrelated", 2)]);
        let (full, quick) = (names(&[], false)?, names(&[], true)?);
        assert_eq!(full.len(), Setting::ALL.len());
        assert!(quick[0].1 < full[0].1);
        assert!(names(&["everywhere"], false).is_err_and(|error| error.to_string().contains("h2c")));
        Ok(())
    }

    #[test]
    fn the_best_proxies_by_default() {
        let host = Setting::Host.by_default();
        assert_eq!(
            host,
            [peers::DIRECT, peers::UNIX_PAIR, peers::WORMHOLE, peers::RELAY, peers::CHAIN, peers::HAPROXY, peers::SOCKET_PROXYD]
        );
        assert!(Setting::Into.by_default().contains(&"published"));
    }
}
