//! A pretrained model with its tokenizer and what it is for.

use std::{path::Path, sync::Arc};

use ailora_graph::adapter::Trainable;
use ailora_models::{
    batch::Encoded,
    closed::{Note, Unused},
    config::Config,
    data::Example,
    generate::{self, Generator, Writer},
    head::Head,
    hub,
    objective::{Causal, Objective, Predictor},
    peft::{Adapter, Origin, PeftError, Source},
    pretrained::{Pretrained, PretrainedError},
    task::{OtherLabels, Task},
    tokenizer::{Tokenizer, TokenizerError},
};
use ailora_runtime::{backend::Backend, engine::Engine};

use super::{AdapterFolder, Chosen};
use crate::run::Error;

/// A pretrained model for a task, with its tokenizer.
#[derive(Debug)]
pub struct Model {
    /// Weights and configuration, with a head for the task.
    pub pretrained: Pretrained,
    /// The model's own tokenizer.
    pub tokenizer: Tokenizer,
    /// What it is for: the task's objective, bound to this model; to go on with texts, if it was
    /// opened for that.
    pub objective: Arc<dyn Objective>,
    /// How the labels of a complete model differ from the task's, if they do.
    pub other_labels: Option<OtherLabels>,
    /// An adapter, whose tensors are not among the weights yet.
    pub adapter: Option<Adapter>,
}

impl Model {
    /// Loads a folder or a hub id as a classifier for `task`. What the files lack, such as a new
    /// head, is drawn from `seed`; if `complete`, nothing may be lacking.
    ///
    /// # Errors
    /// The files are missing, malformed, or of a model that is not supported.
    pub fn open(name: &str, task: &Task, seed: u64, complete: bool) -> Result<Self, Error> {
        let mut model = Self::bare(&hub::resolve(name)?, &task.objective, task.head())?;
        if complete {
            model.pretrained.check_head()?;
        } else {
            model.pretrained.initialise_head(seed);
        }
        let other = model.bind(task)?;
        model.other_labels = other.filter(|_| complete);
        Ok(model)
    }

    /// Loads a folder or a hub id as a classifier for `task` with an adapter. Base and adapter
    /// together must have the whole of the model.
    ///
    /// # Errors
    /// As [`open`](Self::open); the folder holds no adapter for this base and this task; several adapters
    /// that do not go together.
    pub fn adapted<'a>(
        name: &str,
        task: &Task,
        adapter: impl Into<Chosen<'a>>,
    ) -> Result<Self, Error> {
        let mut model = Self::bare(&hub::resolve(name)?, &task.objective, task.head())?;
        model.bind(task)?;
        model.adapt(name, Some(&task.name), adapter.into())?;
        Ok(model)
    }

    /// Reads the folder of a model, given as such or by its id on the hub, that writes text: a causal
    /// language model, or an encoder-decoder; with an adapter, if one is given.
    ///
    /// # Errors
    /// As [`adapted`](Self::adapted), and a model that has no such head.
    pub fn generating(name: &str, adapter: Option<Chosen<'_>>) -> Result<Self, Error> {
        let folder = hub::resolve(name)?;
        let config = Config::from_dir(&folder).map_err(PretrainedError::from)?;
        let head = match config.architecture.start_token() {
            Some(_) => Head::Seq2SeqLm { smoothing: 0.0 },
            None => Head::CausalLm,
        };
        let objective: Arc<dyn Objective> = Arc::new(Causal::new("text"));
        let mut model = Self::bare(&folder, &objective, head)?;
        match adapter {
            Some(adapter) => model.adapt(name, None, adapter)?,
            None => model.pretrained.check_head()?,
        }
        Ok(model)
    }

    /// A model as its files have it, whose head may be missing.
    fn bare(folder: &Path, objective: &Arc<dyn Objective>, head: Head) -> Result<Self, Error> {
        let mut pretrained = Pretrained::open(folder, head)?;
        let tokenizer = pretrained.tokenizer()?;
        pretrained.report.notes.extend_from_slice(tokenizer.notes());
        Ok(Self {
            pretrained,
            tokenizer,
            objective: objective.clone(),
            other_labels: None,
            adapter: None,
        })
    }

    /// Binds the task's objective to the model. Gives the model's labels where they are others.
    fn bind(&mut self, task: &Task) -> Result<Option<OtherLabels>, TokenizerError> {
        let config = self.pretrained.model.config();
        let (objective, other) = task.bind(config, &self.tokenizer)?;
        self.objective = objective;
        Ok(other)
    }

    /// How to generate: as the folder says, and over that as `task` does. What of the folder's is not
    /// used is added to the report.
    ///
    /// # Errors
    /// A file that cannot be read, or asks for what is not done; a field of the task's that is out of
    /// range for this model.
    pub fn generation(&mut self, task: Option<&Task>) -> Result<generate::Settings, Error> {
        let Pretrained { dir, model, .. } = &self.pretrained;
        let (settings, notes) = generate::Settings::read(dir, model.config())?;
        self.pretrained.report.notes.extend(notes);
        let vocabulary = self.pretrained.model.config().architecture.vocab_size();
        match task {
            Some(task) => Ok(task.generation(settings, vocabulary)?),
            None => Ok(settings),
        }
    }

    /// Reads an adapter for this model, which was asked for as `name`, or makes one of several.
    fn adapt(&mut self, name: &str, task: Option<&str>, chosen: Chosen<'_>) -> Result<(), Error> {
        let (adapter, based) = match chosen {
            Chosen::Folder(folder) => self.read_adapter(name, task, folder)?,
            Chosen::Several(several) => {
                let read = several.folders.iter().map(|folder| {
                    let (path, force) = (folder.path.as_path(), several.force);
                    self.read_adapter(name, task, AdapterFolder { path, force })
                });
                let read = read.collect::<Result<Vec<_>, Error>>()?;
                let (adapters, based): (Vec<_>, Vec<_>) = read.into_iter().unzip();
                let sources = several.folders.iter().zip(&adapters);
                let sources: Vec<Source<'_>> = sources
                    .map(|(folder, adapter)| Source {
                        name: &folder.name,
                        weight: folder.weight,
                        adapter,
                    })
                    .collect();
                let model = &self.pretrained.model;
                let combined = Adapter::combine(&sources, &several.how, model);
                let based = based.into_iter().collect::<Result<Vec<_>, _>>();
                let based = based.map(|notes| notes.concat());
                match combined {
                    Ok(adapter) => (adapter, based),
                    Err(error) => return Err(Error::on(error, based)),
                }
            }
        };
        let base = &mut self.pretrained;
        let parameters = base.model.parameters();
        let lacking = parameters.iter().filter(|parameter| {
            let own = adapter.tensors.contains_key(&parameter.name);
            !own && base.weights.get(&parameter.name).map(|w| w.shape()) != Some(&parameter.shape)
        });
        if lacking.count() > 0 {
            // What both together lack is the error.
            base.weights.extend(adapter.tensors);
            return base.check_head().map_err(|error| Error::on(error, based));
        }
        base.report.notes.extend(based?);
        self.adapter = Some(adapter);
        Ok(())
    }

    /// Reads the adapter of a folder, and what is to be said of it, unless it is for another base.
    fn read_adapter(
        &mut self,
        name: &str,
        task: Option<&str>,
        AdapterFolder { path, force }: AdapterFolder<'_>,
    ) -> Result<(Adapter, Result<Vec<Note>, PeftError>), Error> {
        let base = &mut self.pretrained;
        let origin = Origin::read(path)?;
        if !force {
            origin.check_task(path, task, base.model.head())?;
        }
        let based = match force {
            true => Ok(None),
            false => origin.check_base(path, name, base),
        };
        match Adapter::load(path, base) {
            Ok(adapter) => {
                let notes = based.map(|note| origin.note.into_iter().chain(note).collect());
                Ok((adapter, notes))
            }
            Err(error) => Err(Error::on(error, based)),
        }
    }

    /// Nothing of the folder's files may be unused.
    ///
    /// # Errors
    /// Something is; [`LoadReport::notes`](ailora_models::pretrained::LoadReport::notes) says what.
    pub fn strict(&self) -> Result<(), Unused> {
        match &self.pretrained.report.notes[..] {
            [] => Ok(()),
            notes => Err(Unused(notes.to_vec())),
        }
    }

    /// The longest sequence, at most `wanted`.
    pub fn max_len(&self, wanted: usize) -> usize {
        wanted.min(self.pretrained.model.config().architecture.max_len())
    }

    /// Rows as the model sees them.
    ///
    /// # Errors
    /// The tokenizer fails on a row.
    pub fn encode(&self, rows: &[Example], max_len: usize) -> Result<Vec<Encoded>, Error> {
        Ok(self.objective.encode(rows, &self.tokenizer, max_len)?)
    }

    /// Rows to evaluate on as the model sees them.
    ///
    /// # Errors
    /// The tokenizer fails on a row.
    pub fn encode_held_out(&self, rows: &[Example], max_len: usize) -> Result<Vec<Encoded>, Error> {
        let rows = self
            .objective
            .encode_held_out(rows, &self.tokenizer, max_len);
        Ok(rows?)
    }

    /// What writes texts as `settings` say, and an engine with the parameters; the adapter is beside the weights,
    /// or merged into them.
    ///
    /// # Errors
    /// A weight is missing.
    pub fn writer(
        self,
        settings: generate::Settings,
        merged: bool,
        backend: Box<dyn Backend>,
    ) -> Result<(Writer, Engine), Error> {
        let positions = self.max_len(usize::MAX);
        let mut sites = self.pretrained.model.sites();
        let mut params = self.pretrained.weights;
        let mut adapter = self.adapter.unwrap_or_default();
        if merged {
            adapter.merge_into(&mut params)?;
            adapter = Adapter::default();
        }
        sites = adapter.apply_to(sites);
        params.extend(adapter.tensors);
        let generator = Generator::new(self.pretrained.model, sites);
        let writer = Writer::new(generator, self.tokenizer, settings, positions);
        Ok((writer, Engine::fused(backend, params)))
    }

    /// What writes texts as `settings` say, over the engine that [`predictor`](Self::predictor) gave.
    pub fn writer_on(&self, predictor: &Predictor, settings: generate::Settings) -> Writer {
        let generator = Generator::new(predictor.model().clone(), predictor.sites().to_vec());
        let positions = self.max_len(usize::MAX);
        Writer::new(generator, self.tokenizer.clone(), settings, positions)
    }

    /// A predictor with the adapter, if there is one, and an engine with the parameters it needs,
    /// which the model has no longer.
    pub fn predictor(mut self, backend: Box<dyn Backend>) -> (Predictor, Engine, Self) {
        let adapter = self.adapter.take().unwrap_or_default();
        let sites = adapter.apply_to(self.pretrained.model.sites());
        let mut params = std::mem::take(&mut self.pretrained.weights);
        params.extend(adapter.tensors);
        let pad = self.tokenizer.pad_id();
        let predictor = Predictor::new(
            self.pretrained.model.clone(),
            self.objective.clone(),
            sites,
            Trainable::Adapters,
            pad,
        );
        (predictor, Engine::fused(backend, params), self)
    }
}
