//! The table and the verdicts on standard output.

use super::columns::{Column, Show};
use super::peers::DIRECT;
use super::results::{Cell, Results};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;

/// The table of a run, and what one must know to read it.
pub fn render(results: &Results, columns: &[&Column]) -> String {
    let mut text = header(results);
    let _ = writeln!(text, "{}", table(results, columns));
    text.push_str(&legend(results, columns));
    text
}

fn header(results: &Results) -> String {
    let h = &results.header;
    format!(
        "wormhole bench, suite {}: {}, Linux {}, {}, {} cpus ({}), load before the run {}\n  {}\n  \
         medians over {} round(s), variants alternating; in brackets the ratio to direct\n",
        h.suite, h.date, h.kernel, h.congestion, h.cpus, h.cpu, h.load, h.command, h.rounds
    )
}

fn table(results: &Results, columns: &[&Column]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    let names = results.measured();
    table.set_header(["", "unit"].iter().chain(&names));
    for column in columns {
        let cells = names.iter().map(|name| cell_text(column, results.cell(column.id, name)));
        table.add_row([column.title.to_owned(), column.unit.to_owned()].into_iter().chain(cells));
    }
    for index in 2..names.len() + 2 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn cell_text(column: &Column, cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "–".into() };
    let Some(median) = cell.median else { return if cell.failed.is_some() { "failed".into() } else { "–".into() } };
    let text = column.text(median);
    let numeric = matches!(column.show, Show::Number(_));
    match cell.ratio_to_direct.filter(|_| numeric && cell.variant != DIRECT) {
        Some(ratio) => format!("{text} ({ratio:.2})"),
        None => text,
    }
}

/// How the variants were run, what was not measured and why.
fn legend(results: &Results, columns: &[&Column]) -> String {
    let mut text = String::new();
    for variant in &results.variants {
        let _ = match &variant.skipped {
            None => writeln!(text, "  {}: {}", variant.name, variant.about),
            Some(why) => writeln!(text, "  {}: skipped: {why}", variant.name),
        };
    }
    let mut reasons: Vec<String> = Vec::new();
    for cell in &results.cells {
        let Some(why) = cell.failed.as_ref() else { continue };
        let title = columns.iter().find(|c| c.id == cell.column).map_or(cell.column.as_str(), |c| c.title);
        // Columns that one measurement fills fail together.
        let shown = reasons.iter().any(|line| line.contains(&format!("{}: ", cell.variant)) && line.ends_with(why.as_str()));
        if !shown {
            reasons.push(format!("  {}: {title}: {why}", cell.variant));
        }
    }
    for line in reasons.iter().chain(&results.header.notes.iter().map(|note| format!("  {note}")).collect::<Vec<_>>()) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// wormhole against the best peer, column by column.
pub fn verdicts(results: &Results, columns: &[&Column]) -> String {
    let mut text = String::from("\nwormhole against the best peer (ok: within 5 %)\n");
    if results.verdicts.is_empty() {
        text.push_str("  nothing to compare: wormhole or every peer is missing from this run\n");
    }
    for verdict in &results.verdicts {
        let Some(column) = columns.iter().find(|c| c.id == verdict.column) else { continue };
        let ratio = verdict.goodness.map_or_else(|| "∞".into(), |g| format!("{g:.2}"));
        let unit = if column.unit.is_empty() { String::new() } else { format!(" {}", column.unit) };
        let _ = writeln!(
            text,
            "  {}: wormhole {}{unit}, best peer {}{unit} ({}), {ratio} times as good: {}",
            column.title,
            column.text(verdict.wormhole),
            column.text(verdict.best),
            verdict.best_peer,
            verdict.verdict
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;

    #[test]
    fn a_reader_finds_everything() -> anyhow::Result<()> {
        let (results, columns) = sample()?;
        let text = render(&results, &columns) + &verdicts(&results, &columns);
        for part in ["22.0 (2.00)", "failed", "socat: skipped: not installed", "5 bytes were sent", "a note", "short by 9 %"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(text.contains("1.50 GB/s, best peer 1.20 GB/s (haproxy), 1.25 times as good: ok"), "{text}");
        Ok(())
    }
}
