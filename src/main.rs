//! The `ailora` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            // A closed pipe, as in `ailora spectrum | head`, is the reader's choice.
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
            while let Some(cause) = source {
                if let Some(io) = cause.downcast_ref::<std::io::Error>()
                    && io.kind() == std::io::ErrorKind::BrokenPipe
                {
                    return ExitCode::SUCCESS;
                }
                source = cause.source();
            }
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
