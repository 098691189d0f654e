//! Which suites there are: cargo builds them and says where they are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// The crate whose tests run in the box.
const END_TO_END: &str = "wormhole-tests";

/// Where a suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Anywhere.
    Unit,
    /// Anywhere; cargo runs it, because only rustdoc knows how.
    Documentation,
    /// In the box.
    EndToEnd,
}

/// A program that runs tests and reports like libtest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suite {
    /// Unique among the suites.
    pub name: String,
    /// Where it runs.
    pub kind: Kind,
    /// The program.
    pub program: PathBuf,
    /// What comes before the arguments for libtest.
    pub arguments: Vec<String>,
    /// The working folder: that of the crate, as cargo does it.
    pub folder: PathBuf,
}

impl Suite {
    /// The program with everything but the arguments for libtest.
    pub fn command(&self) -> Command {
        let mut command = if self.kind == Kind::Documentation { workspace::cargo() } else { Command::new(&self.program) };
        command.args(&self.arguments).current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// What cargo says about one thing it built; the fields that matter here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the programs that the end-to-end tests start.
pub fn build_programs() -> Result<()> {
    let mut cargo = workspace::cargo();
    // Not xtask: it would replace the program that is running.
    let status = cargo.args(["build", "--workspace", "--exclude", "xtask", "--bins"]).status().context("starting cargo")?;
    if !status.success() {
        bail!("the programs do not build");
    }
    Ok(())
}

/// Builds every suite of the workspace.
pub fn build() -> Result<Vec<Suite>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--tests", "--no-run", "--message-format=json-render-diagnostics"]);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let output = child.stdout.take().context("cargo has no stdout")?;
    let mut suites = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what cargo says")?;
        suites.extend(suite_of(&line)?);
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("the tests do not build");
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    suites.push(Suite {
        name: "documentation".to_owned(),
        kind: Kind::Documentation,
        program: "cargo".into(),
        arguments: ["test", "--quiet", "--workspace", "--doc", "--"].map(str::to_owned).to_vec(),
        folder: workspace::root().to_owned(),
    });
    Ok(suites)
}

/// The suite that a line from cargo tells of, if it tells of one.
fn suite_of(line: &str) -> Result<Option<Suite>> {
    let message: Message = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
    let Message {
        manifest_path: Some(manifest), target: Some(target), profile: Some(profile), executable: Some(program), ..
    } = message
    else {
        return Ok(None);
    };
    if message.reason != "compiler-artifact" || !profile.test {
        return Ok(None);
    }
    let folder = manifest.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let package = package_of(&folder);
    let integration = target.kind.iter().any(|kind| kind == "test");
    let kind = if integration && package == END_TO_END { Kind::EndToEnd } else { Kind::Unit };
    let name = match &target.kind[..] {
        _ if kind == Kind::EndToEnd => target.name,
        _ if integration => format!("{package}::{}", target.name),
        [bin] if bin == "bin" && target.name != package => format!("{} (program)", target.name),
        // A library and a program of the same name: the library has it.
        [bin] if bin == "bin" && folder.join("src/lib.rs").exists() => format!("{} (program)", target.name),
        _ => package,
    };
    Ok(Some(Suite { name, kind, program, arguments: Vec::new(), folder }))
}

/// The name of the package in a folder of this workspace; they are the same but for one.
fn package_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "tests" { END_TO_END.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(folder: &str, name: &str, kind: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/{folder}/Cargo.toml","target":{{"kind":["{kind}"],
            "name":"{name}"}},"profile":{{"test":true}},"executable":"/w/target/debug/deps/{name}-0"}}"#
        )
    }

    #[test]
    fn what_cargo_says_becomes_a_suite() {
        let found = suite_of(&line("tests", "relay", "test")).unwrap().unwrap();
        assert_eq!((found.kind, &*found.name), (Kind::EndToEnd, "relay"));
        let found = suite_of(&line("tests", "wormhole_tests", "lib")).unwrap().unwrap();
        assert_eq!((found.kind, &*found.name), (Kind::Unit, "wormhole-tests"));
        let found = suite_of(&line("wormhole", "wormholed", "bin")).unwrap().unwrap();
        assert_eq!((found.kind, &*found.name), (Kind::Unit, "wormholed (program)"));
        let found = suite_of(&line("wormhole", "openapi", "test")).unwrap().unwrap();
        assert_eq!((found.kind, &*found.name), (Kind::Unit, "wormhole::openapi"));
        assert!(suite_of(r#"{"reason":"build-finished","success":true}"#).unwrap().is_none());
        assert!(suite_of("warning: something").is_err());
    }
}
