//! A pretrained model's folder: its weights under the names of the model with a head.

mod companions;
mod names;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ailora_graph::{ir::Draw, module::Parameter};
use ailora_runtime::store::{Array, Params};
use thiserror::Error;

use crate::{
    batch::Shape,
    closed::Note,
    config::{Config, ConfigError},
    head::Head,
    model::{Model, ModelError},
    tokenizer::{Tokenizer, TokenizerError},
    weights::{self, WeightsError},
};
pub(crate) use names::Names;

/// A pretrained model that cannot be used.
#[derive(Debug, Error)]
pub enum PretrainedError {
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its configuration describes no model that can be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Weights of the pretrained model are not in its files.
    #[error(
        "{}: {} weights that config.json asks for are missing: {}; is this a whole model of that \
         kind?", dir.display(), names.len(), shortened(names)
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The weights, with the element type where they are there as something else than floats.
        names: Vec<String>,
    },
    /// A weight has another shape than the configuration says.
    #[error(
        "{}: weight `{name}` has shape {found:?}, but config.json asks for {expected:?}; are both \
         of the same model?", dir.display()
    )]
    Shape {
        /// The folder.
        dir: PathBuf,
        /// The weight.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// Two tensors of the files are the same weight.
    #[error("{}: both `{first}` and `{second}` are weight `{name}`; remove one", dir.display())]
    Twice {
        /// The folder.
        dir: PathBuf,
        /// The weight.
        name: String,
        /// One tensor's name.
        first: String,
        /// The other's.
        second: String,
    },
    /// A configuration of more layers than the files can have.
    #[error(
        "{}: `{field}` of config.json is {layers}, but the files have {tensors} tensors in all; \
         are both of the same model?", dir.display()
    )]
    Layers {
        /// The folder.
        dir: PathBuf,
        /// The field.
        field: &'static str,
        /// How many layers it asks for.
        layers: usize,
        /// How many tensors there are.
        tensors: usize,
    },
    /// Tensors of the pretrained model, or of the head, that nothing is computed of.
    #[error(
        "{}: {} tensors are inside the model, but nothing that config.json asks for is computed of \
         them: {}; correct config.json, or remove them if they change nothing",
        dir.display(), names.len(), shortened(names)
    )]
    Unknown {
        /// The folder.
        dir: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// Tensors that the model shares and that differ.
    #[error(
        "{}: tensors `{first}` and `{second}` differ, but this model has one table for both; \
         remove the one that is wrong", dir.display()
    )]
    Untied {
        /// The folder.
        dir: PathBuf,
        /// One tensor's name.
        first: String,
        /// The other's.
        second: String,
    },
    /// A file beside the weights cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The model has no trained head.
    #[error(
        "{}: it has no trained head for this task: {} missing; train one first, or give an \
         adapter that has it", dir.display(), shortened(names)
    )]
    NoHead {
        /// The folder.
        dir: PathBuf,
        /// The head's weights.
        names: Vec<String>,
    },
    /// The model's head was trained for another number of labels.
    #[error(
        "{}: weight `{name}` of its head has shape {found:?}, but the task needs {expected:?}; \
         give an adapter trained for this task, or a model that was", dir.display()
    )]
    OtherHead {
        /// The folder.
        dir: PathBuf,
        /// The weight.
        name: String,
        /// The shape the task needs.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
}

/// A pretrained model as its folder has it.
///
/// ```no_run
/// # use ailora_models::{head::Head, hub, pretrained::Pretrained};
/// let folder = hub::resolve("bert-base-uncased")?;
/// let mut base = Pretrained::open(&folder, Head::classification(3))?;
/// base.initialise_head(0);
/// println!("{}", base.report);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The folder.
    pub dir: PathBuf,
    /// The model of its configuration, with a head.
    pub model: Model,
    /// The weights by the model's names, in the types that the files have. The head's are there if the files have them;
    /// where they depend on the number of labels, whatever their shape.
    pub weights: Params,
    /// What became of the files' tensors.
    pub report: LoadReport,
    /// SHA-256 of the weights' file in hexadecimal; of the shards one after the other, in the order
    /// of their names, where there are several.
    pub sha256: String,
}

impl Pretrained {
    /// Reads the configuration of a model's folder, and the weights for it with this head.
    ///
    /// Names may lack the prefix of the pretrained model, and norms may be called `gamma` and
    /// `beta`, as in old files. Heads of other tasks are left out. Of tables that the configuration
    /// ties but that differ, each is used where that can be, and noted.
    ///
    /// # Errors
    /// A file that is missing, damaged or not supported; a weight of the pretrained model that is
    /// missing or not of the shape that the configuration says; a tensor inside the model that it
    /// has no use for; a head that the family has not.
    pub fn open(dir: &Path, head: Head) -> Result<Self, PretrainedError> {
        let config = Config::from_dir(dir)?;
        let files = weights::files(dir)?;
        let tensors = weights::load(&files)?;
        check_layers(dir, &config, tensors.len())?;
        let mut model = Model::new(config, head)?;
        let mut known = Names::of(&model);
        if let Some([first, second]) = known.untied(&tensors) {
            let Some(config) = model.config().untied(dir, [&first, &second]) else {
                let dir = dir.to_owned();
                return Err(PretrainedError::Untied { dir, first, second });
            };
            model = Model::new(config, head)?;
            known = Names::of(&model);
        }
        let (weights, unused) = known.sort(dir, tensors)?;
        let unknown = known.unknown(&weights, &unused);
        if !unknown.is_empty() {
            let (dir, names) = (dir.to_owned(), unknown);
            return Err(PretrainedError::Unknown { dir, names });
        }
        check_shapes(dir, &model, &weights)?;
        let mut missing = missing(&model, &weights)?;
        if !missing.is_empty() {
            for (origin, dtype) in weights::integers(&files)? {
                let name = known.resolve(&origin);
                for missing in missing.iter_mut().filter(|m| name.as_ref() == Some(*m)) {
                    *missing = format!("{missing} (stored as {dtype:?}; floats are needed)");
                }
            }
            let (dir, names) = (dir.to_owned(), missing);
            return Err(PretrainedError::Missing { dir, names });
        }
        let mut notes = model.config().notes.clone();
        notes.extend(weights::unnamed(&files));
        let report = LoadReport {
            applied: weights.keys().cloned().collect(),
            initialised: Vec::new(),
            unused,
            notes,
        };
        Ok(Self {
            dir: dir.to_owned(),
            model,
            weights,
            report,
            sha256: weights::sha256(&files)?,
        })
    }

    /// A model that is yet to be pretrained: the configuration of a folder, with random weights, as
    /// [`initialise_head`](Self::initialise_head) draws them.
    ///
    /// # Errors
    /// A configuration that cannot be used, or a head that the family has not.
    pub fn random(dir: &Path, head: Head, seed: u64) -> Result<Self, PretrainedError> {
        let mut random = Self {
            dir: dir.to_owned(),
            model: Model::new(Config::from_dir(dir)?, head)?,
            weights: Params::new(),
            report: LoadReport::default(),
            sha256: String::new(),
        };
        random.initialise_head(seed);
        Ok(random)
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// It is missing, damaged, or gives ids that the model does not know.
    pub fn tokenizer(&self) -> Result<Tokenizer, PretrainedError> {
        let tokenizer = Tokenizer::from_dir(&self.dir)?;
        let architecture = &self.model.config().architecture;
        tokenizer.check_vocab(architecture.vocab_size())?;
        Ok(tokenizer.for_segments(architecture.segments()))
    }

    /// Gives the model a head to train: what the files lack or have in another shape starts from
    /// normal numbers of the configuration's `initializer_range`, fixed by `seed` and the weight's
    /// name; biases start from zero and gains from one.
    pub fn initialise_head(&mut self, seed: u64) {
        let deviation = self.model.config().architecture.initializer_range();
        for Parameter { name, shape, .. } in self.model.parameters() {
            let found = self.weights.get(name).map(|array| array.shape().to_vec());
            if found.as_ref() == Some(shape) {
                continue;
            }
            let mut array = Array::zeros(shape.clone());
            if name.ends_with("bias") {
            } else if shape.len() == 1 {
                array.floats_mut().fill(1.0);
            } else {
                let key = Draw { seed, step: 0 }.key(name);
                for (i, x) in (0..).zip(array.floats_mut()) {
                    *x = (deviation * key.normal(i)) as f32;
                }
            }
            self.weights.insert(name.clone(), array);
            self.report.applied.retain(|applied| applied != name);
            let name = name.clone();
            self.report.initialised.push(Initialised { name, found });
        }
    }

    /// Checks that the files have the whole of the model, its trained head included.
    ///
    /// # Errors
    /// There is no head, or one for another number of labels.
    pub fn check_head(&self) -> Result<(), PretrainedError> {
        let dir = &self.dir;
        let mut missing = Vec::new();
        for Parameter { name, shape, .. } in self.model.parameters() {
            match self.weights.get(name) {
                None => missing.push(name.clone()),
                Some(array) if array.shape() == *shape => {}
                Some(array) => {
                    return Err(PretrainedError::OtherHead {
                        dir: dir.clone(),
                        name: name.clone(),
                        expected: shape.clone(),
                        found: array.shape().to_vec(),
                    });
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let (dir, names) = (dir.clone(), missing);
        Err(PretrainedError::NoHead { dir, names })
    }
}

/// Checks that the files have a tensor for every layer at least, before any is built.
fn check_layers(dir: &Path, config: &Config, tensors: usize) -> Result<(), PretrainedError> {
    let layers = config.architecture.layers();
    match layers.into_iter().find(|(_, layers)| *layers > tensors) {
        Some((field, layers)) => Err(PretrainedError::Layers {
            dir: dir.to_owned(),
            field,
            layers,
            tensors,
        }),
        None => Ok(()),
    }
}

/// Checks every weight whose shape does not depend on the number of labels.
fn check_shapes(dir: &Path, model: &Model, weights: &Params) -> Result<(), PretrainedError> {
    let resized = match model.head() {
        Head::Sequence { outputs, problem } => Head::Sequence {
            outputs: outputs + 1,
            problem,
        },
        other => other,
    };
    let resized = Model::new(model.config().clone(), resized)?;
    for (expected, other) in model.parameters().iter().zip(resized.parameters()) {
        if let Some(array) = weights.get(&expected.name)
            && expected.shape == other.shape
            && expected.shape != array.shape()
        {
            return Err(PretrainedError::Shape {
                dir: dir.to_owned(),
                name: expected.name.clone(),
                expected: expected.shape.clone(),
                found: array.shape().to_vec(),
            });
        }
    }
    Ok(())
}

/// The weights that the hidden states need and that are not there. Others are a head's, which may
/// be initialised.
fn missing(model: &Model, weights: &Params) -> Result<Vec<String>, ModelError> {
    let shape = Shape {
        rows: 1,
        len: 1,
        target_len: 1,
    };
    let encoder = model.encoder(shape)?;
    let names = encoder
        .frozen_parameters()
        .map(|leaf| leaf.name.to_string());
    Ok(names.filter(|name| !weights.contains_key(name)).collect())
}

/// What became of the tensors of a model's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Weights of the model that were read.
    pub applied: Vec<String>,
    /// Weights of the model that were not there and were given a start.
    pub initialised: Vec<Initialised>,
    /// Tensors that the model has no use for, by the name they have in the files.
    pub unused: Vec<String>,
    /// What else of the folder's files is not used.
    pub notes: Vec<Note>,
}

/// A weight that was given a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialised {
    /// Its name.
    pub name: String,
    /// The shape it has in the files where that is another: a head of another task was dropped.
    pub found: Option<Vec<usize>>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weights loaded", self.applied.len())?;
        if !self.initialised.is_empty() {
            let names: Vec<String> = self.initialised.iter().map(ToString::to_string).collect();
            write!(
                f,
                "; {} newly initialised: {}",
                names.len(),
                names.join(", ")
            )?;
        }
        if !self.unused.is_empty() {
            let count = self.unused.len();
            write!(
                f,
                "; {count} in the files not used: {}",
                shortened(&self.unused)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Initialised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(shape) => write!(f, "{} (the files' has shape {shape:?})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The first few of many names.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
