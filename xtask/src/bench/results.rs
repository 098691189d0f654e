//! What was measured: the model behind table, CSV, JSON and plot.

use super::columns::{Better, Column};
use super::peers;
use super::stats;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Results {
    pub header: Header,
    pub variants: Vec<VariantInfo>,
    pub columns: Vec<ColumnInfo>,
    pub cells: Vec<Cell>,
    pub verdicts: Vec<Verdict>,
}

/// Where and how the run was made.
#[derive(Debug, Serialize)]
pub struct Header {
    /// UTC.
    pub date: String,
    pub kernel: String,
    /// TCP congestion control of client and server.
    pub congestion: String,
    pub cpu: String,
    pub cpus: usize,
    /// One-minute load average before the run: what else the machine was doing.
    pub load: String,
    pub command: String,
    pub suite: String,
    pub rounds: usize,
    pub seed: u64,
    /// What a reader must know to read the figures.
    pub notes: Vec<String>,
}

/// One variant, measured or not.
#[derive(Debug, Serialize)]
pub struct VariantInfo {
    pub name: String,
    pub about: String,
    /// Why it is not measured.
    pub skipped: Option<String>,
}

/// One column, as the files name it.
#[derive(Debug, Serialize)]
pub struct ColumnInfo {
    pub id: String,
    pub title: String,
    pub unit: String,
    pub higher_is_better: bool,
}

/// One column of one variant.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    pub column: String,
    pub variant: String,
    /// Median of `rounds`.
    pub median: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// One value a round, in order.
    pub rounds: Vec<f64>,
    /// Value divided by the value of no proxy at all.
    pub ratio_to_direct: Option<f64>,
    /// Value divided by the best peer's.
    pub ratio_to_best_peer: Option<f64>,
    /// Why there is no value in some round.
    pub failed: Option<String>,
}

/// wormhole against the best peer.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub column: String,
    pub wormhole: f64,
    pub best_peer: String,
    pub best: f64,
    /// Above 1 wormhole is better, whichever way the column runs. None stands for infinitely better.
    pub goodness: Option<f64>,
    pub ok: bool,
    pub verdict: String,
}

impl Results {
    /// The cell of a column and a variant.
    pub fn cell(&self, column: &str, variant: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.column == column && cell.variant == variant)
    }

    /// The names of the variants that were measured, in order.
    pub fn measured(&self) -> Vec<&str> {
        self.variants.iter().filter(|v| v.skipped.is_none()).map(|v| v.name.as_str()).collect()
    }

    /// The best of the other proxies in a column.
    pub fn best_peer(&self, column: &Column) -> Option<(&str, f64)> {
        let cells = self.cells.iter().filter(|cell| cell.column == column.id && peers::is_rival(&cell.variant));
        stats::best(column.better, cells.filter_map(|cell| Some((cell.variant.as_str(), cell.median?))))
    }

    /// Adds ratios and verdicts, once all cells are there.
    pub fn conclude(&mut self, columns: &[&Column]) {
        for column in columns {
            let direct = self.cell(column.id, peers::DIRECT).and_then(|cell| cell.median);
            let best = self.best_peer(column).map(|(name, value)| (name.to_owned(), value));
            for cell in self.cells.iter_mut().filter(|cell| cell.column == column.id) {
                let ratio = |to: Option<f64>| cell.median.zip(to).map(|(a, b)| a / b).filter(|ratio| ratio.is_finite());
                cell.ratio_to_direct = ratio(direct);
                cell.ratio_to_best_peer = ratio(best.as_ref().map(|(_, value)| *value));
            }
            let ours = self.cell(column.id, peers::WORMHOLE).and_then(|cell| cell.median);
            if let (Some(ours), Some((best_peer, best))) = (ours, best) {
                let goodness = stats::goodness(column.better, ours, best);
                let verdict = stats::judge(goodness);
                let (ok, goodness) = (verdict == "ok", Some(goodness).filter(|g| g.is_finite()));
                self.verdicts.push(Verdict { column: column.id.into(), wormhole: ours, best_peer, best, goodness, ok, verdict });
            }
        }
    }

    /// Writes everything as JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        write_json(self, path)
    }

    /// Writes a line of CSV for each column and variant.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut csv = csv::Writer::from_path(path).with_context(|| format!("create {}", path.display()))?;
        csv.write_record(CSV)?;
        self.records().try_for_each(|record| csv.write_record(record))?;
        csv.flush().with_context(|| format!("write {}", path.display()))
    }

    /// The fields named in [`CSV`], for each column and variant.
    pub fn records(&self) -> impl Iterator<Item = [String; CSV.len()]> {
        let number = |value: Option<f64>| value.map(|v| format!("{v:.6}")).unwrap_or_default();
        self.cells.iter().map(move |cell| {
            let unit = self.columns.iter().find(|c| c.id == cell.column).map(|c| c.unit.as_str()).unwrap_or_default();
            [
                cell.column.clone(),
                unit.into(),
                cell.variant.clone(),
                number(cell.median),
                number(cell.min),
                number(cell.max),
                cell.rounds.len().to_string(),
                number(cell.ratio_to_direct),
                number(cell.ratio_to_best_peer),
                self.header.date.clone(),
                self.header.kernel.clone(),
                cell.failed.clone().unwrap_or_default(),
            ]
        })
    }
}

/// Titles of a CSV file.
pub const CSV: [&str; 12] = [
    "column",
    "unit",
    "variant",
    "median",
    "min",
    "max",
    "rounds",
    "ratio_to_direct",
    "ratio_to_best_peer",
    "date",
    "kernel",
    "failed",
];

/// Writes a value as JSON.
pub fn write_json(value: &impl Serialize, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("render JSON")?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

impl Cell {
    /// Sums the rounds up.
    pub fn new(column: &str, variant: &str, rounds: Vec<f64>, failed: Option<String>) -> Self {
        Self {
            column: column.into(),
            variant: variant.into(),
            median: stats::median(&rounds),
            min: rounds.iter().copied().reduce(f64::min),
            max: rounds.iter().copied().reduce(f64::max),
            rounds,
            ratio_to_direct: None,
            ratio_to_best_peer: None,
            failed,
        }
    }
}

impl From<&Column> for ColumnInfo {
    fn from(column: &Column) -> Self {
        Self {
            id: column.id.into(),
            title: column.title.into(),
            unit: column.unit.into(),
            higher_is_better: column.better == Better::Higher,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::columns::{RELAY, select};

    /// Two columns, four variants, one of them skipped.
    pub fn sample() -> Result<(Results, Vec<&'static Column>)> {
        let columns = select(RELAY, &["rtt1".into(), "stream64k".into()], &[])?;
        let variant = |name: &str, skipped: Option<&str>| VariantInfo {
            name: name.into(),
            about: "as it comes".into(),
            skipped: skipped.map(Into::into),
        };
        let cell = |column: &str, name: &str, rounds: &[f64]| Cell::new(column, name, rounds.to_vec(), None);
        let mut results = Results {
            header: Header {
                date: "2030-01-01T00:00:00Z".into(),
                kernel: "6.1".into(),
                congestion: "cubic".into(),
                cpu: "some".into(),
                cpus: 2,
                load: "0.1".into(),
                command: "cargo xtask bench".into(),
                suite: "relay".into(),
                rounds: 3,
                seed: 1,
                notes: vec!["a note".into()],
            },
            variants: vec![
                variant("direct", None),
                variant("wormhole", None),
                variant("haproxy", None),
                variant("nginx", None),
                variant("socat", Some("not installed")),
            ],
            columns: columns.iter().map(|c| ColumnInfo::from(*c)).collect(),
            cells: vec![
                cell("rtt1", "direct", &[10.0, 12.0, 11.0]),
                cell("rtt1", "wormhole", &[22.0]),
                cell("rtt1", "haproxy", &[33.0]),
                cell("rtt1", "nginx", &[20.0]),
                cell("stream64k", "direct", &[3.0]),
                cell("stream64k", "wormhole", &[1.5]),
                cell("stream64k", "haproxy", &[1.2]),
                Cell::new("stream64k", "nginx", vec![], Some("5 bytes were sent, 4 arrived".into())),
            ],
            verdicts: vec![],
        };
        results.conclude(&columns);
        Ok((results, columns))
    }

    #[test]
    fn conclusions() -> Result<()> {
        let (results, _) = sample()?;
        let cell = results.cell("rtt1", "wormhole").context("no cell")?;
        assert_eq!((cell.ratio_to_direct, cell.ratio_to_best_peer), (Some(2.0), Some(1.1)));
        let short: Vec<_> = results.verdicts.iter().map(|v| (v.column.as_str(), v.best_peer.as_str(), v.ok)).collect();
        assert_eq!(short, [("rtt1", "nginx", false), ("stream64k", "haproxy", true)]);
        Ok(())
    }

    #[test]
    fn files() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (results, _) = sample()?;
        let (json, csv) = (dir.path().join("b.json"), dir.path().join("b.csv"));
        results.write_json(&json)?;
        results.write_csv(&csv)?;
        let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
        assert_eq!(value["verdicts"][0]["verdict"], "short by 9 %");
        assert_eq!(std::fs::read_to_string(csv)?.lines().count(), 9);
        Ok(())
    }
}
