//! `cargo xtask …`: everything that is done to this repository and is not plain cargo.
//!
//! | file | subject |
//! | --- | --- |
//! | [`needs`] | what a machine must have, for what, and why |
//! | [`setup`] | compares that with this machine and closes the difference |
//! | [`toolchain`] | which compiler and linker can make eBPF objects, and how to get them |
//! | [`ebpf`] | builds the object |
//! | [`test`] | every suite, and the box that the end-to-end ones run in |
//! | [`vm`] | the same on other kernels |
//! | [`mirror`] | packages of other releases, unpacked and not installed |
//! | [`bench`], [`demo`] | measured against its peers; shown to a newcomer |

mod apt;
mod bench;
mod demo;
mod ebpf;
mod mirror;
mod needs;
mod setup;
mod step;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "What is done to this repository and is not plain cargo")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, testing, the demo and the benchmark need and this machine has not
    Setup(setup::Arguments),
    /// Build the eBPF object into target/ebpf/wormhole.o, where `cargo build` picks it up
    BuildEbpf,
    /// Run every test, from unit to end-to-end; the last line is `N passed, N failed, N skipped`
    Test(test::Arguments),
    /// Run the tests that depend on the kernel on the kernels that users have, in virtual machines
    VmTest(vm::Arguments),
    /// The part of `vm-test` that runs on each kernel
    #[command(hide = true)]
    VmGuest { plan: std::path::PathBuf },
    /// Measure against other proxies
    Bench(bench::Args),
    /// One end of a measurement; `bench` starts it
    #[command(hide = true)]
    BenchWorker(bench::worker::Args),
    /// Show it at work between two containers
    Demo(demo::Args),
    /// The parts of `demo` that are processes of their own
    #[command(hide = true, subcommand)]
    DemoStage(demo::Stage),
    /// The part of `test` that runs inside the box
    #[command(hide = true)]
    InsideBox { plan: std::path::PathBuf },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::BuildEbpf => ebpf::build().map(|()| ExitCode::SUCCESS),
        Task::Test(arguments) => test::run(&arguments),
        Task::VmTest(arguments) => vm::run(&arguments),
        Task::VmGuest { plan } => vm::guest::run(&plan).map(|()| ExitCode::SUCCESS),
        Task::Bench(arguments) => bench::run(arguments),
        Task::BenchWorker(arguments) => bench::worker::run(arguments).map(|()| ExitCode::SUCCESS),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::DemoStage(stage) => demo::stage(&stage),
        Task::InsideBox { plan } => test::e2e::run_plan(&plan).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
