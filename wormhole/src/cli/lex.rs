//! The words of the language, and the nearest one to a word that is none.

/// A word of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// `url URL`
    Url,
    /// `id ID`
    Id,
    /// `docker-ns [CONTAINER]`
    DockerNs,
    /// `docker-run ARGS`
    DockerRun,
    /// `child`
    Child,
    /// `chain`
    Chain,
    /// `remote HOST`
    Remote,
    /// `tunnel HOST`
    Tunnel,
    /// `udptunnel HOST`
    Udptunnel,
    /// `tail`
    Tail,
    /// `trigger`
    Trigger,
}

impl Word {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Url,
        Self::Id,
        Self::DockerNs,
        Self::DockerRun,
        Self::Child,
        Self::Chain,
        Self::Remote,
        Self::Tunnel,
        Self::Udptunnel,
        Self::Tail,
        Self::Trigger,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Id => "id",
            Self::DockerNs => "docker-ns",
            Self::DockerRun => "docker-run",
            Self::Child => "child",
            Self::Chain => "chain",
            Self::Remote => "remote",
            Self::Tunnel => "tunnel",
            Self::Udptunnel => "udptunnel",
            Self::Tail => "tail",
            Self::Trigger => "trigger",
        }
    }

    /// The word that `text` is, if it is one.
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.as_str() == text)
    }
}

/// What to say about a text that stands where a word is expected and is none.
pub fn suggest(text: &str) -> Option<String> {
    let looks_like_url = text.contains("://")
        || text.contains('@')
        || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
        || text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if looks_like_url {
        return Some(format!("url {text}"));
    }
    if text.parse::<u16>().is_ok() {
        return Some(format!("url :{text}"));
    }
    if text.starts_with('/') {
        return Some(format!("url unix://{text}"));
    }
    nearest(text, &Word::ALL.map(Word::as_str)).map(str::to_owned)
}

/// The candidate that was probably meant, if any is near enough.
pub fn nearest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // The distance is quadratic in the length; nothing that long is a slip of the finger.
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    let text = text.to_lowercase().replace('_', "-");
    let near = candidates.iter().filter_map(|candidate| {
        let steps = strsim::damerau_levenshtein(&text, candidate);
        let likeness = strsim::jaro_winkler(&text, candidate);
        // One slip in three letters, two in six; or a common beginning (`docker`).
        let close = steps <= candidate.len().div_ceil(4).max(1) || likeness > 0.88;
        close.then_some((steps, likeness, *candidate))
    });
    near.min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1))).map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_word_reads_itself() {
        for word in Word::ALL {
            assert_eq!(Word::read(word.as_str()), Some(word));
        }
        assert_eq!(Word::read("Tail"), None);
    }

    #[test]
    fn the_nearest_word() {
        for (text, expected) in [
            ("tial", Some("tail")),
            ("TAIL", Some("tail")),
            ("docker_ns", Some("docker-ns")),
            ("dockerrun", Some("docker-run")),
            ("uri", Some("url")),
            ("triger", Some("trigger")),
            ("chian", Some("chain")),
            ("udp-tunnel", Some("udptunnel")),
            (":80", Some("url :80")),
            ("3306", Some("url :3306")),
            ("/run/x", Some("url unix:///run/x")),
            ("web:80", Some("url web:80")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(suggest(text).as_deref(), expected, "{text}");
        }
    }
}
