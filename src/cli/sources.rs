//! The flags that say which adapter is used: a folder's, or one of several.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ailora::{
    finetune::{AdapterFolder, Chosen, Several, Weighted, trained_length},
    models::{
        peft::{Combination, Combine, Majority, Origin},
        task::Task,
    },
};
use clap::Args;

use super::{
    Error,
    args::{count, number},
};

/// Which adapter is used, and how it is made if it is of several.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// Use the adapter in this folder. Or combine several: give each as NAME=DIR:WEIGHT, with a name of
    /// letters, digits, - and _, and a weight that may be negative.
    #[arg(long, value_name = "DIR|NAME=DIR:WEIGHT")]
    adapter: Vec<PathBuf>,
    /// Combine adapters as PEFT does: linear, cat, svd, ties, ties_svd, dare_linear, dare_ties,
    /// dare_linear_svd, dare_ties_svd, magnitude_prune or magnitude_prune_svd [default: linear].
    #[arg(long, value_name = "KIND", requires = "adapter")]
    combine: Option<Combination>,
    /// Keep this share of each adapter's values, from 0 to 1, where --combine prunes them.
    #[arg(long, value_name = "X", value_parser = number, requires = "adapter", allow_hyphen_values = true)]
    density: Option<f64>,
    /// Let the sum of the values elect each sign, or their number, where --combine elects it: total or
    /// frequency [default: total].
    #[arg(long, value_name = "total|frequency", requires = "adapter")]
    majority_sign: Option<Majority>,
    /// Rank of the combined adapter where --combine is one of those with svd [default: the largest of the
    /// adapters'].
    #[arg(long, value_name = "N", value_parser = count::<usize>, requires = "adapter", allow_negative_numbers = true)]
    svd_rank: Option<usize>,
    /// Seed of what DARE drops [default: 0].
    #[arg(long, value_name = "N", value_parser = count::<u64>, requires = "adapter", allow_negative_numbers = true)]
    combine_seed: Option<u64>,
    /// Take the head, and whatever else is held whole, of the adapter of this name, where they differ.
    #[arg(long, value_name = "NAME", requires = "adapter")]
    head: Option<String>,
    /// Use adapters even if they were trained on another base or for another task.
    #[arg(long, requires = "adapter")]
    force_adapter: bool,
}

/// The adapter that the flags say.
#[derive(Debug)]
pub enum Given {
    Folder { path: PathBuf, force: bool },
    Several(Several),
}

impl Given {
    /// As the library takes it.
    pub fn chosen(&self) -> Chosen<'_> {
        match self {
            Self::Folder { path, force } => AdapterFolder {
                path,
                force: *force,
            }
            .into(),
            Self::Several(several) => several.into(),
        }
    }

    /// The folders that it is read from.
    pub fn folders(&self) -> Vec<&Path> {
        self.chosen().folders()
    }

    /// The longest sequence that any of it was trained with, if the folders say so.
    pub fn trained_length(&self) -> Option<usize> {
        let folders = self.folders().into_iter();
        folders.filter_map(trained_length).max()
    }

    /// The task that the folders record.
    ///
    /// # Errors
    /// They record different ones, or a folder is not read.
    pub fn task(&self) -> Result<Option<Task>, Error> {
        let mut found: Option<(&Path, Origin)> = None;
        for folder in self.folders() {
            let origin = Origin::read(folder)?;
            if let Some((first, known)) = &found
                && (&known.task, &known.description) != (&origin.task, &origin.description)
            {
                return Err(format!(
                    "{} and {} do not record the same task; say by --task what the combined adapter is for",
                    first.display(),
                    folder.display()
                )
                .into());
            }
            found.get_or_insert((folder, origin));
        }
        let Some((_, origin)) = found else {
            return Ok(None);
        };
        Ok(match (origin.description, origin.task) {
            (Some(description), _) => Some(Task::own(&description)?),
            (None, Some(task)) => Some(Task::parse(&task)?),
            (None, None) => None,
        })
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path, .. } => write!(f, "{}", path.display()),
            Self::Several(several) => {
                for (i, folder) in several.folders.iter().enumerate() {
                    let and = if i > 0 { " + " } else { "" };
                    write!(f, "{and}{} x {}", folder.weight, folder.path.display())?;
                }
                write!(f, " ({})", several.how.kind)
            }
        }
    }
}

impl SourceArgs {
    /// The adapter that the flags say, if they say one.
    ///
    /// # Errors
    /// A value that is neither a folder nor a weighted one; several folders without weights; flags of how
    /// to combine where nothing is combined.
    pub fn given(&self) -> Result<Option<Given>, Error> {
        let force = self.force_adapter;
        let values = &self.adapter[..];
        if values.is_empty() {
            return Ok(None);
        }
        let read = values.iter().map(|value| weighted(value));
        let read: Vec<Option<Weighted>> = read.collect::<Result<_, Error>>()?;
        if let ([path], [None]) = (values, &read[..]) {
            return match self.first_of_combining() {
                None => Ok(Some(Given::Folder {
                    path: path.clone(),
                    force,
                })),
                Some(flag) => Err(format!(
                    "{flag} is for adapters that are combined; give each as --adapter NAME=DIR:WEIGHT"
                )
                .into()),
            };
        }
        let folders = read.into_iter().zip(values).map(|(folder, value)| {
            folder.ok_or_else(|| {
                let value = value.display();
                format!("--adapter {value}: expected NAME=DIR:WEIGHT, such as a={value}:0.5, where there are several")
            })
        });
        let how = Combine {
            kind: self.combine.unwrap_or_default(),
            density: self.density,
            majority: self.majority_sign,
            svd_rank: self.svd_rank,
            seed: self.combine_seed,
            head: self.head.clone(),
        };
        how.check()?;
        let folders = folders.collect::<Result<_, _>>()?;
        Ok(Some(Given::Several(Several {
            folders,
            how,
            force,
        })))
    }

    /// As [`given`](Self::given), of a command that does not go without.
    ///
    /// # Errors
    /// As there; nothing is said.
    pub fn needed(&self) -> Result<Given, Error> {
        self.given()?.ok_or_else(|| "--adapter is missing".into())
    }

    /// A flag of how to combine that is given.
    fn first_of_combining(&self) -> Option<&'static str> {
        let flags = [
            ("--combine", self.combine.is_some()),
            ("--density", self.density.is_some()),
            ("--majority-sign", self.majority_sign.is_some()),
            ("--svd-rank", self.svd_rank.is_some()),
            ("--combine-seed", self.combine_seed.is_some()),
            ("--head", self.head.is_some()),
        ];
        flags
            .into_iter()
            .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// A value as `NAME=DIR:WEIGHT`; nothing if it is a folder, which it is where one of that name is there, or
/// where no name stands before its first `=`.
///
/// # Errors
/// The weight is missing or no number.
fn weighted(value: &Path) -> Result<Option<Weighted>, Error> {
    let is_name = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !name.is_empty() && name.chars().all(fits)
    };
    let parts = value.to_str().and_then(|text| text.split_once('='));
    let Some((name, rest)) = parts.filter(|(name, _)| is_name(name) && !value.exists()) else {
        return Ok(None);
    };
    let bad = |what: &str| {
        format!(
            "--adapter {}: {what}; expected NAME=DIR:WEIGHT, such as {name}=DIR:0.5",
            value.display()
        )
    };
    let (folder, weight) = rest
        .rsplit_once(':')
        .ok_or_else(|| bad("it has no weight"))?;
    let number = weight.parse().ok().filter(|x: &f64| x.is_finite());
    let number =
        number.ok_or_else(|| bad(&format!("the weight is `{weight}`, which is no number")))?;
    if folder.is_empty() {
        return Err(bad("it has no folder").into());
    }
    Ok(Some(Weighted {
        name: name.to_owned(),
        path: folder.into(),
        weight: number,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_folders_and_plain_ones_are_told_apart() {
        let of = |text: &str| weighted(Path::new(text));
        let several = of("a-1=x/y=z:w:-0.5").unwrap().unwrap();
        assert_eq!((&*several.name, several.weight), ("a-1", -0.5));
        assert_eq!(several.path, Path::new("x/y=z:w"));
        for plain in ["x", "x/y:0.5", "./a=b:1", "/tmp/a=b", "a/b=c:2"] {
            assert_eq!(of(plain).unwrap(), None, "{plain}");
        }
        for (text, said) in [
            ("a=x", "no weight"),
            ("a=x:half", "`half`, which is no number"),
            ("a=x:nan", "`nan`, which is no number"),
            ("a=x:", "``, which is no number"),
            ("a=:1", "no folder"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(said), "{error}");
        }
    }
}
