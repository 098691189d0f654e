//! One guest: started, watched, ended.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Until a guest says that it booted. It takes seconds; a guest that says nothing for so long has no working processor.
const BOOT: Duration = Duration::from_secs(150);

/// Between two looks at what the guest said.
const PAUSE: Duration = Duration::from_millis(50);

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What a guest is made of.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The archives that make up its root.
    pub initramfs: &'a Path,
    /// More words for the kernel's command line.
    pub words: &'a str,
    /// Where the first serial line goes: what the kernel and programs print.
    pub console: &'a Path,
    /// Where the second one goes: what we say to ourselves.
    pub status: &'a Path,
    /// How long it may take altogether.
    pub limit: Duration,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Off,
    /// It never said that it booted.
    NotBooted,
    /// Killed, when its time was over.
    Late,
}

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processor {
    /// The machine's own.
    Kvm,
    /// A translator, ten times slower.
    Tcg,
}

impl Guest<'_> {
    /// Runs it to its end; with the machine's processor where that works, else without.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn run(&self) -> Result<End> {
        if kvm() {
            match self.run_on(Processor::Kvm)? {
                End::NotBooted => eprintln!("the guest did not boot with KVM: again without"),
                end => return Ok(end),
            }
        }
        self.run_on(Processor::Tcg)
    }

    fn run_on(&self, processor: Processor) -> Result<End> {
        for file in [self.console, self.status] {
            File::create(file).with_context(|| format!("creating {}", file.display()))?;
        }
        let mut child = Running(self.command(processor).spawn().with_context(|| format!("starting {PROGRAM}"))?);
        let began = Instant::now();
        let mut booted = false;
        loop {
            if child.0.try_wait().context("waiting for the guest")?.is_some() {
                return Ok(if booted || self.booted() { End::Off } else { End::NotBooted });
            }
            booted = booted || self.booted();
            if !booted && began.elapsed() > BOOT {
                return Ok(End::NotBooted);
            }
            if began.elapsed() > self.limit {
                return Ok(End::Late);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn booted(&self) -> bool {
        std::fs::read_to_string(self.status).is_ok_and(|text| text.contains("wormhole-vm booted"))
    }

    fn command(&self, processor: Processor) -> Command {
        let mut command = Command::new("setpriv");
        // Ended with us, however we end.
        command.args(["--pdeathsig", "KILL", "--", PROGRAM]);
        command.args(["-M", "q35", "-m", "2048", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot"]);
        match processor {
            Processor::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            // Without these two, string instructions are translated worse than a loop.
            Processor::Tcg => command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-erms,-fsrm"]),
        };
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        // Timers that are late because the host is busy are no news about the kernel.
        let quiet = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 mitigations=off random.trust_cpu=on";
        command.arg("-append").arg(format!("console=ttyS0 panic=-1 loglevel=6 {quiet} {}", self.words));
        for file in [self.console, self.status] {
            command.arg("-serial").arg(format!("file:{}", file.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// A QEMU that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the machine's processor can run guests. The device alone proves nothing: inside a virtual machine it may be there
/// without a processor that has what it needs.
fn kvm() -> bool {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    device.is_ok() && std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| virtualises(&text))
}

fn virtualises(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "vmx" | "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_processor_with_the_flag_runs_guests() {
        assert!(virtualises("model name: x\nflags\t\t: fpu svm sse2\n"));
        assert!(!virtualises("model name: svm\nflags\t\t: fpu svm_lock sse2\n"));
    }
}
