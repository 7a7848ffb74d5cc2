//! A pretrained model that learns a task.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use ailora_graph::{AdaptConfig, Trainable, adapter::Site, ir::Draw, module::Parameter};
use ailora_models::{
    batch::Encoded,
    data::Example,
    dataset::Understood,
    generate::{self, WriteOptions},
    objective::{
        Predictor,
        written::{self, Writing, Written},
    },
    peft::Adapter,
    pretrained::LoadReport,
    supervised::{Batching, Supervised, Train},
    task::{Splits, Task},
};
use ailora_runtime::{
    collective::Single,
    store::Params,
    train::{Headline, Keep},
};
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{
    About, Model, Settings, continued::Continued, data, folder::hashes, rows::Rows, trained_length,
    write_model,
};
use crate::{
    output::{ADAPTER, MODEL},
    run::{Adapted, Error, Identity, Learner, Recipe, Run, SettingsError, hash},
};

/// A pretrained model that learns a task from the task's rows.
#[derive(Debug)]
pub struct Finetuning {
    settings: Settings,
    task: Task,
    /// What is understood of data of one's own.
    understood: Option<Understood>,
    model: Model,
    /// The adapter that is trained on, if one is.
    continued: Option<Continued>,
    /// The folder of the task's files.
    data: PathBuf,
    max_len: usize,
    /// Training rows.
    rows: usize,
    train: Train,
    held_out: IndexMap<String, Vec<Encoded>>,
    notices: Vec<String>,
    /// What is written of the held-out rows at every evaluation, where the best is judged by that.
    texts: Option<Texts>,
}

impl Settings {
    /// The run that these settings say: the model is loaded and the task's rows are read.
    ///
    /// # Errors
    /// Something given is wrong, or a file cannot be read.
    pub fn run(&self) -> Result<Run<Finetuning>, Error> {
        self.check()?;
        if !self.dataset.is_given() {
            let task = Task::parse(&self.task)?;
            if let Some(setting) = self.dataset.of_files() {
                let task = task.name;
                return Err(SettingsError::OfFiles { setting, task }.into());
            }
            return self.run_on(&self.dataset.changed(task)?);
        }
        let understood = self.dataset.understand()?;
        let task = self.dataset.task(&understood, self.seed)?;
        self.run_of(&task, Some(understood))
    }

    /// As [`run`](Self::run), for a task of your own; the settings have its name.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_on(&self, task: &Task) -> Result<Run<Finetuning>, Error> {
        self.check()?;
        self.run_of(task, None)
    }

    fn run_of(
        &self,
        task: &Task,
        understood: Option<Understood>,
    ) -> Result<Run<Finetuning>, Error> {
        Ok(Run {
            learner: Finetuning::open(self, task, understood)?,
            adapters: self.adapters.clone(),
            recipe: self.recipe(),
            ranks: std::sync::Arc::new(Single),
        })
    }
}

impl Finetuning {
    fn open(
        settings: &Settings,
        task: &Task,
        understood: Option<Understood>,
    ) -> Result<Self, Error> {
        let (mut model, continued) = begin(settings, task)?;
        let data = match understood {
            Some(_) => PathBuf::new(),
            None => data(task, settings.data.as_deref())?,
        };
        let malformed = settings.dataset.malformed();
        let streams = understood
            .as_ref()
            .is_some_and(|understood| settings.dataset.streams(&understood.survey));
        // What is recorded says all of what was computed.
        let mut settings = settings.clone();
        let before = settings.from.as_deref().and_then(trained_length);
        let wanted = settings.max_length.or(before).unwrap_or(task.max_len());
        settings.max_length = Some(wanted);
        let settings = &settings;
        let max_len = model.max_len(wanted);
        let mut splits = match streams {
            true => Splits::default(),
            false => task.load_dir(&data, malformed)?,
        };
        let mut rows = Rows {
            task,
            model: &model,
            max_len,
            notices: Vec::new(),
        };
        let (train, count) = match streams {
            true => {
                let (stream, notes) = rows.streamed(settings, malformed)?;
                splits.notes = notes;
                splits.add_held_out(task, &data, malformed)?;
                let count = stream.rows;
                (Train::Streamed(stream), count)
            }
            false => {
                let train = subset(std::mem::take(&mut splits.train), settings.rows);
                let train = rows.held(&train)?;
                let count = train.len();
                (Train::Held(train), count)
            }
        };
        let about = match judged_by_texts(settings, &model) {
            true => Some(about(&model, &splits, max_len)?),
            false => None,
        };
        let encode = |(name, examples): (String, Vec<Example>)| {
            let encoded = rows.held_out(&name, &examples)?;
            Ok((name, encoded))
        };
        let held_out = splits.dev.into_iter().map(encode);
        let held_out: IndexMap<String, Vec<Encoded>> = held_out.collect::<Result<_, Error>>()?;
        let mut notices = rows.notices;
        if let Some(continued) = &continued {
            notices.splice(..0, continued.notices.iter().cloned());
        }
        if let Some(understood) = &understood {
            splits.notes.extend_from_slice(&understood.notes);
            let sizes = held_out.iter().map(|(name, rows)| size(name, rows.len()));
            let decisions = understood.decisions.iter().cloned();
            notices.splice(..0, decisions.chain(sizes));
        }
        model.pretrained.report.notes.extend(splits.notes);
        let texts = match about {
            Some(splits) => Some(Texts {
                splits,
                settings: model.generation(Some(task))?,
            }),
            None => None,
        };
        if settings.strict {
            model.strict()?;
        }
        Ok(Self {
            settings: settings.clone(),
            task: task.clone(),
            understood,
            data,
            max_len,
            rows: count,
            train,
            held_out,
            notices,
            texts,
            model,
            continued,
        })
    }

    /// The parameters that the base's files have not got, or that are others in the adapter that is trained
    /// on.
    fn drawn(&self) -> Vec<String> {
        let drawn = self.model.pretrained.report.initialised.iter();
        let drawn = drawn.map(|initialised| initialised.name.clone());
        let continued = self.continued.iter();
        let held = continued.flat_map(|continued| continued.held.iter().cloned());
        drawn.chain(held).collect()
    }

    /// Writes the adapter as PEFT loads it, and what it is beside it.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write_adapter(
        &self,
        folder: &Path,
        adapter: &Adapter,
        Adapted { sites, trainable }: &Adapted,
    ) -> Result<(), Error> {
        let Self { settings, task, .. } = self;
        adapter.save(folder, &settings.model, task.head())?;
        let mut about = About::new(&settings.model, task, &self.model.pretrained.sha256);
        about.seed = Some(settings.seed);
        about.max_length = settings.max_length;
        about.describe(sites);
        about.trainable = Some(trainable.clone());
        about.from.clone_from(&settings.from);
        about.write(folder)
    }
}

impl Learner for Finetuning {
    type Workload = Supervised;

    fn parameters(&self) -> &[Parameter] {
        self.model.pretrained.model.parameters()
    }

    fn sites(&self) -> Vec<Site> {
        self.model.pretrained.model.sites()
    }

    fn adapted(&self, adapters: &AdaptConfig) -> Result<Adapted, Error> {
        adapted(adapters, self.continued.as_ref(), &self.model)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn report(&self) -> Option<&LoadReport> {
        Some(&self.model.pretrained.report)
    }

    fn notices(&self) -> &[String] {
        &self.notices
    }

    fn identity(&mut self, adapters: &AdaptConfig, recipe: &Recipe) -> Result<Identity, Error> {
        self.settings = self.settings.with(adapters, recipe);
        let mut data = IndexMap::new();
        for file in self.task.files() {
            let hash = hash::file(&self.data.join(file))?;
            // Files of one's own may be elsewhere the next time.
            let named = match &self.understood {
                Some(_) => file.file_name().unwrap_or_default(),
                None => file.as_os_str(),
            };
            let mut name = named.to_string_lossy().into_owned();
            while data.contains_key(&name) {
                name.push('+');
            }
            data.insert(name, hash);
        }
        // Steps that were not counted to their end are those of this run alone.
        if let Train::Streamed(stream) = &self.train {
            data.insert("rows".to_owned(), stream.rows.to_string());
        }
        let mut inputs = vec![self.model.pretrained.dir.clone()];
        match &self.understood {
            Some(_) => inputs.extend(self.task.files().into_iter().map(Path::to_owned)),
            None => inputs.push(self.data.clone()),
        }
        let mut base = hashes(&self.model.pretrained)?;
        if let Some(continued) = &self.continued {
            base.extend(continued.hashes()?);
        }
        inputs.extend(self.settings.from.clone());
        Ok(Identity {
            settings: serde_json::to_value(&self.settings).unwrap_or_default(),
            base,
            data,
            inputs,
        })
    }

    fn take_weights(&mut self) -> Params {
        std::mem::take(&mut self.model.pretrained.weights)
    }

    fn workload(&mut self, adapted: &Adapted, recipe: &Recipe) -> Result<Supervised, Error> {
        let predictor = Predictor::new(
            self.model.pretrained.model.clone(),
            self.model.objective.clone(),
            adapted.sites.clone(),
            adapted.trainable.clone(),
            self.model.tokenizer.pad_id(),
        );
        let batching = Batching {
            batch_size: recipe.batch_size,
            accumulate: recipe.accumulate,
            max_len: self.max_len,
            seed: recipe.seed,
        };
        let train = std::mem::replace(&mut self.train, Train::Held(Vec::new()));
        let held_out = std::mem::take(&mut self.held_out);
        let writing = self.texts.take().map(|texts| {
            let Texts { splits, settings } = texts;
            let options = WriteOptions::of(&settings, recipe.batch_size);
            let mut writer = self.model.writer_on(&predictor, settings);
            writer.end_at(self.model.objective.end(&self.model.tokenizer));
            Writing {
                writer,
                options,
                splits,
            }
        });
        let supervised = Supervised::new(predictor, train, held_out, batching)?;
        Ok(match writing {
            Some(writing) => supervised.with_texts(writing),
            None => supervised,
        })
    }

    fn kept(&self, Adapted { sites, trainable }: &Adapted) -> Vec<String> {
        let model = &self.model.pretrained.model;
        Adapter::held(model, sites, trainable, &self.drawn())
    }

    fn writes(&self, adapted: &Adapted) -> &'static [&'static str] {
        match adapted.trainable {
            Trainable::All => MODEL,
            _ => ADAPTER,
        }
    }

    fn about(&self) -> Value {
        json!({
            "task": self.task.name,
            "method": self.settings.adapters.method,
            "seed": self.settings.seed,
        })
    }

    fn save(&self, folder: &Path, adapted: &Adapted, mut params: Params) -> Result<(), Error> {
        let Adapted { sites, trainable } = adapted;
        if *trainable == Trainable::All {
            params.retain(|name, _| self.parameters().iter().any(|p| p.name == *name));
            return write_model(&self.model, &self.task, &params, folder);
        }
        let model = &self.model.pretrained.model;
        let adapter = Adapter::from_trained(model, sites, &params, trainable, &self.drawn())?;
        self.write_adapter(folder, &adapter, adapted)
    }
}

/// What trains with a configuration: of an adapter that is trained on, or of the model as it is annotated.
fn adapted(
    config: &AdaptConfig,
    continued: Option<&Continued>,
    model: &Model,
) -> Result<Adapted, Error> {
    let model = &model.pretrained.model;
    match continued {
        Some(continued) => continued.adapted(config, model.parameters()),
        None => Ok(Adapted::new(config, model.sites(), model.parameters())?),
    }
}

/// Held-out rows about which is written, and how.
#[derive(Debug)]
struct Texts {
    splits: HashMap<String, Written>,
    settings: generate::Settings,
}

/// What is read of held-out rows to write about them.
fn about(
    model: &Model,
    splits: &Splits,
    max_len: usize,
) -> Result<HashMap<String, Written>, Error> {
    let rows = |(name, examples): (&String, &Vec<Example>)| {
        let prompts = model
            .objective
            .prompts(examples, &model.tokenizer, max_len)?;
        let ids = |ids: Vec<u32>| ids.into_iter().map(|id| id as i32).collect();
        let targets: Vec<_> = examples.iter().map(|row| row.target.clone()).collect();
        written::check(&*model.objective, name, &targets)?;
        let written = Written {
            prompts: prompts.unwrap_or_default().into_iter().map(ids).collect(),
            targets,
        };
        Ok((name.clone(), written))
    };
    splits.dev.iter().map(rows).collect()
}

/// Whether the best evaluation is judged by texts that the model writes: by none of the other metrics.
fn judged_by_texts(settings: &Settings, model: &Model) -> bool {
    let Some(headline) = &settings.headline else {
        return false;
    };
    let names = |metric: &Headline| {
        let split = headline.strip_suffix(&metric.name);
        split.is_some_and(|split| split.is_empty() || split.ends_with('_'))
    };
    let objective = &model.objective;
    !objective.text_metrics().is_empty() && !objective.headlines().iter().any(names)
}

/// Some of the rows, always the same ones, in file order.
fn subset(rows: Vec<Example>, wanted: Option<usize>) -> Vec<Example> {
    let Some(wanted) = wanted.filter(|&wanted| wanted < rows.len()) else {
        return rows;
    };
    let key = Draw::default().key("rows");
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| key.uniform(a as u64).total_cmp(&key.uniform(b as u64)));
    let mut kept = vec![false; rows.len()];
    order[..wanted].iter().for_each(|&row| kept[row] = true);
    rows.into_iter()
        .zip(kept)
        .filter_map(|(row, kept)| kept.then_some(row))
        .collect()
}

/// The model, and the adapter that is trained on: what does not fit the settings is said before the rows are
/// read.
fn begin(settings: &Settings, task: &Task) -> Result<(Model, Option<Continued>), Error> {
    if task.dev.is_empty() {
        settings.recipe().headline(&[])?;
    }
    if settings.keep == Some(Keep::Best) && task.dev.is_empty() {
        let task = task.name.clone();
        return Err(SettingsError::NothingHeldOut { task }.into());
    }
    let mut model = Model::open(&settings.model, task, settings.seed, false)?;
    let continued = match &settings.from {
        Some(folder) => Some(Continued::open(
            folder,
            &mut model,
            &settings.model,
            &task.name,
        )?),
        None => None,
    };
    if settings.strict {
        model.strict()?;
    }
    let adapted = adapted(&settings.adapters, continued.as_ref(), &model)?;
    if adapted.trainable != Trainable::All {
        Adapter::check(&adapted.sites)?;
    }
    Ok((model, continued))
}

/// How many rows a split has to evaluate on.
fn size(name: &str, rows: usize) -> String {
    match rows {
        1 => format!("{name}: 1 row to evaluate on"),
        n => format!("{name}: {n} rows to evaluate on"),
    }
}
