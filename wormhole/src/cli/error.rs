//! A wrong word, and how it is shown: the whole line with a caret under what is wrong.

use std::fmt::Write as _;
use std::ops::Range;

/// What is wrong with a `create` line, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WordError {
    /// One line: what is wrong.
    pub message: String,
    /// Index of the wrong word; the number of words when something is missing at the end.
    pub word: usize,
    /// Byte range of the wrong part within that word.
    pub span: Range<usize>,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// How to mend it, where there is more to say than a suggestion.
    pub hint: Option<String>,
}

impl WordError {
    /// `message` about all of word `index`.
    pub(super) fn at(words: &[String], index: usize, message: impl Into<String>) -> Self {
        let index = index.min(words.len());
        let span = 0..words.get(index).map_or(0, String::len);
        Self { message: message.into(), word: index, span, suggestion: None, hint: None }
    }

    pub(super) fn span(mut self, span: Range<usize>) -> Self {
        self.span = span;
        self
    }

    pub(super) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The one line after `hint:`.
    pub fn advice(&self) -> Option<String> {
        let meant = self.suggestion.as_ref().map(|suggestion| format!("did you mean \"{suggestion}\"?"));
        match (meant, &self.hint) {
            (Some(meant), Some(hint)) => Some(format!("{meant} {hint}")),
            (meant, hint) => meant.or_else(|| hint.clone()),
        }
    }

    /// The line as it was typed, and under it carets below the wrong part. `prefix` is what stands before the words.
    pub fn diagram(&self, prefix: &str, words: &[String]) -> String {
        let mut line = prefix.to_owned();
        let mut columns = None;
        for (index, word) in words.iter().enumerate() {
            if !line.is_empty() {
                line.push(' ');
            }
            let start = line.chars().count();
            let (shown, offsets) = show(word);
            if index == self.word {
                let from = start + offset(&offsets, word, self.span.start);
                let to = start + offset(&offsets, word, self.span.end);
                // Nothing inside the word is meant: all of it is.
                columns = Some(if self.span.is_empty() { (start, start + shown.chars().count()) } else { (from, to) });
            }
            line.push_str(&shown);
        }
        let end = line.chars().count() + usize::from(!line.is_empty());
        let (from, to) = columns.unwrap_or((end, end + 1));
        let mut text = line;
        let carets = to.saturating_sub(from).max(1);
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{:from$}{:^<carets$}", "", "");
        text
    }
}

/// A word as one would type it in a shell, and for each of its bytes (and its end) the column where it is shown.
fn show(word: &str) -> (String, Vec<usize>) {
    let bare = |c: char| c.is_alphanumeric() || "-_=/,.+:@%[]".contains(c);
    // Brackets mean something to a shell only where files match; an URL such as [::1]:80 reads better without quotes.
    let quoted = word.is_empty() || !word.chars().all(bare);
    let mut shown = String::from(if quoted { "'" } else { "" });
    let mut columns = shown.len();
    let mut offsets = vec![0; word.len() + 1];
    for (at, c) in word.char_indices() {
        if let Some(slots) = offsets.get_mut(at..at + c.len_utf8()) {
            slots.fill(columns);
        }
        let before = shown.len();
        match c {
            '\'' => shown.push_str("'\\''"),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        columns += shown[before..].chars().count();
    }
    if let Some(last) = offsets.last_mut() {
        *last = columns;
    }
    if quoted {
        shown.push('\'');
    }
    (shown, offsets)
}

fn offset(offsets: &[usize], word: &str, byte: usize) -> usize {
    offsets.get(byte.min(word.len())).copied().unwrap_or_default()
}

/// Words joined so that a shell reads the same words again.
pub fn join(words: &[String]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_=/,.+:@%".contains(c);
    let plain = |word: &str| !word.is_empty() && word.chars().all(bare);
    let quoted = words.iter().map(|word| if plain(word) { word.clone() } else { shell_words::quote(word).into_owned() });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_caret_is_under_the_wrong_part() {
        let line = words(&["url", ":80", "tial"]);
        let error = WordError::at(&line, 2, "x");
        assert_eq!(error.diagram("create", &line), "create url :80 tial\n               ^^^^");
        let error = WordError::at(&line, 1, "x").span(1..3);
        assert_eq!(error.diagram("", &line), "url :80 tial\n     ^^");
        assert_eq!(WordError::at(&line, 3, "x").diagram("", &line), "url :80 tial\n             ^");
        assert_eq!(WordError::at(&[], 0, "x").diagram("", &[]), "\n^");
    }

    #[test]
    fn quotes_move_the_caret() {
        let line = words(&["docker-run", "-e A='1 2' --gpus x"]);
        let at = line[1].find("--gpus").unwrap();
        let error = WordError::at(&line, 1, "x").span(at..at + 6);
        let diagram = error.diagram("", &line);
        let (text, carets) = diagram.split_once('\n').unwrap();
        assert_eq!(text, r"docker-run '-e A='\''1 2'\'' --gpus x'");
        assert_eq!(carets.find('^'), text.find("--gpus"));
        assert_eq!(carets.trim(), "^^^^^^");
    }

    #[test]
    fn control_characters_and_wide_spans_do_not_break_the_line() {
        let line = words(&["a\nb\u{7}", "ä ö"]);
        let error = WordError::at(&line, 1, "x").span(3..99);
        assert_eq!(error.diagram("", &line), "'a\\nb\\u{7}' 'ä ö'\n               ^");
        assert_eq!(error.clone().span(0..0).diagram("", &line).lines().last(), Some("            ^^^^^"));
    }

    #[test]
    fn a_shell_reads_the_joined_words_again() {
        let line = words(&["docker-run", "-e 'A=1 2' img", "", "$x", "a;b", "~", "*"]);
        assert_eq!(shell_words::split(&join(&line)).unwrap(), line);
    }
}
