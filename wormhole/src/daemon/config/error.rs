//! What can be wrong with a setting, and where it came from.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a text came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag {
        /// `--udp-ports`.
        flag: String,
    },
    /// The environment.
    Environment {
        /// `WORMHOLE_UDP_PORTS`.
        variable: String,
    },
    /// The file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line of the value, from 1.
        line: usize,
        /// `udp-ports`.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => f.write_str(flag),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// Why there is no configuration. Exit code 2 but for `--help` and `--version`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What clap found: unknown flags, missing values, and `--help`.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// The file that was named cannot be read.
    #[error("read {}: {source}: {}", .path.display(), hint(.source))]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {message}", .path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The file holds a key that is no setting.
    #[error("{}:{line}: unknown setting `{key}`{}", .path.display(), did_you_mean(.nearest.as_ref()))]
    UnknownKey {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        key: String,
        /// The setting that is written most alike.
        nearest: Option<&'static str>,
    },
    /// A value that is wrong, wherever it came from.
    #[error("{origin} {problem}")]
    Value {
        /// Where it came from.
        origin: Origin,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl ConfigError {
    pub(super) fn value(origin: &Origin, problem: String, value: Option<&str>) -> Self {
        let problem = match value {
            Some(value) => format!("`{}`: {problem}", value.escape_debug()),
            None => problem,
        };
        Self::Value { origin: origin.clone(), problem }
    }

    /// 0 for `--help` and `--version`, 2 for everything else.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Usage(error) => error.exit_code(),
            _ => 2,
        }
    }

    /// Writes it where it belongs: help and version to stdout, errors to stderr.
    pub fn report(&self) {
        match self {
            // Nothing can be done when even this cannot be written.
            Self::Usage(error) => drop(error.print()),
            error => eprintln!("wormholed: {error}"),
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "check the path given with --config",
        io::ErrorKind::PermissionDenied => "run wormholed as root, or make it readable",
        io::ErrorKind::InvalidData => "a configuration is UTF-8 text",
        _ => "it must be a readable file of at most 1 MiB",
    }
}

fn did_you_mean(nearest: Option<&&'static str>) -> String {
    nearest.map_or_else(|| "; see `wormholed --help` for all of them".to_owned(), |near| format!(", did you mean `{near}`?"))
}

/// The candidate that is written most like `word`, if any is alike at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Jaro-Winkler takes a shortened word for alike, Damerau-Levenshtein a mistyped one.
    let score = |c: &str| strsim::jaro_winkler(word, c).max(strsim::normalized_damerau_levenshtein(word, c));
    let best = candidates.max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.75).then_some(best)
}
