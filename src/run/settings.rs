//! Settings that mean nothing, and the ranges of those that do.

use std::{ops::RangeInclusive, path::PathBuf};

use ailora_models::closed::brief;
use thiserror::Error;

/// Settings that mean nothing.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file that is not settings.
    #[error("{path}: {reason}", path = path.display(), reason = brief(reason))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A setting that must be given and is not.
    #[error("`{0}` is not given; pass --{0}, or set it in the file of --config")]
    Missing(&'static str),
    /// Nothing to learn.
    #[error(
        "nothing is given to learn: pass --train FILE with data of your own, or --task with the name of a \
         task that is built in"
    )]
    NoTask,
    /// A task, and data of one's own beside it.
    #[error(
        "--task {0} names a task that is built in, and --train data of your own; pass one of them"
    )]
    TwoTasks(String),
    /// A setting that says of an adapter to be trained on what it is not.
    #[error(
        "--from {from}: {what} is {is} in that adapter, and other settings make it {would_be}; leave those \
         out: an adapter is trained on as it is", from = from.display()
    )]
    Contradicted {
        /// The adapter's folder.
        from: PathBuf,
        /// A projection, or something else of the adapter.
        what: String,
        /// What it is.
        is: String,
        /// What the settings say.
        would_be: String,
    },
    /// A setting of files of one's own, beside a task.
    #[error(
        "--{} is for files of your own, and task {task} says itself what its files are and what is in them; \
         leave it out, or pass the files by --train in place of --task", setting.replace('_', "-")
    )]
    OfFiles {
        /// The setting.
        setting: &'static str,
        /// The task.
        task: String,
    },
    /// Some of the rows of data that are not kept in memory.
    #[error(
        "--rows takes some of the rows in memory, and these are read again every epoch; leave --rows out, or \
         pass a file with fewer rows"
    )]
    StreamedRows,
    /// The best epoch of a task whose epochs are not measured.
    #[error(
        "--keep best: task {task} has no held-out metric, so that no epoch is the best one; leave \
         --keep out, or pass --keep last"
    )]
    NothingHeldOut {
        /// The task.
        task: String,
    },
    /// A setting of evaluations where nothing is evaluated.
    #[error(
        "`{setting}` is about evaluations, and nothing is held out to evaluate; leave {flag} out, or use data \
         with held-out rows"
    )]
    NothingToMeasure {
        /// The setting.
        setting: &'static str,
        /// Its flag.
        flag: &'static str,
    },
    /// A metric that is not measured.
    #[error(
        "`headline` is `{name}`, which no evaluation reports; expected one of {known}{suggestion}"
    )]
    Headline {
        /// The metric.
        name: String,
        /// The metrics there are.
        known: String,
        /// The nearest of them, if one is near.
        suggestion: String,
    },
    /// A model that does not fit.
    #[error(
        "a model of these `width`, `layers`, `vocab_size` and `length` takes {needed} bytes to \
         train, and there are {there} bytes of memory; make it smaller"
    )]
    Memory {
        /// Bytes of parameters, gradients and the optimiser's state.
        needed: u64,
        /// Bytes of memory.
        there: u64,
    },
    /// A number outside its range.
    #[error("`{name}` is {found}; expected {expected}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: f64,
    },
}

impl SettingsError {
    /// An error about the first setting that does not fit.
    pub(crate) fn unless(ranges: impl IntoIterator<Item = Range>) -> Result<(), Self> {
        match ranges.into_iter().find(|range| !range.fits) {
            None => Ok(()),
            Some(range) => Err(Self::OutOfRange {
                name: range.name,
                expected: range.expected,
                found: range.found,
            }),
        }
    }
}

/// A setting beside what it should be.
pub(crate) struct Range {
    name: &'static str,
    found: f64,
    fits: bool,
    expected: String,
}

impl Range {
    /// A whole number within limits.
    pub fn count(name: &'static str, found: usize, range: RangeInclusive<usize>) -> Self {
        Self {
            name,
            found: found as f64,
            fits: range.contains(&found),
            expected: format!("at least {} and at most {}", range.start(), range.end()),
        }
    }

    /// A number that may be left out, and that nothing limits.
    pub fn at_least_1(name: &'static str, found: Option<u64>) -> Self {
        let found = found.unwrap_or(1);
        Self {
            name,
            found: found as f64,
            fits: found > 0,
            expected: "at least 1".into(),
        }
    }

    /// A finite number above 0.
    pub fn positive(name: &'static str, found: f64) -> Self {
        let fits = found.is_finite() && found > 0.0;
        Self::number(name, found, fits, "a positive number")
    }

    /// A part of a whole, which is never reached.
    pub fn share(name: &'static str, found: f64, expected: &str) -> Self {
        Self::number(name, found, (0.0..1.0).contains(&found), expected)
    }

    /// A number that fits or does not.
    pub fn number(name: &'static str, found: f64, fits: bool, expected: &str) -> Self {
        Self {
            name,
            found,
            fits,
            expected: expected.into(),
        }
    }
}
