//! What must hold for any words at all; the fuzz target and the property tests both call it.

use super::{parse, print};

/// Takes `data` as words, one a line, and parses them.
///
/// # Errors
/// The property that does not hold: printing and parsing again changes the meaning, or the diagram of an error does not
/// show the wrong word.
pub fn check(data: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(data);
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    check_words(&words)
}

/// As [`check`], for words.
///
/// # Errors
/// As [`check`].
pub fn check_words(words: &[String]) -> Result<(), String> {
    let spec = match parse(words) {
        Ok(spec) => spec,
        Err(error) => {
            let diagram = error.diagram("wormhole create", words);
            let (line, carets) = diagram.split_once('\n').ok_or("the diagram has one line only")?;
            if error.word > words.len() || !carets.ends_with('^') || carets.len() > line.chars().count() + 2 {
                return Err(format!("the caret is not under a word:\n{diagram}"));
            }
            return Ok(());
        }
    };
    let printed = print(&spec);
    match parse(&printed) {
        Ok(again) if again == spec => Ok(()),
        Ok(again) => Err(format!("{words:?}\nprinted as {printed:?}\nreads as {again:?}\ninstead of {spec:?}")),
        Err(error) => Err(format!("{words:?}\nprinted as {printed:?}\nis refused: {}", error.diagram("", &printed))),
    }
}
