//! The daemon. Exit codes: 0 ended as told, 1 failed, 2 wrong flags, environment or configuration file.

use std::process::ExitCode;
use wormhole::daemon::config::Config;

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => {
            error.report();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match wormhole::service::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wormholed: {error}");
            ExitCode::FAILURE
        }
    }
}
