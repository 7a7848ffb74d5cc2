//! The `ailora` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        // That nobody reads on is the reader's choice.
        Err(error) if error.is::<cli::print::ClosedPipe>() => ExitCode::SUCCESS,
        Err(error) => {
            cli::print::say!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
