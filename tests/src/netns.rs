//! Named network namespaces, as `ip netns` makes them. Only in a box.

use crate::kernel::Ns;
use crate::room::SOON;
use crate::{run, wait_until};
use anyhow::{Result, ensure};
use std::process::Command;

/// A namespace under /run/netns with its loopback up. Dropping deletes it.
#[derive(Debug)]
pub struct Netns {
    /// File name under /run/netns.
    pub name: String,
}

impl Netns {
    /// Makes one whose name begins with `prefix`.
    ///
    /// # Errors
    /// Outside a box, and when `ip` refuses.
    pub fn create(prefix: &str) -> Result<Self> {
        Self::named(&run::unique(prefix))
    }

    /// Makes one with exactly this name.
    ///
    /// # Errors
    /// Outside a box, and when `ip` refuses.
    pub fn named(name: &str) -> Result<Self> {
        ensure!(crate::boxed::in_box(), "namespaces are made only in a box");
        run::text(&mut run::command("ip", ["netns", "add", name]))?;
        let made = Self { name: name.to_owned() };
        made.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// For [`crate::kernel`].
    pub fn ns(&self) -> Ns {
        Ns::Named(self.name.clone())
    }

    /// `program` as it is run inside.
    pub fn command(&self, program: &str) -> Command {
        run::command("nsenter", [format!("--net=/run/netns/{}", self.name).as_str(), "--", program])
    }

    /// Runs a program inside and gives its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let (program, rest) = args.split_first().ok_or_else(|| anyhow::anyhow!("nothing to run"))?;
        run::text(self.command(program).args(rest))
    }

    /// Joins two namespaces with a veth pair; each end gets an address like `10.1.0.1/24` or `fd00::1/64` and is up.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn join(&self, mine: &str, other: &Self, theirs: &str) -> Result<()> {
        let (a, b) = (run::unique("v"), run::unique("v"));
        self.run(&["ip", "link", "add", &a, "type", "veth", "peer", "name", &b, "netns", &other.name])?;
        for (netns, link, address) in [(self, &a, mine), (other, &b, theirs)] {
            // nodad: an IPv6 address is of use at once.
            let mut args = vec!["ip", "addr", "add", address, "dev", link];
            if address.contains(':') {
                args.push("nodad");
            }
            netns.run(&args)?;
            netns.run(&["ip", "link", "set", link, "up"])?;
        }
        Ok(())
    }

    /// Deletes the name. The namespace itself lives on while anything is inside or holds it.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn delete(self) -> Result<()> {
        let done = run::text(&mut run::command("ip", ["netns", "del", &self.name])).map(drop);
        std::mem::forget(self);
        done
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run::output(&mut run::command("ip", ["netns", "del", &self.name]));
    }
}

/// Tells when a namespace is destroyed, which it is when nothing is left in it: no process, and no socket either, which
/// does not show anywhere else. One end of a veth pair stays here and the other one is there; the kernel removes both
/// when either namespace is destroyed.
#[derive(Debug)]
pub struct Marker {
    netns: String,
    link: String,
}

impl Marker {
    /// Watches `there`: the name of a namespace or the pid of a process.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn new(here: &Netns, there: &str) -> Result<Self> {
        let (link, other) = (run::unique("m"), run::unique("o"));
        here.run(&["ip", "link", "add", &link, "type", "veth", "peer", "name", &other, "netns", there])?;
        Ok(Self { netns: here.name.clone(), link })
    }

    /// True once it is destroyed.
    ///
    /// # Panics
    /// When `ip` cannot be started.
    pub fn gone(&self) -> bool {
        let show = ["-n", &self.netns, "link", "show", &self.link];
        !run::output(&mut run::command("ip", show)).expect("ip starts").status.success()
    }

    /// Waits for that.
    ///
    /// # Panics
    /// When something keeps it.
    #[track_caller]
    pub fn wait_gone(&self) {
        wait_until("the dead namespace to be destroyed", SOON, || self.gone().then_some(()));
    }
}
