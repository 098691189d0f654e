//! The command line client.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(wormhole::cli::run(std::env::args_os()))
}
