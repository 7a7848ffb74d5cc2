//! The `ailora` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        // That nobody reads on is the reader's choice.
        Err(error) if error.is::<cli::print::ClosedPipe>() => ExitCode::SUCCESS,
        Err(error) => {
            cli::print::say!("error: {}", shortened(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// An error as a terminal shows it: some quote names that are as long as a file.
fn shortened(error: &str) -> String {
    const SHOWN: usize = 4000;
    if error.len() <= 2 * SHOWN {
        return error.to_owned();
    }
    let start = &error[..error.floor_char_boundary(SHOWN)];
    let end = &error[error.ceil_char_boundary(error.len() - SHOWN)..];
    format!("{start} ... {end}")
}
