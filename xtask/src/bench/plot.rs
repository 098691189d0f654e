//! The plot: a panel of bars for each column, as SVG. The viewer brings the font.

use super::columns::{Better, Column, Show};
use super::peers::{DIRECT, WORMHOLE};
use super::results::Results;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Panels side by side.
const ACROSS: usize = 3;
const WIDTH: i32 = 430;
const BAR: i32 = 18;
const LABELS: i32 = 105;
/// Room for the title above the bars and a gap below them.
const FRAME: i32 = 44;

/// Writes the plot. Columns that are words are left to the table.
pub fn write(results: &Results, columns: &[&Column], path: &Path) -> Result<()> {
    let panels: Vec<&Column> = columns.iter().copied().filter(|column| matches!(column.show, Show::Number(_))).collect();
    let names = results.measured();
    let height = FRAME + BAR * names.len() as i32;
    let rows = panels.len().div_ceil(ACROSS) as i32;
    let size = ((WIDTH * ACROSS as i32) as u32, (30 + rows * height) as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    let failed = |e| anyhow!("draw {}: {e}", path.display());
    root.fill(&WHITE).map_err(failed)?;
    let h = &results.header;
    let title = format!("wormhole bench, {}, Linux {}, {} cpus: {}", h.date, h.kernel, h.cpus, h.command);
    root.draw(&Text::new(title, (10, 8), ("sans-serif", 14))).map_err(failed)?;
    for (index, column) in panels.iter().enumerate() {
        let corner = ((index % ACROSS) as i32 * WIDTH, 30 + (index / ACROSS) as i32 * height);
        panel(&root, corner, results, column, &names).map_err(failed)?;
    }
    root.present().map_err(failed)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn panel<'a>(area: &Area<'a>, (x, y): (i32, i32), results: &Results, column: &Column, names: &[&str]) -> Result<(), Failure<'a>> {
    let way = if column.better == Better::Higher { "more is better" } else { "less is better" };
    let title = format!("{} [{}], {way}", column.title, column.unit);
    area.draw(&Text::new(title, (x + 10, y + 10), ("sans-serif", 13)))?;
    let values: Vec<Option<f64>> = names.iter().map(|name| results.cell(column.id, name)?.median).collect();
    let most = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let right = Pos::new(HPos::Right, VPos::Center);
    let left = Pos::new(HPos::Left, VPos::Center);
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        let top = y + 30 + BAR * index as i32;
        let middle = top + BAR / 2 - 1;
        let font = ("sans-serif", 12).into_font();
        area.draw(&Text::new((*name).to_owned(), (x + LABELS - 5, middle), font.clone().into_text_style(area).pos(right)))?;
        let room = f64::from(WIDTH - LABELS - 80);
        let end = x + LABELS + value.map_or(0, |value| (value / most * room) as i32);
        let text = value.map_or_else(|| "not measured".to_owned(), |value| column.text(value));
        area.draw(&Rectangle::new([(x + LABELS, top), (end, top + BAR - 4)], colour(name).filled()))?;
        area.draw(&Text::new(text, (end + 5, middle), font.into_text_style(area).pos(left)))?;
    }
    Ok(())
}

fn colour(name: &str) -> RGBColor {
    match name {
        WORMHOLE => RGBColor(0xc0, 0x39, 0x2b),
        DIRECT => RGBColor(0x55, 0x55, 0x55),
        _ => RGBColor(0x7f, 0xa8, 0xc9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;

    #[test]
    fn an_svg_with_all_names() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (results, columns) = sample()?;
        let path = dir.path().join("b.svg");
        write(&results, &columns, &path)?;
        let text = std::fs::read_to_string(path)?;
        assert!(["<svg", "wormhole", "haproxy", "22.0", "not measured"].iter().all(|part| text.contains(part)));
        Ok(())
    }
}
