//! Figures and texts as people read them.

/// Bytes in powers of 1024 with three digits: `0 B`, `1.46 KiB`, `12.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // The loss of precision is far below the three digits that are shown.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // 1023.6 would be shown as 1024.
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// Seconds in the two largest units: `0s`, `1m 5s`, `3d 4h`.
pub fn seconds(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut shown = Vec::new();
    for (name, size) in units.iter().skip(first).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 || shown.is_empty() {
            shown.push(format!("{count}{name}"));
        }
    }
    shown.join(" ")
}

/// A text from elsewhere without what would move the cursor or change colours.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Ids of containers, 64 hexadecimal digits, as `docker ps` shows them: the first 12 digits, which name them as well.
pub fn short_ids(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
        out.push_str(&rest[..if run == 64 { 12 } else { run }]);
        rest = &rest[run..];
        let other = rest.find(is_digit).unwrap_or(rest.len());
        out.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn figures() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1500, "1.46 KiB"),
            (10 * 1024, "10.0 KiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (12 << 20, "12.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (65, "1m 5s"), (3600, "1h"), (3661, "1h 1m"), (273_600, "3d 4h")] {
            assert_eq!(seconds(n), text);
        }
        let id = "415c71a5b166f1efe163bcbc800ac7c0a5b9406fc73951017b07a19ec2cad4da";
        let (url, short) = (format!("tcp://docker:{id}@[::1]:80"), "tcp://docker:415c71a5b166@[::1]:80");
        assert_eq!(short_ids(&url), short);
        assert_eq!(short_ids(short), short);
        assert_eq!(short_ids(&format!("{id}0 é {id}")), format!("{id}0 é 415c71a5b166"));
        assert_eq!(clean("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
    }
}
