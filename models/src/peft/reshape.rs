//! A base's model as an adapter needs it: with another vocabulary, an output of its own instead of
//! one that is tied to the table of tokens, or biases that it has not.

use std::path::Path;

use ailora_runtime::store::Array;
use serde_json::Value;

use super::{
    PeftError,
    config::LoraConfig,
    contents::{Contents, Factors},
    names::PREFIX,
    targets::Targets,
};
use crate::{
    head::Head,
    model::Model,
    pretrained::{Names, Pretrained},
};

/// The output of a causal language model, where it is not tied.
const OUTPUT: &str = "lm_head";

/// Changes the base's model where the tensors need it, and says which parameters are new.
///
/// # Errors
/// The model cannot be changed in this way.
pub(super) fn reshape(
    folder: &Path,
    config: &LoraConfig,
    contents: &mut Contents,
    base: &mut Pretrained,
) -> Result<Vec<String>, PeftError> {
    let Some(table) = token_table(&base.model) else {
        return Ok(Vec::new());
    };
    let mut reshaping = Reshaping {
        folder,
        config,
        contents,
        base,
        table,
    };
    reshaping.part_output()?;
    reshaping.check_shared()?;
    reshaping.share()?;
    reshaping.resize()?;
    reshaping.add_biases()
}

/// The table of tokens: the first with a row for each of the vocabulary that is no projection.
fn token_table(model: &Model) -> Option<String> {
    let rows = model.config().architecture.vocab_size();
    let sites = model.sites();
    let mut parameters = model.parameters().iter();
    let table = parameters.find(|p| {
        p.shape.len() == 2
            && p.shape.first() == Some(&rows)
            && p.name.ends_with(".weight")
            && sites.iter().all(|site| site.weight != p.name)
    });
    table.map(|p| p.name.clone())
}

struct Reshaping<'a> {
    folder: &'a Path,
    config: &'a LoraConfig,
    contents: &'a mut Contents,
    base: &'a mut Pretrained,
    table: String,
}

impl Reshaping<'_> {
    /// Gives the model an output of its own where the adapter changes one of the two that are tied.
    fn part_output(&mut self) -> Result<(), PeftError> {
        let output = format!("{OUTPUT}.weight");
        let has = |name: &str| self.base.model.parameters().iter().any(|p| p.name == name);
        if self.base.model.head() != Head::CausalLm || has(&output) {
            return Ok(());
        }
        let targets = Targets::new(self.config)?;
        let Contents { factors, whole, .. } = &*self.contents;
        let together = self.config.tie;
        let copied = |name: &str| targets.is_saved(name) && !together;
        let module = self.table.trim_end_matches(".weight");
        let parts = factors.get(OUTPUT).is_some_and(Factors::projects)
            || (factors.get(module).is_some_and(Factors::embeds) && !together)
            || match (whole.get(&self.table), whole.get(&output)) {
                (Some(table), Some(output)) => !table.array.same_values(&output.array),
                (Some(_), None) => copied(&self.table),
                (None, Some(_)) => copied(&output),
                (None, None) => false,
            };
        if parts {
            self.rebuild("tie_word_embeddings", false.into())?;
            if let Some(table) = self.base.weights.get(&self.table).cloned() {
                self.base.weights.insert(output, table);
            }
        }
        Ok(())
    }

    /// Takes what is there under the name of a module that shares a parameter as that parameter.
    fn share(&mut self) -> Result<(), PeftError> {
        let names = Names::of(&self.base.model);
        let keys = self.contents.whole.keys();
        let shared = keys.filter(|name| names.resolve(name).is_none());
        for other in shared.cloned().collect::<Vec<_>>() {
            if let Some(name) = names.find(&other)
                && let Some(tensor) = self.contents.whole.shift_remove(&other)
            {
                self.contents.add_whole(name, tensor, &names)?;
            }
        }
        Ok(())
    }

    /// Refuses to change a table for one module that another reads too.
    fn check_shared(&self) -> Result<(), PeftError> {
        let model = &self.base.model;
        let writes = matches!(model.head(), Head::MaskedLm | Head::Seq2SeqLm { .. });
        let inner = format!("{}.", model.config().family.base);
        let aliases = model.config().architecture.tied().iter();
        let shared = aliases.filter(|(alias, parameter)| {
            *parameter == self.table && (writes || alias.starts_with(&inner))
        });
        let mut shared = shared.map(|(alias, _)| *alias);
        let lacking = shared.clone();
        let Some(first) = shared.next() else {
            return Ok(());
        };
        // What is there under every name is equal under all, which is checked where they become one.
        let mut lacking = lacking.filter(|alias| !self.contents.whole.contains_key(*alias));
        let alias = lacking.next();
        let names = Names::of(model);
        let table = |module: &String| names.find(&format!("{module}.weight"));
        let mut factors = self.contents.factors.iter();
        let embeds = factors.any(|(module, factors)| {
            factors.embeds() && table(module).as_ref() == Some(&self.table)
        });
        let targets = Targets::new(self.config)?;
        let mut whole = self.contents.whole.keys();
        let copied = whole
            .any(|name| names.find(name).as_ref() == Some(&self.table) && targets.is_saved(name));
        let parts = copied && !self.config.tie && alias.is_some();
        let alias = alias.unwrap_or(first);
        if embeds || parts {
            return Err(self.contents.wrong(format!(
                "the adapter changes `{}`, which `{alias}` shares in this model: changing one and \
                 not the other is not supported; merge it with PEFT (merge_and_unload), and give \
                 the merged model",
                self.table
            )));
        }
        Ok(())
    }

    /// Gives the model the vocabulary of the adapter's table of tokens.
    fn resize(&mut self) -> Result<(), PeftError> {
        let Some(tensor) = self.contents.whole.get(&self.table) else {
            return Ok(());
        };
        let before = self.base.model.parameters().to_vec();
        let own = before.iter().find(|p| p.name == self.table);
        let (Some(own), &[rows, width]) = (own, tensor.array.shape()) else {
            return Ok(());
        };
        let old = own.shape.first().copied().unwrap_or_default();
        if rows == old || own.shape.last() != Some(&width) {
            return Ok(());
        }
        self.rebuild("vocab_size", rows.into())?;
        for (before, after) in before.iter().zip(self.base.model.parameters()) {
            if before.shape != after.shape && !self.contents.whole.contains_key(&after.name) {
                return Err(self.contents.wrong(format!(
                    "the adapter's table of tokens `{}` has {rows} rows, the base's {old}; its \
                     `{PREFIX}{}` should be there with as many, and is missing",
                    self.table, after.name
                )));
            }
        }
        Ok(())
    }

    /// Gives projections the biases that `lora_B`'s are added to.
    fn add_biases(&mut self) -> Result<Vec<String>, PeftError> {
        let factors = self.contents.factors.iter();
        let modules = factors.filter(|(_, factors)| factors.has_bias() && factors.projects());
        let modules: Vec<String> = modules.map(|(module, _)| module.clone()).collect();
        let before = self.base.model.parameters().to_vec();
        for module in &modules {
            for field in ["attention_bias", "mlp_bias"] {
                if self.lacks_bias(module) {
                    self.rebuild(field, true.into())?;
                }
            }
            if self.lacks_bias(module) {
                return Err(self.contents.wrong(format!(
                    "`lora_bias`: `{module}` has no bias in this model, to which \
                     `{PREFIX}{module}.lora_B.bias` could be added"
                )));
            }
        }
        let mut added = Vec::new();
        for parameter in self.base.model.parameters() {
            if before.iter().all(|p| p.name != parameter.name) {
                let zeros = Array::zeros(parameter.shape.clone());
                self.base.weights.insert(parameter.name.clone(), zeros);
                added.push(parameter.name.clone());
            }
        }
        Ok(added)
    }

    fn lacks_bias(&self, module: &str) -> bool {
        let weight = Names::of(&self.base.model).find(&format!("{module}.weight"));
        let sites = self.base.model.sites();
        let site = sites
            .iter()
            .find(|site| Some(&site.weight) == weight.as_ref());
        site.is_some_and(|site| site.bias.is_none())
    }

    fn rebuild(&mut self, field: &'static str, value: Value) -> Result<(), PeftError> {
        let model = &self.base.model;
        let config = model.config().with(field, value);
        let config = config.map_err(|source| PeftError::Field {
            folder: self.folder.to_owned(),
            source,
        })?;
        self.base.model = Model::new(config, model.head())?;
        Ok(())
    }
}
