//! The TOML file: which keys there may be, of which type, and on which line they stand.

use super::SETTINGS;
use super::error::{ConfigError, Origin, nearest};
use super::parse::Text;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A larger file is none of ours.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads the named file, which must be there, or the default one, which need not. Returns which one was read.
pub(super) fn read(
    named: Option<&Path>,
    default: &Path,
    into: &mut BTreeMap<&'static str, Text>,
) -> Result<Option<PathBuf>, ConfigError> {
    let path = named.unwrap_or(default);
    let text = match slurp(path) {
        Ok(text) => text,
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
    };
    parse(path, &text, into)?;
    Ok(Some(path.into()))
}

fn slurp(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str, into: &mut BTreeMap<&'static str, Text>) -> Result<(), ConfigError> {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
        path: path.into(),
        line: line(e.span().map_or(0, |span| span.start)),
        message: e.message().to_owned(),
    })?;
    // By position, so that the first of several mistakes is the one that is named.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let Some(setting) = SETTINGS.iter().copied().find(|s| *s == name) else {
            // Underscores are the usual slip.
            let near = nearest(&name.replace('_', "-"), SETTINGS.iter().copied());
            return Err(ConfigError::UnknownKey {
                path: path.into(),
                line: line(key.span().start),
                key: name.escape_debug().to_string(),
                nearest: near.and_then(|near| SETTINGS.iter().copied().find(|s| *s == near)),
            });
        };
        let origin = Origin::File { path: path.into(), line: line(value.span().start), key: setting.to_owned() };
        let values = texts(setting, value)
            .map_err(|found| ConfigError::value(&origin, format!("is {found}, {} is expected", expected(setting)), None))?;
        into.insert(setting, Text { values, origin });
    }
    Ok(())
}

/// The value as texts, or what it is instead.
fn texts(setting: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    match value.get_ref() {
        DeValue::Integer(number) if is_number(setting) => {
            Ok(vec![i128::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |n| n.to_string())])
        }
        // A duration of 0 switches something off; another one needs a unit, and its parser says so.
        DeValue::Integer(number) if is_duration(setting) => Ok(vec![number.as_str().to_owned()]),
        DeValue::String(text) if !is_number(setting) => Ok(vec![text.to_string()]),
        DeValue::Array(items) if setting == "host" => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or("a list that holds something else than strings"))
            .collect(),
        other => Err(kind(other)),
    }
}

fn is_number(setting: &str) -> bool {
    matches!(setting, "max-connections" | "workers" | "max-udp-sessions" | "fastpath-pairs" | "fastpath-gather")
}

fn is_duration(setting: &str) -> bool {
    matches!(setting, "drain" | "idle-timeout" | "udp-timeout" | "connect-timeout" | "keepalive" | "user-timeout")
}

fn expected(setting: &str) -> &'static str {
    match setting {
        "host" => "a list of strings, e.g. [\"tcp://0.0.0.0:9999\", \"unix:///run/wormhole/wormhole.sock\"],",
        "fastpath" => "\"auto\", \"on\" or \"off\"",
        "log-format" => "\"plain\" or \"json\"",
        setting if is_number(setting) => "a number without quotes",
        setting if is_duration(setting) => "a duration in quotes, e.g. \"30s\",",
        _ => "a string in quotes",
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
