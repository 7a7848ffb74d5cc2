//! The tensors of an adapter's file by what they are.

use std::path::{Path, PathBuf};

use ailora_runtime::store::Array;
use indexmap::IndexMap;

use super::{
    PICKLE, PeftError, WEIGHTS, fold,
    names::{Key, Part},
};
use crate::{pretrained::Names, weights};

/// A tensor with the name that it has in the file.
#[derive(Debug)]
pub struct Tensor {
    pub origin: String,
    pub array: Array,
}

/// The tensors of one module that are no parameters of its own.
#[derive(Debug, Default)]
pub struct Factors {
    pub a: Option<Tensor>,
    pub b: Option<Tensor>,
    pub bias: Option<Tensor>,
    pub magnitude: Option<Tensor>,
    pub embedding_a: Option<Tensor>,
    pub embedding_b: Option<Tensor>,
    pub tokens: Option<Tensor>,
}

/// The tensors of a file by what they are.
#[derive(Debug, Default)]
pub struct Contents {
    pub path: PathBuf,
    /// By the module's path as the file has it.
    pub factors: IndexMap<String, Factors>,
    /// Parameters by the model's names, or the file's if the model has none of them.
    pub whole: IndexMap<String, Tensor>,
    /// How many tensors the base has too.
    pub copies: usize,
    /// How many there are besides.
    pub tensors: usize,
}

impl Contents {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// It cannot be read, or holds what no adapter has.
    pub fn read(folder: &Path, names: &Names) -> Result<Self, PeftError> {
        let mut paths = [WEIGHTS, PICKLE].into_iter().map(|file| folder.join(file));
        let path = paths
            .find(|path| path.is_file())
            .ok_or_else(|| PeftError::NoFile {
                folder: folder.to_owned(),
                file: WEIGHTS,
            })?;
        let files = [path];
        let tensors = weights::load(&files)?;
        let integers = weights::integers(&files)?;
        let [path] = files;
        let mut contents = Self {
            path,
            ..Self::default()
        };
        if let Some((name, dtype)) = integers.first() {
            return Err(contents.wrong(format!(
                "tensor `{name}` holds {dtype:?}; expected floats: save the adapter in float32"
            )));
        }
        let mut adapter: Option<String> = None;
        for (origin, array) in tensors {
            if let Some(found) = fold::not_finite(&array) {
                return Err(PeftError::NotFinite {
                    path: contents.path,
                    name: origin,
                    found,
                });
            }
            let key = Key::parse(&origin);
            if let Some(name) = &key.adapter {
                match &adapter {
                    Some(other) if other != name => {
                        return Err(contents.wrong(format!(
                            "it holds several adapters, `{other}` and `{name}`; save one of them"
                        )));
                    }
                    _ => adapter = Some(name.clone()),
                }
            }
            contents.add(key, Tensor { origin, array }, names)?;
        }
        Ok(contents)
    }

    fn add(&mut self, key: Key, tensor: Tensor, names: &Names) -> Result<(), PeftError> {
        let Key { module, part, .. } = key;
        let parameter = |parts: &[String]| {
            let name = std::iter::once(&module).chain(parts).cloned();
            let name: Vec<String> = name.filter(|part| !part.is_empty()).collect();
            name.join(".")
        };
        match part {
            Part::Original => {
                self.copies += 1;
                return Ok(());
            }
            Part::Unknown(part) => {
                let expected = format!("`{part}` is nothing that a LoRA adapter is known to have");
                return Err(misfit(&self.path, &tensor, expected));
            }
            Part::Whole(name) => self.add_whole(parameter(&[name]), tensor, names)?,
            // The adapter's name may stand between the module's and the parameter's.
            Part::Saved(parts) => {
                let mut spellings = (0..parts.len()).map(|skipped| parameter(&parts[skipped..]));
                let found = spellings.find(|name| names.find(name).is_some());
                let name = found.unwrap_or_else(|| parameter(&parts));
                self.add_whole(name, tensor, names)?;
            }
            part => self.add_factor(module, &part, tensor)?,
        }
        self.tensors += 1;
        Ok(())
    }

    /// Adds a parameter, which may be there several times if it is the same.
    pub fn add_whole(
        &mut self,
        name: String,
        tensor: Tensor,
        names: &Names,
    ) -> Result<(), PeftError> {
        // Under the name of a module that shares it, it may be meant for that module alone.
        let name = names.resolve(&name).unwrap_or(name);
        match self.whole.get(&name) {
            Some(old) if !old.array.same_values(&tensor.array) => {
                Err(self.twice(&old.origin, &tensor.origin))
            }
            Some(_) => Ok(()),
            None => {
                self.whole.insert(name, tensor);
                Ok(())
            }
        }
    }

    fn add_factor(&mut self, module: String, part: &Part, tensor: Tensor) -> Result<(), PeftError> {
        let factors = self.factors.entry(module).or_default();
        let place = match part {
            Part::A => &mut factors.a,
            Part::B => &mut factors.b,
            Part::Bias => &mut factors.bias,
            Part::Magnitude => &mut factors.magnitude,
            Part::EmbeddingA => &mut factors.embedding_a,
            Part::EmbeddingB => &mut factors.embedding_b,
            _ => &mut factors.tokens,
        };
        let origin = tensor.origin.clone();
        match place.replace(tensor) {
            Some(old) => Err(self.twice(&old.origin, &origin)),
            None => Ok(()),
        }
    }

    fn twice(&self, first: &str, second: &str) -> PeftError {
        self.wrong(format!(
            "both `{first}` and `{second}` are the same tensor of the adapter; remove one"
        ))
    }

    /// An error about the file.
    pub fn wrong(&self, reason: String) -> PeftError {
        let path = self.path.clone();
        PeftError::Config { path, reason }
    }
}

/// An error about a tensor.
pub fn misfit(path: &Path, tensor: &Tensor, expected: String) -> PeftError {
    PeftError::Tensor {
        path: path.to_owned(),
        name: tensor.origin.clone(),
        found: tensor.array.shape().to_vec(),
        expected,
    }
}

impl Factors {
    /// Whether there are factors, or one of them.
    pub fn adapts(&self) -> bool {
        let parts = [&self.a, &self.b, &self.embedding_a, &self.embedding_b];
        parts.into_iter().any(Option::is_some)
    }

    /// Whether there are factors of a table of embeddings.
    pub fn embeds(&self) -> bool {
        self.embedding_a.is_some() || self.embedding_b.is_some()
    }

    /// Whether there are factors of a projection.
    pub fn projects(&self) -> bool {
        self.a.is_some() || self.b.is_some()
    }

    /// Whether `lora_B` has a bias.
    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// One of the tensors.
    pub fn first(&self) -> Option<&Tensor> {
        let Self {
            a,
            b,
            bias,
            magnitude,
            embedding_a,
            embedding_b,
            tokens,
        } = self;
        let parts = [a, b, embedding_a, embedding_b, bias, magnitude, tokens];
        parts.into_iter().flatten().next()
    }
}
