//! What is printed, for readers who may be gone.
//!
//! `println!` and `eprintln!` panic where nobody reads any more. Here a line to standard output is an
//! error then, with which the command ends quietly; a line to standard error is for people, and is
//! lost where there are none.

use std::{
    fmt,
    io::{self, Write},
};

use ailora::output::File;

use super::Error;

/// Writes a line to standard output; the result says whether somebody got it.
macro_rules! out {
    ($($text:tt)*) => {
        $crate::cli::print::stdout(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Writes a line to standard error.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print::stderr(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(crate) use {out, say};

/// Whoever read standard output is gone, as in `ailora spectrum | head`.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed by its reader")]
pub struct ClosedPipe;

/// Writes to standard output.
///
/// # Errors
/// [`ClosedPipe`], or why it cannot be written.
pub fn stdout(text: fmt::Arguments<'_>) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        Err(error) => Err(format!("cannot write to standard output: {error}").into()),
    }
}

/// Writes to standard error, if anybody reads it.
pub fn stderr(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Where a command's text for people goes: not among a file's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    to_stderr: bool,
}

impl Text {
    /// Text beside these files: on standard output, unless one of them is written there.
    ///
    /// # Errors
    /// Two of them are.
    pub fn beside<const N: usize>(files: [&Option<File>; N]) -> Result<Self, Error> {
        let files = files.into_iter().flatten();
        match files.filter(|file| file.is_stdout()).count() {
            2.. => {
                Err("two files are to be written to standard output, `-`; give one a name".into())
            }
            count => Ok(Self {
                to_stderr: count == 1,
            }),
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`stdout`].
    pub fn line(self, text: fmt::Arguments<'_>) -> Result<(), Error> {
        match self.to_stderr {
            true => say!("{text}"),
            false => out!("{text}")?,
        }
        Ok(())
    }
}
