//! `cargo xtask demo`: two containers that cannot reach each other, and what wormhole does about it.
//!
//! | file | subject |
//! | --- | --- |
//! | this one | from a fresh machine to the inside of a box |
//! | [`watch`] | waits for the box, also when it is interrupted |
//! | [`look`], [`session`] | what one sees: headings, spinners, lines of a shell that are really run |
//! | [`docker`], [`netns`] | the two stories: containers, and `--no-docker` |
//! | [`daemon`] | the `wormholed` of the story |
//! | [`rtt`] | the small table at the end |
//!
//! Everything happens in a box (`wormhole_tests::boxed`): namespaces of its own for network, mounts and processes. What
//! the demo makes is gone when the box is, however that comes about. Three processes take part: the one that the user
//! started sets up and builds, one as root makes the box, and one inside of it tells the story.

mod daemon;
mod docker;
mod look;
mod netns;
mod rtt;
mod session;
mod watch;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use wormhole_tests::boxed;

use self::look::Look;
use crate::needs::Group;
use crate::toolchain::Toolchain;
use crate::workspace::{self, program};
use crate::{ebpf, setup, step};

/// The words after `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Install system packages without asking; CI=true means the same
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    story: Story,
}

/// What is shown.
#[derive(Clone, Copy, clap::Args)]
pub struct Story {
    /// Two network namespaces instead of two containers
    #[arg(long)]
    no_docker: bool,
    /// At the end, open a shell in the box; everything is removed when it is left
    #[arg(long)]
    keep: bool,
}

/// The parts of the demo that are processes of their own.
#[derive(clap::Subcommand)]
pub enum Stage {
    /// Makes the box; as root
    Box(Story),
    /// Tells the story; in the box
    Inside(Story),
    /// Asks a server the same question again and again
    Ping(rtt::Ping),
}

/// Sets up, builds, and shows.
pub fn run(args: &Args) -> Result<ExitCode> {
    let story = args.story;
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if story.keep && !interactive {
        bail!("--keep opens a shell, and there is no terminal to type into it");
    }
    let group = if story.no_docker { Group::DemoNoDocker } else { Group::Demo };
    setup::ensure(&[group], args.yes)?;
    // On a machine that had no list of packages the first look could not know that `docker` is a package of its own.
    setup::ensure(&[group], args.yes)?;
    // Without containers nothing is asked of the machine that most do not have; the daemon relays without the object.
    if !story.no_docker || Toolchain::find()?.is_some() {
        ebpf::build()?;
    }
    build()?;
    if boxed::is_root() {
        return make_box(story);
    }
    let Some(sudo) = program("sudo") else {
        bail!("network namespaces are made by root, and there is no sudo: run `cargo xtask demo` as root");
    };
    let mut root = Command::new(sudo);
    if !interactive {
        root.arg("-n");
    }
    root.arg("--").arg(this_program()?).args(["demo-stage", "box"]).args(story.words());
    eprintln!("network namespaces are made by root: sudo may ask for your password");
    // It says itself that it was interrupted.
    let (status, _) = watch::wait(&mut root)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one of the hidden parts.
pub fn stage(stage: &Stage) -> Result<ExitCode> {
    match stage {
        Stage::Box(story) => make_box(*story),
        Stage::Inside(story) => inside(*story).map(|()| ExitCode::SUCCESS),
        Stage::Ping(ping) => rtt::ask(ping).map(|()| ExitCode::SUCCESS),
    }
}

/// The release profile, because the end of the story is a measurement.
fn build() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "wormhole", "--bins"]);
    step::run("building wormhole and wormholed (release)", &mut cargo)
}

/// Makes a box, has the story told in it, and sees to it that nothing is left.
fn make_box(story: Story) -> Result<ExitCode> {
    let mut command = Command::new(this_program()?);
    command.args(["demo-stage", "inside"]).args(story.words());
    boxed::sweep();
    let done = watch::wait(&mut boxed::inside(&command)?);
    // The cgroups of containers belong to no namespace: they outlive the box for as long as a process in them dies.
    let clean = wormhole_tests::wait::poll("the containers to be gone", std::time::Duration::from_secs(5), || {
        if boxed::sweep() { Ok(()) } else { Err("some cgroups are in use".to_owned()) }
    });
    give_back(&workspace::target()?.join("wormhole-images"));
    let (status, interrupted) = done?;
    clean?;
    if interrupted {
        eprintln!("\ninterrupted; nothing is left behind");
    }
    Ok(if status.success() && !interrupted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Under sudo the images' tars were written by root; they go to whom the target folder belongs, or `cargo clean` fails.
fn give_back(folder: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let Some(owner) = folder.parent().and_then(|target| target.metadata().ok()) else { return };
    let files = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.chain([folder.to_owned()]) {
        // It is a courtesy: where it fails, everything still works for root.
        let _ = chown(&path, Some(owner.uid()), Some(owner.gid()));
    }
}

/// The story itself, in the box.
fn inside(story: Story) -> Result<()> {
    if !boxed::in_box() {
        bail!("this is a part of `cargo xtask demo`");
    }
    let look = Look::of_stdout();
    let mut session = session::Session::new(look, &workspace::target()?.join("release"))?;
    if story.no_docker { netns::tell(&mut session, story.keep) } else { docker::tell(&mut session, story.keep) }
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("finding the path of xtask itself")
}

impl Story {
    /// As words of a command line.
    fn words(self) -> impl Iterator<Item = &'static str> {
        [(self.no_docker, "--no-docker"), (self.keep, "--keep")].into_iter().filter_map(|(given, word)| given.then_some(word))
    }
}
