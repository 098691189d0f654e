//! Segments and the daemon as tables and sheets.

use super::human::{bytes, clean, seconds, short_ids};
use super::print::print_options;
use crate::model::{Bytes, SegmentView, State, StatusView};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

/// How tables look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// With colours.
    pub color: bool,
    /// More columns.
    pub wide: bool,
    /// Columns of the terminal; `None` in a pipe, where no line is broken.
    pub width: Option<u16>,
}

impl Look {
    fn table(self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        match self.width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| self.style(Cell::new(name), |cell| cell.add_attribute(Attribute::Bold))));
        table
    }

    fn style(self, cell: Cell, style: impl FnOnce(Cell) -> Cell) -> Cell {
        if self.color { style(cell) } else { cell }
    }

    /// An URL; full ids of containers only where there is room for them.
    fn url(self, url: &str) -> String {
        if self.wide { clean(url) } else { short_ids(&clean(url)) }
    }

    fn state(self, state: State) -> Cell {
        let (text, color) = match state {
            State::Listening => ("listening", Color::Green),
            State::Waiting => ("waiting", Color::Yellow),
            State::Draining => ("draining", Color::Blue),
        };
        self.style(Cell::new(text), |cell| cell.fg(color))
    }
}

/// `list`.
pub fn list(views: &[SegmentView], look: Look) -> String {
    if views.is_empty() {
        return "no segments\n".to_owned();
    }
    let mut header = vec!["ID", "HEAD -> TAIL", "STATE", "OPEN", "TOTAL", "FAILED", "TO TAIL", "TO HEAD", "DIRECT", "RELAYED"];
    if look.wide {
        header.extend(["RESET", "AGE", "START", "OPTIONS"]);
    }
    header.push("LAST ERROR");
    let mut table = look.table(&header);
    for (depth, view) in tree(views) {
        let indent = if depth == 0 { String::new() } else { format!("{}└ ", "  ".repeat(depth - 1)) };
        let counts = &view.connections;
        let mut row = vec![
            Cell::new(format!("{indent}{}", clean(&view.id))),
            Cell::new(look.url(&view.head) + " -> " + &look.url(&view.tail)),
            look.state(view.state),
            number(counts.open.to_string()),
            number(counts.total.to_string()),
            number(counts.failed.to_string()),
            number(bytes(view.bytes.to_tail)),
            number(bytes(view.bytes.to_head)),
            number(share(view.direct, view.bytes)),
            Cell::new(mostly(&view.fallbacks)),
        ];
        if look.wide {
            row.extend([
                number(counts.reset.to_string()),
                number(seconds(age(view.created))),
                Cell::new(if view.spec.trigger { "trigger" } else { "create" }),
                Cell::new(print_options(&view.spec.options).join(" ")),
            ]);
        }
        // Why it waits is more urgent than why a connection failed some time ago.
        let error = view.reason.as_ref().or(counts.last_error.as_ref()).map(|error| clean(error)).unwrap_or_default();
        row.push(look.style(Cell::new(error), |cell| cell.fg(Color::Red)));
        table.add_row(row);
    }
    finish(&table)
}

/// `inspect`.
pub fn inspect(view: &SegmentView, look: Look) -> String {
    let counts = &view.connections;
    let state = format!("{:?}", view.state).to_lowercase();
    let mut rows = vec![
        ("id", view.id.clone()),
        ("parent", view.parent.clone().unwrap_or_default()),
        ("head", view.head.clone()),
        ("tail", view.tail.clone()),
        ("state", view.reason.as_ref().map_or(state.clone(), |reason| format!("{state}: {reason}"))),
        ("age", seconds(age(view.created))),
        ("trigger", if view.spec.trigger { "on first connection".to_owned() } else { String::new() }),
        ("options", print_options(&view.spec.options).join(" ")),
        (
            "connections",
            format!("{} open, {} total, {} failed, {} reset", counts.open, counts.total, counts.failed, counts.reset),
        ),
        ("last error", counts.last_error.clone().unwrap_or_default()),
        ("bytes", both_ways(view.bytes)),
        ("direct", some_both_ways(view.direct)),
        ("injected", some_both_ways(view.injected)),
        ("pairs", if view.pairs == 0 { String::new() } else { format!("{} open", view.pairs) }),
        ("relayed", counted(&view.fallbacks)),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    let mut out = sheet(&rows, look);
    if view.open.is_empty() {
        return out;
    }
    let mut table = look.table(&["CLIENT", "TAIL", "PATH", "AGE", "TO TAIL", "TO HEAD", "DIRECT", "WHY THE RELAY"]);
    for open in &view.open {
        let client = if open.client.is_empty() { "(unnamed)".to_owned() } else { clean(&open.client) };
        table.add_row([
            Cell::new(client),
            Cell::new(clean(&open.tail)),
            Cell::new(clean(&open.path)),
            number(seconds(open.age_s)),
            number(bytes(open.bytes.to_tail)),
            number(bytes(open.bytes.to_head)),
            number(share(open.direct, open.bytes)),
            Cell::new(open.reason.as_deref().map(clean).unwrap_or_default()),
        ]);
    }
    out.push('\n');
    out.push_str(&finish(&table));
    if let Some(hidden) = counts.open.checked_sub(view.open.len() as u64).filter(|hidden| *hidden > 0) {
        out.push_str(&format!("and {hidden} more\n"));
    }
    out
}

/// `status`.
pub fn status(view: &StatusView, look: Look) -> String {
    let docker = match (&view.docker.version, &view.docker.error) {
        (Some(version), _) => format!("{version} at {}", view.docker.host),
        (None, Some(error)) => format!("not reached at {}: {error}", view.docker.host),
        (None, None) => format!("expected at {}", view.docker.host),
    };
    let limits = &view.limits;
    let mut rows = vec![
        ("client", env!("CARGO_PKG_VERSION").to_owned()),
        ("daemon", format!("{} (pid {}, up {})", view.build.version, view.pid, seconds(view.uptime_s))),
        ("ebpf", view.build.ebpf.clone().unwrap_or_else(|| "none in this build".to_owned())),
        ("fast path", view.fastpath.summary.clone()),
        ("kernel", view.kernel.clone()),
        ("docker", docker),
        ("segments", view.segments.to_string()),
        ("connections", format!("{} of at most {}", limits.connections, limits.max_connections)),
        ("descriptors", format!("at most {}", limits.max_fds)),
        ("workers", view.workers.to_string()),
    ];
    let fast = &view.fastpath;
    if fast.active {
        let pairs = fast.pairs;
        rows.extend([
            ("pairs", format!("{} of at most {}, {} since the start", pairs.open, pairs.max, pairs.total)),
            ("enrolled", format!("{} sockets since the start", fast.enrolled)),
            ("direct", both_ways(fast.direct)),
            ("injected", both_ways(fast.injected)),
            ("by relay", both_ways(fast.relayed)),
        ]);
    }
    let probes = fast.probes.iter().map(|probe| {
        let answer = if probe.passed { "yes" } else { "NO" };
        ("probe", format!("{}: {answer}; {}", probe.name, probe.detail))
    });
    rows.extend(probes);
    for (key, value) in
        [("relayed", counted(&fast.reasons)), ("by TCP", counted(&fast.fallbacks)), ("not for", fast.off_for.join(", "))]
    {
        if !value.is_empty() {
            rows.push((key, value));
        }
    }
    rows.extend(view.listeners.iter().map(|listener| ("listener", listener.clone())));
    rows.extend(view.notes.iter().map(|note| ("note", note.clone())));
    sheet(&rows, look)
}

fn both_ways(count: Bytes) -> String {
    format!("{} to the tail, {} to the head", bytes(count.to_tail), bytes(count.to_head))
}

/// As [`both_ways`]; nothing when there is nothing to tell.
fn some_both_ways(count: Bytes) -> String {
    if count == Bytes::default() { String::new() } else { both_ways(count) }
}

/// How much of it went from socket to socket.
fn share(direct: Bytes, all: Bytes) -> String {
    let (direct, all) = (direct.to_tail + direct.to_head, all.to_tail + all.to_head);
    match direct.saturating_mul(100).checked_div(all) {
        Some(percent) => format!("{percent} %"),
        None => String::new(),
    }
}

fn counted(by_reason: &BTreeMap<String, u64>) -> String {
    by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

/// The reason that was given most often, and a sign that there are others.
fn mostly(by_reason: &BTreeMap<String, u64>) -> String {
    let most = by_reason.iter().max_by_key(|(_, count)| **count);
    let others = if by_reason.len() > 1 { ", …" } else { "" };
    most.map(|(reason, count)| format!("{count} {}{others}", clean(reason))).unwrap_or_default()
}

/// Keys and values below each other; a key that repeats is written once.
fn sheet(rows: &[(&str, String)], look: Look) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 2;
    let mut out = String::new();
    let mut before = "";
    for (key, value) in rows {
        let shown = if *key == before { "" } else { key };
        let (on, off) = if look.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        out.push_str(&format!("{on}{shown:width$}{off}{}\n", clean(value)));
        before = key;
    }
    out
}

/// Parents before their children, with the depth; each view exactly once whatever the parents say.
fn tree(views: &[SegmentView]) -> Vec<(usize, &SegmentView)> {
    let known: HashMap<&str, usize> = views.iter().enumerate().map(|(index, view)| (view.id.as_str(), index)).collect();
    let parent = |view: &SegmentView| view.parent.as_deref().and_then(|id| known.get(id).copied());
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut stack = Vec::new();
    for (index, view) in views.iter().enumerate().rev() {
        match parent(view) {
            Some(above) => children.entry(above).or_default().push(index),
            None => stack.push((0, index)),
        }
    }
    let mut out = Vec::with_capacity(views.len());
    let mut seen = vec![false; views.len()];
    loop {
        while let Some((depth, index)) = stack.pop() {
            let (Some(view), Some(seen)) = (views.get(index), seen.get_mut(index)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            out.push((depth, view));
            stack.extend(children.remove(&index).unwrap_or_default().into_iter().map(|child| (depth + 1, child)));
        }
        // Parents in a circle have no root; they are shown all the same.
        match seen.iter().position(|seen| !seen) {
            Some(index) => stack.push((0, index)),
            None => return out,
        }
    }
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn age(created: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().saturating_sub(created))
}

/// The table without the padding left of its first column and at the ends of its lines.
fn finish(table: &Table) -> String {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
