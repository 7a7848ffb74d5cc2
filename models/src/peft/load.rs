//! Reading a folder: every tensor is applied, known to change nothing, or refused.
//!
//! One long file: what becomes of each tensor is decided in one place.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ailora_graph::{
    adapter::{Layout, Site},
    method::{Adapter as Kind, constructors::random},
};
use ailora_runtime::store::Array;
use indexmap::IndexMap;

use super::{
    Adapter, PeftError,
    config::{Biases, LoraConfig, Start, Targeted},
    contents::{Contents, Factors, Tensor, misfit},
    declared::{self, Folder},
    fold::{self, Weight},
    form,
    names::PREFIX,
    reshape,
    start::{Begun, starts},
    targets::Targets,
};
use crate::pretrained::{Names, Pretrained};

/// What became of an adapter's tensors, and of the base's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Tensors of the file, all of which are applied, but for [`copies`](Self::copies).
    pub tensors: usize,
    /// Tensors that the base has too.
    pub copies: usize,
    /// Modules with factors.
    pub adapted: usize,
    /// Parameters that take the place of the base's.
    pub replaced: usize,
    /// Parameters of the base that stay as they are; factors may be beside them.
    pub untouched: usize,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tensors,
            copies,
            adapted,
            replaced,
            untouched,
        } = self;
        write!(
            f,
            "{tensors} tensors applied, none left over: factors of {adapted} modules, {replaced} \
             parameters in place of the base's; {untouched} of the base's as they were"
        )?;
        if *copies > 0 {
            write!(f, "; {copies} more are copies of the base's")?;
        }
        Ok(())
    }
}

impl Adapter {
    /// Reads a folder of an adapter of this kind, which neither the model's annotations nor the list of
    /// methods name, by the form that it declares.
    ///
    /// # Errors
    /// The folder is of another kind; fields that are not as declared; tensors that do not fit the model,
    /// are missing, left over or not finite.
    pub fn load_as(
        kind: &'static dyn Kind,
        folder: &Path,
        base: &Pretrained,
    ) -> Result<Self, PeftError> {
        declared::load(&Folder::open(folder)?, &[kind], base)
    }

    /// Reads a folder, of ours or of PEFT's, for this base: of a LoRA adapter, or of one that the
    /// model's annotations or the list of methods name by its form. What is no plain LoRA of a
    /// projection is folded into the parameters that it changes. Where the adapter has another
    /// vocabulary, parts an output from the table of tokens that it is tied to, or gives a bias to
    /// projections without, the base's model becomes one that has those.
    ///
    /// # Errors
    /// The folder is not one of a LoRA adapter; fields that are not known or not supported; tensors
    /// that do not fit the model, are missing, left over or not finite.
    pub fn load(folder: &Path, base: &mut Pretrained) -> Result<Self, PeftError> {
        let opened = Folder::open(folder)?;
        let named = opened.kind().unwrap_or_default();
        let kinds = form::adapters(named, &base.model.sites());
        if !kinds.is_empty() {
            return declared::load(&opened, &kinds, base);
        }
        let config = LoraConfig::read(folder)?;
        let mut contents = Contents::read(folder, &Names::of(&base.model))?;
        let added = reshape::reshape(folder, &config, &mut contents, base)?;
        let names = Names::of(&base.model);
        let mut loading = Loading {
            config: &config,
            path: contents.path.clone(),
            sites: base.model.sites(),
            base,
            names,
            adapter: Self {
                added,
                ..Self::default()
            },
        };
        loading.adapter.moved = loading.check_targets(&contents)?;
        let report = Applied {
            tensors: contents.tensors,
            copies: contents.copies,
            adapted: contents.factors.len(),
            ..Applied::default()
        };
        loading.replace(contents.whole)?;
        loading.apply(contents.factors)?;
        let mut adapter = loading.adapter;
        adapter.biases = config.biases;
        let replaced = adapter.trained_in_full().count();
        adapter.report = Applied {
            replaced,
            untouched: base.model.parameters().len().saturating_sub(replaced),
            ..report
        };
        Ok(adapter)
    }
}

/// An adapter on its way to a base.
struct Loading<'a> {
    config: &'a LoraConfig,
    path: PathBuf,
    base: &'a Pretrained,
    names: Names,
    sites: Vec<Site>,
    adapter: Adapter,
}

impl Loading<'_> {
    /// What the configuration says of modules is what the tensors are. Gives the parameters held whole that
    /// it says are trained.
    fn check_targets(&self, contents: &Contents) -> Result<Vec<String>, PeftError> {
        let targets = Targets::new(self.config)?;
        let base = format!("{}.", self.base.model.config().family.base);
        // Modules of a model without a head are called without what stands before them in one.
        let bare = !contents.factors.is_empty()
            && contents.factors.keys().all(|module| {
                let name = self.names.find(&format!("{module}.weight"));
                name == Some(format!("{base}{module}.weight"))
            });
        let called = |path: &str| match path.strip_prefix(&base) {
            Some(rest) if bare => rest.to_owned(),
            _ => path.to_owned(),
        };
        let parameters = self.base.model.parameters();
        for parameter in parameters.iter().filter(|p| p.shape.len() == 2) {
            let Some(path) = parameter.name.strip_suffix(".weight") else {
                continue;
            };
            let module = called(path);
            let linear = self.sites.iter().any(|site| site.weight == parameter.name);
            let body = linear && path.starts_with(&base);
            let factors = contents.factors.get(&module);
            let factors = factors.filter(|factors| factors.adapts());
            match (targets.has_factors(&module, body), factors) {
                (Some(true), None) => {
                    return Err(contents.wrong(format!(
                        "tensor `{PREFIX}{module}.lora_A.weight` is missing: adapter_config.json \
                         gives `{module}` factors; the adapter is not whole: save it again"
                    )));
                }
                (Some(false), Some(factors)) if !(linear && self.is_all_linear()) => {
                    let reason = "`target_modules` and what limits it in adapter_config.json give \
                         this module none; is it the configuration of these tensors?";
                    return Err(match factors.first() {
                        Some(tensor) => misfit(&self.path, tensor, reason.into()),
                        None => contents.wrong(reason.into()),
                    });
                }
                _ => {}
            }
        }
        let mut moved = Vec::new();
        for parameter in parameters {
            let name = called(&parameter.name);
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let bias = name.ends_with(".bias");
            let why = if targets.is_saved(&name) {
                "`modules_to_save` names its module"
            } else if bias && self.config.biases == Biases::All {
                "`bias` is all"
            } else if bias
                && self.config.biases == Biases::Adapted
                && contents.factors.get(module).is_some_and(Factors::adapts)
            {
                "`bias` is lora_only"
            } else {
                continue;
            };
            if !contents.whole.contains_key(&parameter.name) {
                return Err(contents.wrong(format!(
                    "tensor `{PREFIX}{name}` is missing: {why} in adapter_config.json; the adapter \
                     is not whole: save it again"
                )));
            }
            moved.push(parameter.name.clone());
        }
        Ok(moved)
    }

    fn is_all_linear(&self) -> bool {
        matches!(self.config.targets, Some(Targeted::AllLinear))
    }

    /// Takes parameters of the file in place of the base's.
    fn replace(&mut self, whole: IndexMap<String, Tensor>) -> Result<(), PeftError> {
        for (name, tensor) in whole {
            let parameters = self.base.model.parameters();
            let Some(parameter) = parameters.iter().find(|p| p.name == name) else {
                let head = self.base.model.head();
                let class = self.base.model.class();
                return Err(misfit(
                    &self.path,
                    &tensor,
                    format!("the model, a {class} for {head}, has no such parameter"),
                ));
            };
            if parameter.shape != tensor.array.shape() {
                let expected = format!(
                    "the model and task need {:?}; give the base and the task that the adapter was \
                     trained for",
                    parameter.shape
                );
                return Err(misfit(&self.path, &tensor, expected));
            }
            self.adapter.tensors.insert(name, tensor.array);
        }
        Ok(())
    }

    /// Puts factors beside the projections, or into the parameters that they change.
    fn apply(&mut self, factors: IndexMap<String, Factors>) -> Result<(), PeftError> {
        let modules: Vec<String> = factors.keys().cloned().collect();
        let sizes = self.config.sizes(&modules)?;
        let mut linear = Vec::new();
        for ((module, mut factors), (rank, scale)) in factors.into_iter().zip(sizes) {
            let tokens = factors.tokens.take();
            if !factors.adapts() && tokens.is_none() {
                // A bias or magnitudes of nothing.
                let reason = "there are no factors that it belongs to".to_owned();
                return Err(match factors.first() {
                    Some(tensor) => misfit(&self.path, tensor, reason),
                    None => self.config.wrong(reason),
                });
            }
            if factors.embedding_a.is_some() || factors.embedding_b.is_some() {
                self.embed(&module, factors, rank, scale)?;
            } else if factors.adapts() {
                linear.push(self.project(module.clone(), factors, rank, scale)?);
            }
            if let Some(tensor) = tokens {
                self.put_tokens(&module, &tensor)?;
            }
        }
        if let Some(tables) = &self.config.tokens
            && !tables.is_empty()
            && !self.adapter.has_tokens
        {
            return Err(self.config.wrong(
                "`trainable_token_indices` is set, but no tensor `trainable_tokens_delta` is there; \
                 the adapter is not whole: save it again"
                    .into(),
            ));
        }
        self.begin(&mut linear)?;
        linear.into_iter().try_for_each(|linear| self.place(linear))
    }

    /// Checks the factors of a projection.
    fn project(
        &self,
        module: String,
        factors: Factors,
        rank: usize,
        scale: f64,
    ) -> Result<Linear, PeftError> {
        let name = self.names.find(&format!("{module}.weight"));
        let site = self
            .sites
            .iter()
            .find(|site| Some(&site.weight) == name.as_ref());
        let Some(site) = site.cloned() else {
            let expected = match name {
                Some(_) => format!("`{module}` is no projection of the model"),
                None => format!("the model has no `{module}`"),
            };
            return Err(match factors.first() {
                Some(tensor) => misfit(&self.path, tensor, expected),
                None => self.config.wrong(expected),
            });
        };
        let Factors {
            a,
            b,
            bias,
            magnitude,
            ..
        } = factors;
        let a = self.needed(a, &module, "lora_A.weight")?;
        let b = self.needed(b, &module, "lora_B.weight")?;
        let (out, inputs) = (site.out_features, site.in_features);
        self.fits(&a, &[rank, inputs], rank)?;
        self.fits(&b, &[out, rank], rank)?;
        let bias = self.said(
            bias,
            self.config.lora_bias,
            "lora_bias",
            &module,
            "lora_B.bias",
        )?;
        let vector = "lora_magnitude_vector";
        let magnitude = self.said(magnitude, self.config.dora, "use_dora", &module, vector)?;
        for tensor in bias.iter().chain(&magnitude) {
            self.fits(tensor, &[out], rank)?;
        }
        Ok(Linear {
            site,
            a: a.array,
            b: b.array,
            bias: bias.map(|tensor| tensor.array),
            magnitude: magnitude.map(|tensor| tensor.array),
            rank,
            scale,
        })
    }

    /// Takes from the base what the factors began from.
    fn begin(&self, linear: &mut [Linear]) -> Result<(), PeftError> {
        if self.config.start == Start::Nothing {
            return Ok(());
        }
        let begun = linear.iter().map(|linear| {
            let Linear {
                site, rank, scale, ..
            } = linear;
            if site.layout == Layout::InOut {
                return Err(PeftError::Layout(site.path.clone()));
            }
            Ok(Begun {
                site,
                weight: self.value(&site.weight)?,
                rank: *rank,
                scale: *scale,
            })
        });
        let begun = begun.collect::<Result<Vec<_>, _>>()?;
        let starts = starts(self.config, &begun)?;
        for (linear, (a0, b0)) in linear.iter_mut().zip(starts) {
            linear.a = fold::below(std::mem::take(&mut linear.a), &a0);
            linear.b = fold::beside_negative(&linear.b, &b0, linear.rank);
            linear.rank *= 2;
        }
        Ok(())
    }

    /// Puts a projection's factors beside its weight.
    fn place(&mut self, linear: Linear) -> Result<(), PeftError> {
        let Linear {
            site,
            a,
            b,
            bias,
            magnitude,
            rank,
            scale,
        } = linear;
        if let Some(bias) = bias {
            let Some(name) = &site.bias else {
                // Reshaping has given it one, or refused.
                return Err(PeftError::Missing(format!("{}.bias", site.path)));
            };
            let mut sum = self.value(name)?.clone();
            for (sum, bias) in sum.floats_mut().iter_mut().zip(bias.floats().iter()) {
                *sum = (f64::from(*sum) + scale * f64::from(*bias)) as f32;
            }
            self.fold(name.clone(), sum)?;
        }
        let spec = random(rank)
            .with_alpha(scale * rank as f64)
            .with_dora(magnitude.is_some())
            .with_dropout(self.config.dropout);
        let own = [(site.lora_a(), a), (site.lora_b(), b)];
        let magnitude = magnitude.map(|magnitude| (site.lora_magnitudes(), magnitude));
        self.adapter
            .tensors
            .extend(own.into_iter().chain(magnitude));
        let site = Site { spec, ..site };
        self.adapter.sites.insert(site.path.clone(), site);
        Ok(())
    }

    /// Puts factors of a table of embeddings into it.
    fn embed(
        &mut self,
        module: &str,
        factors: Factors,
        rank: usize,
        scale: f64,
    ) -> Result<(), PeftError> {
        let a = self.needed(factors.embedding_a, module, "lora_embedding_A")?;
        let b = self.needed(factors.embedding_b, module, "lora_embedding_B")?;
        if let Some(tensor) = [factors.a, factors.b, factors.bias].iter().flatten().next() {
            let expected = format!("`{module}` has factors of a table of embeddings");
            return Err(misfit(&self.path, tensor, expected));
        }
        let (name, rows, width) = self.table(module, &a)?;
        self.fits(&a, &[rank, rows], rank)?;
        self.fits(&b, &[width, rank], rank)?;
        if self.config.start != Start::Nothing {
            return Err(self.config.wrong(format!(
                "`init_lora_weights` takes a part of weights, which a table of embeddings such as \
                 `{module}` does not have"
            )));
        }
        let vector = "lora_magnitude_vector";
        let magnitude = self.said(
            factors.magnitude,
            self.config.dora,
            "use_dora",
            module,
            vector,
        )?;
        let mut table = self.value(&name)?.clone();
        let mut weight = Weight {
            array: &mut table,
            layout: Layout::InOut,
        };
        weight.add(scale, &a.array, &b.array);
        if let Some(magnitude) = magnitude {
            self.fits(&magnitude, &[width], rank)?;
            weight.rescale(&magnitude.array.floats());
        }
        self.fold(name, table)
    }

    /// Takes rows of a table of embeddings in place of the base's.
    fn put_tokens(&mut self, module: &str, tensor: &Tensor) -> Result<(), PeftError> {
        let (name, rows, width) = self.table(module, tensor)?;
        let tables = self.config.tokens.as_ref();
        let tokens = tables.and_then(|tables| {
            let mut tables = tables.iter();
            // Python's endswith, at a dot or not.
            let table = tables.find(|(end, _)| module.ends_with(end.as_str()));
            table.map(|(_, tokens)| tokens)
        });
        let tokens = tokens.ok_or_else(|| {
            let expected = "`trainable_token_indices` in adapter_config.json says no tokens of it";
            misfit(&self.path, tensor, expected.into())
        })?;
        if let Some(token) = tokens.iter().find(|&&token| token >= rows) {
            return Err(self.config.wrong(format!(
                "`trainable_token_indices` has {token}; `{module}` has {rows} rows"
            )));
        }
        self.fits(tensor, &[tokens.len(), width], 0)?;
        let mut table = self.value(&name)?.clone();
        for (&token, values) in tokens.iter().zip(tensor.array.floats().chunks_exact(width)) {
            if let Some(row) = table.floats_mut().chunks_exact_mut(width).nth(token) {
                row.copy_from_slice(values);
            }
        }
        self.adapter.has_tokens = true;
        self.fold(name, table)
    }

    /// The name, the rows and the width of a table of embeddings.
    fn table(&self, module: &str, tensor: &Tensor) -> Result<(String, usize, usize), PeftError> {
        let name = self.names.find(&format!("{module}.weight"));
        let parameters = self.base.model.parameters();
        let found = parameters.iter().find(|p| Some(&p.name) == name.as_ref());
        let linear = |name: &str| self.sites.iter().any(|site| site.weight == name);
        match found.map(|p| (&p.name, &p.shape[..])) {
            Some((name, &[rows, width])) if !linear(name) => Ok((name.clone(), rows, width)),
            Some(_) => {
                let expected = format!("`{module}` is no table of embeddings");
                Err(misfit(&self.path, tensor, expected))
            }
            None => {
                let expected = format!("the model has no `{module}`");
                Err(misfit(&self.path, tensor, expected))
            }
        }
    }

    /// A parameter as it is so far.
    fn value(&self, name: &str) -> Result<&Array, PeftError> {
        let value = self.adapter.tensors.get(name);
        let value = value.or_else(|| self.base.weights.get(name));
        value.ok_or_else(|| PeftError::Missing(name.to_owned()))
    }

    /// Takes a parameter with what was trained beside it.
    fn fold(&mut self, name: String, array: Array) -> Result<(), PeftError> {
        if let Some(found) = fold::not_finite(&array) {
            let path = self.path.clone();
            return Err(PeftError::NotFinite { path, name, found });
        }
        if !self.adapter.folded.contains(&name) {
            self.adapter.folded.push(name.clone());
        }
        self.adapter.tensors.insert(name, array);
        Ok(())
    }

    fn needed(
        &self,
        tensor: Option<Tensor>,
        module: &str,
        part: &str,
    ) -> Result<Tensor, PeftError> {
        tensor.ok_or_else(|| PeftError::Config {
            path: self.path.clone(),
            reason: format!(
                "tensor `{PREFIX}{module}.{part}` is missing; the adapter is not whole: save it again"
            ),
        })
    }

    /// A tensor that is there if a field says so, and only then.
    fn said(
        &self,
        tensor: Option<Tensor>,
        wanted: bool,
        field: &str,
        module: &str,
        part: &str,
    ) -> Result<Option<Tensor>, PeftError> {
        match tensor {
            Some(tensor) if !wanted => {
                let expected = format!("but `{field}` is not set in adapter_config.json");
                Err(misfit(&self.path, &tensor, expected))
            }
            None if wanted => self.needed(None, module, part).map(Some),
            tensor => Ok(tensor),
        }
    }

    fn fits(&self, tensor: &Tensor, expected: &[usize], rank: usize) -> Result<(), PeftError> {
        if tensor.array.shape() == expected {
            return Ok(());
        }
        let rank = match rank {
            0 => String::new(),
            rank => format!(" for rank {rank}, which adapter_config.json gives it"),
        };
        let expected = format!("expected {expected:?}{rank}");
        Err(misfit(&self.path, tensor, expected))
    }
}

/// The factors of a projection, in their shapes.
struct Linear {
    site: Site,
    a: Array,
    b: Array,
    bias: Option<Array>,
    magnitude: Option<Array>,
    rank: usize,
    scale: f64,
}
