//! The plot of throughput by size of writes, as SVG: absolute on the left, as a ratio to no proxy at all on the right; with
//! client and server on two cpus above, on one below.

use crate::bench::columns;
use crate::bench::peers::{CHAIN, DIRECT, RELAY, UNIX_PAIR, WORMHOLE};
use crate::bench::results::Results;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

/// Of a pair of panels.
const SIZE: (u32, u32) = (1180, 460);

/// A variant's line: the binary logarithm of the size in bytes, and the value.
type Line = Vec<(f64, f64)>;

/// A pair of panels: what is said of it, and its lines.
type Row<'a> = (&'static str, Vec<(&'a str, Line)>);

/// Writes the plot, if at least two sizes were measured.
pub fn write(results: &Results, path: &Path) -> Result<bool> {
    let both = [("two cpus", false), ("one cpu", true)].map(|(title, one_cpu)| (title, lines(results, one_cpu)));
    let rows: Vec<Row<'_>> = both.into_iter().filter(|(_, lines)| !lines.is_empty()).collect();
    if rows.is_empty() {
        return Ok(false);
    }
    draw(results, &rows, path).map_err(|e| anyhow!("draw {}: {e}", path.display()))?;
    Ok(true)
}

/// A line for each variant that has at least two sizes.
fn lines(results: &Results, one_cpu: bool) -> Vec<(&str, Line)> {
    let line = |name: &str| -> Line {
        let value = |id| results.cell(id, name).and_then(|cell| cell.median);
        columns::speeds(one_cpu).filter_map(|(size, id)| Some((f64::from(size).log2(), value(id)?))).collect()
    };
    results.measured().into_iter().map(|name| (name, line(name))).filter(|(_, line)| line.len() >= 2).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(results: &Results, rows: &[Row<'_>], path: &'a Path) -> Result<(), Failure<'a>> {
    let root = SVGBackend::new(path, (SIZE.0, SIZE.1 * rows.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (title, lines)) in root.split_evenly((rows.len(), 1)).iter().zip(rows) {
        let h = &results.header;
        let title = format!("wormhole bench, stream by size of writes, {title}, {}, Linux {}, {} cpus", h.date, h.kernel, h.cpus);
        area.draw(&Text::new(title, (10, 8), ("sans-serif", 14)))?;
        row(area, lines)?;
    }
    root.present()
}

fn row<'a>(area: &Area<'a>, lines: &[(&str, Line)]) -> Result<(), Failure<'a>> {
    let (left, right) = area.margin(30, 5, 5, 5).split_horizontally(SIZE.0 / 2);
    panel(&left, "GB/s", lines)?;
    let direct = lines.iter().find(|(name, _)| *name == DIRECT).map(|(_, line)| line.clone()).unwrap_or_default();
    let at = |size: f64| direct.iter().find(|(other, _)| *other == size).map(|(_, value)| *value);
    let ratio = |line: &Line| line.iter().filter_map(|(size, value)| Some((*size, value / at(*size)?))).collect::<Line>();
    let ratios: Vec<(&str, Line)> = lines.iter().map(|(name, line)| (*name, ratio(line))).collect();
    panel(&right, "times direct", &ratios)
}

/// Both axes are logarithmic: a factor is the same distance everywhere.
fn panel<'a>(area: &Area<'a>, unit: &str, lines: &[(&str, Line)]) -> Result<(), Failure<'a>> {
    let values = lines.iter().flat_map(|(_, line)| line.iter().map(|(_, value)| *value)).filter(|value| *value > 0.0);
    let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(5.6..20.4, (low * 0.8..high * 1.25).log_scale())?;
    let label = |log: &f64| size_text(log.exp2());
    chart
        .configure_mesh()
        .x_labels(8)
        .disable_x_mesh()
        .x_desc("bytes of a write")
        .y_desc(unit)
        .x_label_formatter(&label)
        .draw()?;
    for (name, line) in lines {
        let style = colour(name).stroke_width(if *name == WORMHOLE { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()
}

fn size_text(size: f64) -> String {
    match size {
        big if big >= f64::from(1 << 20) => format!("{:.0} MiB", big / f64::from(1 << 20)),
        middle if middle >= 1024.0 => format!("{:.0} KiB", middle / 1024.0),
        small => format!("{small:.0}"),
    }
}

fn colour(name: &str) -> RGBColor {
    match name {
        WORMHOLE => RGBColor(0xc0, 0x39, 0x2b),
        RELAY => RGBColor(0xe0, 0x9a, 0x3c),
        DIRECT => RGBColor(0x33, 0x33, 0x33),
        UNIX_PAIR => RGBColor(0x8e, 0x6b, 0xa8),
        CHAIN => RGBColor(0x3c, 0x8d, 0x5a),
        _ => RGBColor(0x4f, 0x88, 0xb8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{Cell, tests::sample};

    #[test]
    fn a_line_for_each_variant_with_two_sizes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("s.svg");
        let (mut results, _) = sample()?;
        assert!(!write(&results, &path)?);
        for (column, values) in [("size64", [0.02, 0.03]), ("size64k", [3.0, 4.5])] {
            for (name, value) in [DIRECT, WORMHOLE].into_iter().zip(values) {
                results.cells.push(Cell::new(column, name, vec![value], None));
            }
        }
        assert!(write(&results, &path)?);
        let text = std::fs::read_to_string(path)?;
        assert!(["<svg", "wormhole", "64 KiB", "times direct"].iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains("haproxy"));
        Ok(())
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!([64.0, 4096.0, 1_048_576.0].map(size_text), ["64", "4 KiB", "1 MiB"]);
    }
}
