//! Data of one's own: files, and which of their columns is what. What is not said is inferred from
//! the columns' names and values, by one reading of the training files, and said.

mod error;
mod infer;
mod labels;
mod names;
mod survey;
mod words;

pub use error::DatasetError;
pub use survey::{Column, Kinds, MOST_VALUES, Survey};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    chat::Learn,
    choice::{Choice, options},
    closed::Note,
    data::{DataError, FORMATS, Source, Text, files},
    head::Head,
    objective::settled_chat,
    task::{Malformed, Rows, Share, Split, Task, TaskError, described},
};
use infer::{Inferred, infer};

/// The share of the training rows that is held out where no validation files are given,
const HELD_OUT: f64 = 0.05;
/// and the most rows that is.
const MOST_HELD_OUT: usize = 2000;

/// Files of one's own, and what in them is what. Everything but `train` may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dataset {
    /// The files to train on, or folders of files.
    pub train: Vec<PathBuf>,
    /// The files to evaluate on, by which the best epoch is known.
    pub valid: Vec<PathBuf>,
    /// More files to evaluate on.
    pub test: Vec<PathBuf>,
    /// The share of the training rows that is held out to evaluate on, if `valid` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<f64>,
    /// The files' format, if their names do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Choice>,
    /// The column of the text, or a template with columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// That of the second text of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// The columns of what is to be predicted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// What is learned, with options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Choice>,
    /// What is learned of chats, and of prompts with answers; answers without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learn: Option<Learn>,
    /// A chat template in place of the model's own: the name of one that is built in, a file, or Jinja.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Whether rows that cannot be used are left out.
    pub skip_malformed: bool,
    /// Whether training rows are read again every epoch instead of being kept in memory; if absent,
    /// whether they are long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// Characters of training rows that are kept in memory at most.
const KEPT: u64 = 128 << 20;

/// What is understood of files.
#[derive(Clone, Debug)]
pub struct Understood {
    /// The task, without its files, as [`Task::from_value`] reads it.
    pub description: Value,
    /// What was decided, for the user.
    pub decisions: Vec<String>,
    /// What the training files hold.
    pub survey: Survey,
    /// What of the given paths is not read.
    pub notes: Vec<Note>,
}

impl Dataset {
    /// Files of which everything is to be inferred.
    pub fn of(files: &[PathBuf]) -> Self {
        Self {
            train: files.to_vec(),
            ..Self::default()
        }
    }

    /// A task whose files have other columns, which are named here, or with other options of what is
    /// learned.
    ///
    /// # Errors
    /// A template that is none, an option that the task's objective has not, or another objective.
    pub fn changed(&self, mut task: Task) -> Result<Task, DatasetError> {
        let template = |given: &String| match given.contains('{') {
            true => Text::parse(given),
            false => Text::parse(&format!("{{{given}}}")),
        };
        let wrong = |error| DatasetError::Task(TaskError::Description(error));
        if self.objective.is_some()
            || self.learn.is_some()
            || self.chat_template.is_some()
            || !self.label.is_empty()
        {
            // Of a task that is built in the options may be others, and no columns.
            let built_in = self
                .label
                .is_empty()
                .then(|| described(&task.name))
                .flatten();
            let Some(mut description) = task.description.or(built_in) else {
                return Err(DatasetError::Trained(task.name));
            };
            let mut objective: Choice = options(description["objective"].take()).map_err(wrong)?;
            let asked = self.objective.as_ref();
            if asked.is_some_and(|asked| asked.name != objective.name) {
                return Err(DatasetError::Trained(task.name));
            }
            self.set_options(&mut objective)?;
            if !self.label.is_empty() {
                let options = &mut objective.options;
                let field = ["label", "answer", "target"]
                    .into_iter()
                    .find(|name| options[*name].is_string());
                match (field, &self.label[..]) {
                    (Some(field), [label]) => options[field] = json!(label),
                    _ => return Err(DatasetError::Trained(task.name)),
                }
            }
            description["objective"] = json!(objective);
            task = Task::own(&description)?;
        }
        if let Some(text) = &self.text {
            task.text = template(text).map_err(wrong)?;
            task.evaluation_text = None;
        }
        if let Some(pair) = &self.pair {
            if matches!(task.head(), Head::CausalLm | Head::Seq2SeqLm { .. }) {
                return Err(DatasetError::no_pair(&task.name));
            }
            task.pair = Some(template(pair).map_err(wrong)?);
        }
        if let Some(format) = &self.format {
            task.format = format.clone().make("format", FORMATS).map_err(wrong)?;
        }
        Ok(task)
    }

    /// Sets the options of an objective that are asked for.
    fn set_options(&self, objective: &mut Choice) -> Result<(), DatasetError> {
        let Choice { name, options } = objective;
        let no_use = |flag, what| DatasetError::NoUse {
            flag,
            what,
            objective: name.clone(),
        };
        if self.learn.is_some() && !["chat", "causal"].contains(&name.as_str()) {
            return Err(no_use("learn", "chats, and prompts with answers"));
        }
        if self.chat_template.is_some() && name != "chat" {
            return Err(no_use("chat-template", "chats"));
        }
        let Value::Object(options) = options else {
            return Ok(());
        };
        let asked = self.objective.as_ref();
        if let Some(Value::Object(asked)) = asked.map(|asked| &asked.options) {
            options.extend(asked.clone());
        }
        let flags = [
            ("learn", self.learn.map(|learn| json!(learn))),
            (
                "template",
                self.chat_template.as_ref().map(|template| json!(template)),
            ),
        ];
        for (option, value) in flags {
            options.extend(value.map(|value| (option.to_owned(), value)));
        }
        Ok(())
    }

    /// Whether nothing at all is said.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The first setting that is of files alone: which there are, and which of their columns is what. A
    /// task that is built in says that itself.
    pub fn of_files(&self) -> Option<&'static str> {
        let settings = [
            ("valid", !self.valid.is_empty()),
            ("test", !self.test.is_empty()),
            ("hold_out", self.hold_out.is_some()),
            ("format", self.format.is_some()),
            ("text", self.text.is_some()),
            ("pair", self.pair.is_some()),
            ("label", !self.label.is_empty()),
            ("stream", self.stream.is_some()),
        ];
        let given = settings.into_iter().find(|(_, is_given)| *is_given);
        given.map(|(setting, _)| setting)
    }

    /// Whether any files to train on are given.
    pub fn is_given(&self) -> bool {
        !self.train.is_empty()
    }

    fn first_file(&self) -> PathBuf {
        self.train.first().cloned().unwrap_or_default()
    }

    /// What becomes of rows that cannot be used.
    pub fn malformed(&self) -> Malformed {
        match self.skip_malformed {
            true => Malformed::Skipped,
            false => Malformed::Refused,
        }
    }

    /// Whether the training rows of files that hold these are read again every epoch.
    pub fn streams(&self, survey: &Survey) -> bool {
        self.stream.unwrap_or(survey.chars() > KEPT)
    }

    /// Reads the training files once, and understands what they are for.
    ///
    /// # Errors
    /// A file that cannot be read, or columns of which it cannot be told what they are.
    pub fn understand(&self) -> Result<Understood, DatasetError> {
        if !self.is_given() {
            return Err(DatasetError::NoFiles);
        }
        let (train, notes) = files(&self.train)?;
        let format = self.format.clone().unwrap_or_else(|| Choice::of("auto"));
        let made = format.clone().make("format", FORMATS);
        let made = made.map_err(TaskError::Description)?;
        let mut survey = Survey {
            skips: self.skip_malformed,
            ..Survey::default()
        };
        for path in &train {
            made.read(&mut Source::open(path, None)?, &mut survey)?;
        }
        if survey.rows == 0 {
            let path = self.first_file();
            return Err(DataError::Empty { path }.into());
        }
        let Inferred {
            mut objective,
            text,
            pair,
            id,
            unused,
            trim,
            decisions,
        } = infer(self, &survey)?;
        // What a later reading repeats is recorded: the date of today, and the template of a file.
        if objective.name == "chat" {
            objective.options = settled_chat(&objective.options)?;
        }
        let name = self.first_file();
        let name = name.file_stem().unwrap_or_default().to_string_lossy();
        let mut description = Map::from_iter([
            ("name".to_owned(), json!(name)),
            ("objective".to_owned(), json!(objective)),
            ("format".to_owned(), json!(format)),
            ("text".to_owned(), text),
            ("trim".to_owned(), json!(trim)),
        ]);
        description.extend(pair.map(|pair| ("pair".to_owned(), pair)));
        if !unused.is_empty() {
            description.insert("unused".to_owned(), json!(unused));
        }
        description.extend(id.map(|id| ("id".to_owned(), json!(id))));
        Ok(Understood {
            description: description.into(),
            decisions,
            survey,
            notes,
        })
    }

    /// The task that was understood, with its files.
    ///
    /// # Errors
    /// What was asked for of it is wrong, or files are missing.
    pub fn task(&self, understood: &Understood, seed: u64) -> Result<Task, DatasetError> {
        let mut task = Task::own(&understood.description)?;
        let split = |name: &str, paths: &[PathBuf], rows| -> Result<Split, DatasetError> {
            let (files, _) = files(paths)?;
            let name = name.to_owned();
            Ok(Split { name, files, rows })
        };
        task.train = split("train", &self.train, Rows::All)?;
        if !self.valid.is_empty() {
            task.dev.push(split("valid", &self.valid, Rows::All)?);
        } else if let Some(share) = self.share(understood.survey.rows, seed)? {
            task.train.rows = Rows::But(share);
            task.dev
                .push(split("valid", &self.train, Rows::HeldOut(share))?);
        }
        if !self.test.is_empty() {
            task.dev.push(split("test", &self.test, Rows::All)?);
        }
        Ok(task)
    }

    /// Which rows are held out.
    fn share(&self, rows: usize, seed: u64) -> Result<Option<Share>, DatasetError> {
        let (wanted, most) = match self.hold_out {
            Some(0.0) => return Ok(None),
            Some(share) if share > 0.0 && share < 1.0 => (share, usize::MAX),
            Some(share) => return Err(DatasetError::Share(share)),
            None => (HELD_OUT, MOST_HELD_OUT),
        };
        let wanted = (rows as f64 * wanted).round() as usize;
        if rows < 2 {
            let path = self.first_file();
            return Err(DatasetError::FewRows { path, rows });
        }
        Ok(Some(Share::of(
            wanted.clamp(1, most.min(rows - 1)),
            rows,
            seed,
        )))
    }
}

#[cfg(test)]
mod tests;
