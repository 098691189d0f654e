//! Medians, ratios, verdicts.

use super::columns::Better;

/// The middle value; the mean of the two middle ones when there is an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.as_slice() {
        [] => None,
        odd if odd.len() % 2 == 1 => Some(odd[middle]),
        even => Some(f64::midpoint(even[middle - 1], even[middle])),
    }
}

/// How good `ours` is against `theirs`: above 1 is better, whichever way the column runs. Equal values are 1, also zeros.
pub fn goodness(better: Better, ours: f64, theirs: f64) -> f64 {
    if ours == theirs {
        return 1.0;
    }
    match better {
        Better::Higher => ours / theirs,
        Better::Lower => theirs / ours,
    }
}

/// Falling short by less than this counts as equal: the rounds of one variant differ by as much.
pub const TOLERANCE: f64 = 0.05;

/// `ok`, or by how much not.
pub fn judge(goodness: f64) -> String {
    if goodness >= 1.0 - TOLERANCE { "ok".into() } else { format!("short by {:.0} %", (1.0 - goodness) * 100.0) }
}

/// The best of several values.
pub fn best<'a>(better: Better, values: impl Iterator<Item = (&'a str, f64)>) -> Option<(&'a str, f64)> {
    values.reduce(|a, b| if goodness(better, b.1, a.1) > 1.0 { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn better_is_above_one_both_ways() {
        assert!(goodness(Better::Higher, 2.0, 1.0) > 1.0);
        assert!(goodness(Better::Lower, 2.0, 1.0) < 1.0);
        assert!((goodness(Better::Lower, 0.0, 0.0) - 1.0).abs() < f64::EPSILON);
        assert!(goodness(Better::Lower, 3.0, 0.0) < f64::EPSILON);
    }

    #[test]
    fn verdicts() {
        assert_eq!(judge(0.951), "ok");
        assert_eq!(judge(0.8), "short by 20 %");
        assert_eq!(judge(f64::INFINITY), "ok");
    }

    #[test]
    fn best_follows_the_column() {
        let values = || [("a", 1.0), ("b", 3.0), ("c", 2.0)].into_iter();
        assert_eq!(best(Better::Higher, values()), Some(("b", 3.0)));
        assert_eq!(best(Better::Lower, values()), Some(("a", 1.0)));
        assert_eq!(best(Better::Lower, std::iter::empty()), None);
    }
}
