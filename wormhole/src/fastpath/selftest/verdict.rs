//! What the answers mean for `auto`.

/// Decides which executables are spared, see [`SelfTest::of`].
pub(super) const FIONREAD: &str = "fionread-redirected";

/// Executables that ask FIONREAD how much there is to read, and take 0 for nothing.
const ASKING: &[&str] = &["nginx", "openresty", "angie", "java"];

/// A question of the self-test and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What was asked.
    pub name: &'static str,
    /// True when this kernel does as plain TCP would, or as the fast path needs it.
    pub passed: bool,
    /// `auto` needs it.
    pub essential: bool,
    /// What was seen, and what it means.
    pub detail: String,
}

/// All answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// In the order in which they were asked; empty when the test could not be made.
    pub probes: Vec<Probe>,
    /// Why segments with `--fastpath auto` take the relay, if they do.
    pub auto: Result<(), String>,
    /// Executables that are kept off in `auto` because of an answer.
    pub spared: &'static [&'static str],
}

impl SelfTest {
    /// The verdict. `auto` needs every essential answer; without a right FIONREAD alone it spares those who ask it.
    pub(super) fn of(mut probes: Vec<Probe>) -> Self {
        let failed: Vec<&Probe> = probes.iter().filter(|probe| probe.essential && !probe.passed).collect();
        if failed.is_empty() {
            return Self { probes, auto: Ok(()), spared: &[] };
        }
        if failed.iter().any(|probe| probe.name != FIONREAD) {
            let failed = failed.iter().map(|probe| format!("{}: {}", probe.name, probe.detail));
            let why = format!("this kernel fails the self-test ({})", failed.collect::<Vec<_>>().join("; "));
            return Self { probes, auto: Err(why), spared: &[] };
        }
        for probe in probes.iter_mut().filter(|probe| probe.name == FIONREAD) {
            probe.detail = format!("{}; auto spares those who ask: {}", probe.detail, ASKING.join(", "));
        }
        Self { probes, auto: Ok(()), spared: ASKING }
    }

    /// When it could not be made.
    pub(super) fn untried(why: String) -> Self {
        Self { probes: Vec::new(), auto: Err(why), spared: &[] }
    }

    /// The questions that were answered with no.
    pub fn failed(&self) -> impl Iterator<Item = &Probe> {
        self.probes.iter().filter(|probe| !probe.passed)
    }

    /// A few words on `auto`.
    pub fn summary(&self) -> String {
        match (&self.auto, self.spared) {
            (Ok(()), []) => "auto: yes".to_owned(),
            (Ok(()), spared) => format!("auto: yes, without {}", spared.join(", ")),
            (Err(why), _) => format!("auto: no because {why}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn probes(failed: &[&str]) -> Vec<Probe> {
        let all = [("direct", true), (FIONREAD, true), ("eof", true), ("splice", false)];
        let of = |(name, essential)| {
            let passed = !failed.contains(&name);
            Probe { name, passed, essential, detail: format!("saw {name}") }
        };
        all.map(of).into()
    }

    #[test]
    fn what_is_not_essential_does_not_count() {
        for failed in [&[][..], &["splice"]] {
            let test = SelfTest::of(probes(failed));
            assert_eq!((test.auto.clone(), test.spared, test.summary()), (Ok(()), &[][..], "auto: yes".to_owned()));
            assert!(test.failed().map(|probe| probe.name).eq(failed.iter().copied()));
        }
    }

    #[test]
    fn one_essential_answer_is_enough_for_no() {
        for failed in [&["eof"][..], &["eof", FIONREAD], &["direct", "eof", "splice"]] {
            let test = SelfTest::of(probes(failed));
            let why = test.auto.clone().unwrap_err();
            assert!(why.contains("eof: saw eof") && !why.contains("splice"), "{why}");
            assert!(test.summary().starts_with("auto: no because this kernel"), "{}", test.summary());
            assert_eq!(test.spared, &[] as &[&str]);
        }
    }

    #[test]
    fn without_fionread_only_those_who_ask_are_spared() {
        let test = SelfTest::of(probes(&[FIONREAD, "splice"]));
        assert_eq!((test.auto.clone(), test.spared), (Ok(()), ASKING));
        assert!(test.summary().contains("yes, without nginx"), "{}", test.summary());
        let detail = &test.failed().next().unwrap().detail;
        assert!(detail.starts_with("saw fionread-redirected; auto spares") && detail.contains("java"), "{detail}");
    }

    #[test]
    fn a_test_that_could_not_be_made_says_why() {
        let test = SelfTest::untried("no namespace".to_owned());
        assert_eq!((test.summary().as_str(), test.failed().count()), ("auto: no because no namespace", 0));
    }
}
