//! The `entrepot` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    entrepot::cli::run()
}
