//! How to generate, as a model's folder says it: `generation_config.json`, or `config.json` where
//! that said it once.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    Rules, Strategy,
    fields::{FILE, TABLE},
};
use crate::{
    closed::{
        Note, Refused,
        json::{self, JsonError},
        shortened,
    },
    config::{Config, table},
    fields::{FieldError, Fields},
};

const ENDS: &str = "eos_token_id";

/// The most sequences that a beam search follows.
pub const MOST_BEAMS: usize = 256;

/// A `generation_config.json` that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file cannot be read as a JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A field asks for what is not done.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A field is not what it should be.
    #[error("{}: {source}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FieldError,
    },
}

/// How a model's folder says to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tokens that end a text.
    pub ends: Vec<i32>,
    /// Where an encoder-decoder begins.
    pub start: Option<i32>,
    /// The most new tokens.
    pub max_new_tokens: Option<usize>,
    /// The most tokens, with those that are given.
    pub max_length: Option<usize>,
    /// How many sequences a beam search follows; 1 for none.
    pub beams: usize,
    /// The power of its length that a sequence's log-probability is divided by.
    pub length_penalty: f64,
    /// Whether a beam search stops at as many finished sequences as there are beams.
    pub early_stopping: bool,
    /// Whether tokens are to be drawn.
    pub sample: bool,
    /// What logits are divided by where tokens are drawn.
    pub temperature: f64,
    /// How many tokens may be drawn; 0 for all.
    pub top_k: usize,
    /// How much of the probability may be drawn from.
    pub top_p: f64,
    /// How likely a token must be to be drawn, beside the likeliest.
    pub min_p: f64,
    /// What may be written next. Its last token is forced in a beam search;
    /// [`forced_eos`](Self::forced_eos) says whether elsewhere too.
    pub rules: Rules,
    /// Whether a text's last token is forced without a beam search too.
    pub forced_eos: bool,
}

impl Default for Settings {
    /// What a file that says nothing means.
    fn default() -> Self {
        Self {
            ends: Vec::new(),
            start: None,
            max_new_tokens: None,
            max_length: None,
            beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            rules: Rules::default(),
            forced_eos: false,
        }
    }
}

impl Settings {
    /// Reads a folder's `generation_config.json`. Where there is none, or one that was made of
    /// `config.json`, what that says counts too. Returns what is not used beside it.
    ///
    /// # Errors
    /// A file that is no JSON object, or a field that is out of range or asks for what is not done.
    pub fn read(dir: &Path, config: &Config) -> Result<(Self, Vec<Note>), SettingsError> {
        let path = dir.join(FILE);
        let own = match path.is_file() {
            true => Some(json::object(&path, json::LIMIT)?),
            false => None,
        };
        let mut notes = Vec::new();
        let legacy = legacy(config);
        let Some(own) = own else {
            let path = dir.join("config.json");
            TABLE.check(&path, &legacy)?;
            return Ok((Self::of(&path, &legacy, config, false)?, notes));
        };
        notes.extend(TABLE.check(&path, &own)?);
        let derived = own.get("_from_model_config") == Some(&Value::Bool(true));
        if derived {
            TABLE.check(&dir.join("config.json"), &legacy)?;
            let mut all = legacy;
            all.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
            return Ok((Self::of(&path, &all, config, false)?, notes));
        }
        let differs = |name: &&str| {
            let (value, other) = (legacy.get(*name), own.get(*name));
            let ends = *name == ENDS && other.is_some();
            value.is_some() && value != other && !ends
        };
        let names = table::GENERATION
            .iter()
            .map(|field| field.name)
            .chain([ENDS]);
        let unused: Vec<String> = names.filter(differs).map(|n| format!("`{n}`")).collect();
        if !unused.is_empty() {
            notes.push(Note {
                path: dir.join("config.json"),
                text: format!("not used beside {FILE}: {}", unused.join(", ")),
            });
        }
        Ok((Self::of(&path, &own, config, true)?, notes))
    }

    fn of(
        path: &Path,
        json: &Map<String, Value>,
        config: &Config,
        forced_eos: bool,
    ) -> Result<Self, SettingsError> {
        let base = Self {
            forced_eos,
            ..Self::default()
        };
        let vocabulary = config.architecture.vocab_size();
        base.over(Fields::new(json), vocabulary).map_err(|source| {
            let path = path.to_owned();
            SettingsError::Field { path, source }
        })
    }

    /// These settings with what an object in the form of `generation_config.json` says over them.
    ///
    /// # Errors
    /// A field that is out of range.
    pub fn with(self, said: &Map<String, Value>, vocabulary: usize) -> Result<Self, FieldError> {
        let fields = Fields::new(said);
        let mut settings = self.over(fields, vocabulary)?;
        settings.forced_eos |= fields.value("forced_eos_token_id").is_some();
        // Of the two limits the one that is said last counts.
        if fields.value("max_length").is_some() && fields.value("max_new_tokens").is_none() {
            settings.max_new_tokens = None;
        }
        Ok(settings)
    }

    fn over(self, fields: Fields<'_>, vocabulary: usize) -> Result<Self, FieldError> {
        const MOST_TOKENS: usize = 1 << 32;
        let length = |field| fields.whole(field, 0..=MOST_TOKENS);
        let id = |field| -> Result<Option<i32>, FieldError> {
            let found = fields.whole(field, 0..=vocabulary.saturating_sub(1))?;
            Ok(found.map(|id| id as i32))
        };
        let mut forced_bos = id("forced_bos_token_id")?.or(self.rules.forced_bos);
        let bos = fields
            .integer("bos_token_id")?
            .and_then(|id| i32::try_from(id).ok());
        if fields.flag_or("force_bos_token_to_be_generated", false)? {
            forced_bos = forced_bos.or(bos);
        }
        let penalty = "repetition_penalty";
        let repetition_penalty = fields.positive(penalty)?;
        if repetition_penalty.is_some_and(|penalty| !Rules::is_penalty(penalty)) {
            return Err(wrong(fields, penalty, Rules::PENALTY));
        }
        let base = self.rules;
        let rules = Rules {
            repetition_penalty: repetition_penalty.unwrap_or(base.repetition_penalty),
            no_repeat_ngram_size: length("no_repeat_ngram_size")?
                .unwrap_or(base.no_repeat_ngram_size),
            bad_words: sequences(fields, vocabulary)?.unwrap_or(base.bad_words),
            min_length: length("min_length")?.unwrap_or(base.min_length),
            min_new_tokens: length("min_new_tokens")?.unwrap_or(base.min_new_tokens),
            forced_bos,
            forced_eos: ids(fields, "forced_eos_token_id", vocabulary)?.unwrap_or(base.forced_eos),
            suppressed: ids(fields, "suppress_tokens", vocabulary)?.unwrap_or(base.suppressed),
            suppressed_at_begin: ids(fields, "begin_suppress_tokens", vocabulary)?
                .unwrap_or(base.suppressed_at_begin),
            renormalize: fields.flag_or("renormalize_logits", base.renormalize)?,
        };
        let beams = fields.whole("num_beams", 1..=MOST_BEAMS)?;
        let penalty = fields.number("length_penalty")?;
        Ok(Self {
            ends: ids(fields, ENDS, vocabulary)?.unwrap_or(self.ends),
            start: id("decoder_start_token_id")?.or(bos).or(self.start),
            max_new_tokens: fields
                .whole("max_new_tokens", 1..=MOST_TOKENS)?
                .or(self.max_new_tokens),
            max_length: length("max_length")?.or(self.max_length),
            beams: beams.unwrap_or(self.beams),
            length_penalty: penalty.unwrap_or(self.length_penalty),
            early_stopping: fields.flag_or("early_stopping", self.early_stopping)?,
            sample: fields.flag_or("do_sample", self.sample)?,
            temperature: fields
                .not_negative("temperature")?
                .unwrap_or(self.temperature),
            top_k: length("top_k")?.unwrap_or(self.top_k),
            top_p: fields.fraction_or("top_p", self.top_p)?,
            min_p: fields.fraction_or("min_p", self.min_p)?,
            rules,
            forced_eos: self.forced_eos,
        })
    }

    /// How tokens are chosen where none are drawn: by a beam search, or the likeliest.
    pub fn strategy(&self) -> Strategy {
        match self.beams {
            1 => Strategy::Greedy,
            beams => Strategy::Beam {
                beams,
                length_penalty: self.length_penalty,
                early_stopping: self.early_stopping,
            },
        }
    }

    /// What may be written where tokens are chosen so.
    pub fn rules_for(&self, strategy: Strategy) -> Rules {
        let mut rules = self.rules.clone();
        if !matches!(strategy, Strategy::Beam { .. }) && !self.forced_eos {
            rules.forced_eos.clear();
        }
        rules
    }

    /// The most tokens to write behind `given` ones, of a model that has `positions`; `wanted`
    /// where the folder does not say it. Nothing if those that are given are too many.
    pub fn room(&self, given: usize, positions: usize, wanted: usize) -> Option<usize> {
        let most = (positions + 1)
            .checked_sub(given)
            .filter(|most| *most > 0)?;
        let said = match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => new,
            (None, Some(all)) => all.checked_sub(given).filter(|new| *new > 0)?,
            (None, None) => wanted,
        };
        Some(said.min(most))
    }
}

/// What `config.json` says of how to generate.
fn legacy(config: &Config) -> Map<String, Value> {
    let known = |(name, value): &(&String, &Value)| TABLE.get(name).is_some() && !value.is_null();
    let said = config.json.iter().filter(known);
    said.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// One of the vocabulary's tokens or several, if they are said.
fn ids(
    fields: Fields<'_>,
    field: &'static str,
    vocabulary: usize,
) -> Result<Option<Vec<i32>>, FieldError> {
    let Some(value) = fields.value(field) else {
        return Ok(None);
    };
    let found = match value {
        Value::Array(ids) => ids.iter().map(|value| id(value, vocabulary)).collect(),
        one => id(one, vocabulary).map(|id| vec![id]),
    };
    let wrong = || {
        let expected = format!(
            "the id of a token, or a list of ids, each from 0 to {}",
            vocabulary.saturating_sub(1)
        );
        wrong(fields, field, &expected)
    };
    found.map(Some).ok_or_else(wrong)
}

fn sequences(fields: Fields<'_>, vocabulary: usize) -> Result<Option<Vec<Vec<i32>>>, FieldError> {
    const FIELD: &str = "bad_words_ids";
    let list = |value: &Value| -> Option<Vec<i32>> {
        let ids = value.as_array().filter(|ids| !ids.is_empty())?;
        ids.iter().map(|value| id(value, vocabulary)).collect()
    };
    let lists =
        |value: &Value| -> Option<Vec<Vec<i32>>> { value.as_array()?.iter().map(list).collect() };
    let wrong = || {
        let expected = format!(
            "a list of lists of tokens' ids, each from 0 to {} and no list empty",
            vocabulary.saturating_sub(1)
        );
        wrong(fields, FIELD, &expected)
    };
    let read = |value| lists(value).ok_or_else(wrong);
    fields.value(FIELD).map(read).transpose()
}

fn id(value: &Value, vocabulary: usize) -> Option<i32> {
    let id = value.as_u64().filter(|&id| id < vocabulary as u64)?;
    i32::try_from(id).ok()
}

fn wrong(fields: Fields<'_>, field: &'static str, expected: &str) -> FieldError {
    FieldError::Value {
        field,
        found: fields.value(field).map_or_else(String::new, shortened),
        expected: expected.into(),
    }
}
