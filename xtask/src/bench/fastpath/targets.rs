//! What the fast path has to reach, and whether it did.

use super::setting::Setting;
use super::unrelated::{AGAIN, LOADED};
use crate::bench::columns::{self, Better, Column};
use crate::bench::peers::{BRIDGE, DIRECT, HAPROXY, UNIX_PAIR, WORMHOLE};
use crate::bench::results::Results;
use crate::bench::stats;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// So many times as good as another variant, or better.
struct Target {
    settings: &'static [Setting],
    /// Columns or groups of them.
    columns: &'static [&'static str],
    against: &'static str,
    factor: f64,
}

use Setting::{Between, Host, Into, Unrelated};

#[rustfmt::skip]
static TARGETS: &[Target] = &[
    Target { settings: &[Host, Between, Into], columns: &["rtt1"], against: DIRECT, factor: 0.6 },
    Target { settings: &[Host, Between, Into], columns: &["rtt1"], against: UNIX_PAIR, factor: 1.0 },
    Target { settings: &[Host, Between, Into], columns: &["rtt2"], against: DIRECT, factor: 1.0 },
    Target { settings: &[Host, Between, Into], columns: &["size64k", "one64k"], against: DIRECT, factor: 1.3 },
    Target { settings: &[Host, Between, Into], columns: &["sizes", "onecpu"], against: DIRECT, factor: 1.0 },
    Target { settings: &[Host, Between, Into], columns: &["early64k"], against: DIRECT, factor: 1.2 },
    Target { settings: &[Host], columns: &["conn"], against: HAPROXY, factor: 1.0 },
    Target { settings: &[Host, Between], columns: &["apps"], against: DIRECT, factor: 1.0 },
    Target { settings: &[Between, Into], columns: &["rtt1", "rtt2", "sizes", "early64k", "apps"], against: BRIDGE, factor: 1.0 },
    Target { settings: &[Unrelated], columns: &["conn1", "one64k"], against: DIRECT, factor: 1.0 },
];

/// One target in one column.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub setting: &'static str,
    pub column: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub against: &'static str,
    pub factor: f64,
    pub value: Option<f64>,
    /// `factor` times the other variant's value.
    pub limit: Option<f64>,
    /// Lowest and highest ratio to the other variant among the rounds.
    pub ratios: Option<(f64, f64)>,
    pub verdict: Verdict,
    #[serde(skip)]
    shown: Option<(String, String)>,
}

/// What became of a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    /// Not met, but by no more than rounds of one variant differ.
    Noise,
    /// Missed by so much of the limit.
    Missed(f64),
    /// Why there is nothing to judge.
    NotMeasured(String),
}

/// Judges one setting.
pub fn judge(setting: Setting, results: &Results, columns: &[&'static Column]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for target in TARGETS.iter().filter(|target| target.settings.contains(&setting)) {
        let wanted = |column: &&&'static Column| target.columns.iter().any(|word| *word == column.id || *word == column.group);
        for column in columns.iter().filter(wanted) {
            // What a target says about one size is not said again by the one about all sizes.
            let said = outcomes.iter().any(|other| other.column == column.id && other.against == target.against);
            let is_there = results.variants.iter().any(|variant| variant.name == target.against);
            if !said && is_there {
                outcomes.push(Outcome::of(setting, results, column, target));
            }
        }
    }
    outcomes
}

impl Outcome {
    fn of(setting: Setting, results: &Results, column: &'static Column, target: &Target) -> Self {
        let ours = if setting == Unrelated { LOADED } else { WORMHOLE };
        let median = |name: &str| results.cell(column.id, name).and_then(|cell| cell.median);
        let (value, other) = (median(ours), median(target.against));
        let limit = other.map(|other| other * target.factor);
        let verdict = match (value, limit) {
            (Some(value), Some(limit)) => verdict(column.better, value, limit, tolerance(results, column)),
            (None, _) => Verdict::NotMeasured(why(results, column, ours)),
            (_, None) => Verdict::NotMeasured(why(results, column, target.against)),
        };
        let shown = value.zip(other).zip(limit).map(|((value, other), limit)| {
            let value_text = format!("{} {} ({:.2})", column.text(value), column.unit, value / other);
            (value_text, format!("{} {}", column.text(limit), column.unit))
        });
        Self {
            setting: setting.name(),
            column: column.id,
            title: column.title,
            unit: column.unit,
            against: target.against,
            factor: target.factor,
            value,
            limit,
            ratios: ratios(results, column, ours, target.against),
            verdict,
            shown,
        }
    }
}

fn verdict(better: Better, value: f64, limit: f64, tolerance: f64) -> Verdict {
    let goodness = stats::goodness(better, value, limit);
    if goodness >= 1.0 {
        Verdict::Met
    } else if goodness >= 1.0 - tolerance {
        Verdict::Noise
    } else {
        Verdict::Missed((value / limit - 1.0).abs())
    }
}

/// How much is noise: what is so everywhere, or what two series of the same thing differ by, where there are two.
fn tolerance(results: &Results, column: &Column) -> f64 {
    let median = |name| results.cell(column.id, name).and_then(|cell| cell.median);
    let noise = median(DIRECT).zip(median(AGAIN)).map_or(0.0, |(one, two)| (two / one - 1.0).abs());
    noise.max(stats::TOLERANCE)
}

fn why(results: &Results, column: &Column, name: &str) -> String {
    let skipped = results.variants.iter().find(|variant| variant.name == name).and_then(|variant| variant.skipped.clone());
    let failed = || results.cell(column.id, name).and_then(|cell| cell.failed.clone());
    format!("{name}: {}", skipped.or_else(failed).unwrap_or_else(|| "no value".into()))
}

/// The lowest and the highest ratio among rounds in which both have a value.
fn ratios(results: &Results, column: &Column, ours: &str, theirs: &str) -> Option<(f64, f64)> {
    let (ours, theirs) = (results.cell(column.id, ours)?, results.cell(column.id, theirs)?);
    if ours.rounds.len() != theirs.rounds.len() {
        return None;
    }
    let each: Vec<f64> = ours.rounds.iter().zip(&theirs.rounds).map(|(a, b)| a / b).collect();
    Some((each.iter().copied().reduce(f64::min)?, each.iter().copied().reduce(f64::max)?))
}

/// The table of all targets.
pub fn render(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["where", "what", "target", "value (ratio)", "rounds", "limit", ""]);
    for outcome in outcomes {
        let Some(column) = columns::FASTPATH.iter().find(|column| column.id == outcome.column) else { continue };
        let sign = if column.better == Better::Lower { "≤" } else { "≥" };
        let target = format!("{sign} {} × {}", outcome.factor, outcome.against);
        let (value, limit) = outcome.shown.clone().unwrap_or_else(|| ("–".into(), "–".into()));
        let rounds = outcome.ratios.map_or_else(|| "–".into(), |(low, high)| format!("{low:.2} … {high:.2}"));
        table.add_row([outcome.setting, outcome.title, &target, &value, &rounds, &limit, &outcome.verdict.text()]);
    }
    for index in 3..6 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut reasons: Vec<&String> = Vec::new();
    for outcome in outcomes {
        match &outcome.verdict {
            Verdict::NotMeasured(why) if !reasons.contains(&why) => reasons.push(why),
            _ => {}
        }
    }
    let reasons: String = reasons.iter().map(|why| format!("  not measured: {why}\n")).collect();
    let count = |is: fn(&Verdict) -> bool| outcomes.iter().filter(|outcome| is(&outcome.verdict)).count();
    format!(
        "targets (medians; in brackets the ratio to what is compared with, and its lowest and highest among the rounds)\n{table}\n\
         {reasons}{} met, {} within noise ({:.0} %), {} missed, {} not measured\n",
        count(|v| *v == Verdict::Met),
        count(|v| *v == Verdict::Noise),
        stats::TOLERANCE * 100.0,
        count(|v| matches!(v, Verdict::Missed(_))),
        count(|v| matches!(v, Verdict::NotMeasured(_))),
    )
}

impl Verdict {
    /// Whether `--check` lets it pass.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Met | Self::Noise)
    }

    fn text(&self) -> String {
        match self {
            Self::Met => "met".into(),
            Self::Noise => "met within noise".into(),
            Self::Missed(by) => format!("MISSED by {:.0} %", by * 100.0),
            Self::NotMeasured(_) => "not measured".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;

    #[test]
    fn verdicts() {
        assert_eq!(verdict(Better::Lower, 6.0, 6.0, 0.05), Verdict::Met);
        assert_eq!(verdict(Better::Lower, 6.2, 6.0, 0.05), Verdict::Noise);
        assert_eq!(verdict(Better::Higher, 0.5, 1.0, 0.05), Verdict::Missed(0.5));
        assert_eq!(verdict(Better::Higher, 0.9, 1.0, 0.12), Verdict::Noise);
        assert!(Verdict::Noise.passes() && !Verdict::NotMeasured(String::new()).passes());
    }

    #[test]
    fn a_target_is_judged_by_medians() -> anyhow::Result<()> {
        let (results, _) = sample()?;
        let columns = columns::select(columns::FASTPATH, &["rtt1".into(), "conn1".into()], &[])?;
        let outcomes = judge(Host, &results, &columns);
        // Direct has 11 µs, wormhole 22; connections were not measured.
        assert_eq!(outcomes[0].limit, Some(0.6 * 11.0));
        assert!(matches!(outcomes[0].verdict, Verdict::Missed(by) if (by - 22.0 / 6.6 + 1.0).abs() < 1e-9));
        assert_eq!(outcomes[1].verdict, Verdict::NotMeasured("wormhole: no value".into()));
        let text = render(&outcomes);
        assert!(text.contains("≤ 0.6 × direct") && text.contains("0 met") && text.contains("1 missed, 1 not measured"), "{text}");
        Ok(())
    }

    #[test]
    fn one_size_has_one_target_against_one_variant() -> anyhow::Result<()> {
        let (results, _) = sample()?;
        let columns = columns::select(columns::FASTPATH, &["sizes".into()], &[])?;
        let outcomes = judge(Host, &results, &columns);
        let factors: Vec<f64> = outcomes.iter().filter(|o| o.column == "size64k").map(|o| o.factor).collect();
        assert_eq!(factors, [1.3]);
        assert_eq!(outcomes.len(), columns.len());
        Ok(())
    }
}
