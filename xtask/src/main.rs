//! `cargo xtask …`: only `bench` for now.

mod bench;

use clap::Parser;

#[derive(Parser)]
#[command(name = "xtask", about = "The project's own tool")]
enum Cli {
    /// Measure wormhole and other proxies side by side.
    Bench(bench::Args),
    /// One end of a measurement; `bench` starts it.
    #[command(hide = true)]
    BenchWorker(bench::worker::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Bench(args) => bench::run(args),
        Cli::BenchWorker(args) => bench::worker::run(args),
    }
}
