//! A model that writes texts behind prompts, or about texts that it reads.

use std::cmp::Reverse;

use ailora_runtime::engine::Engine;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{
    GenerateError, Generator, Options, Rules, Settings, Stops, Strategy, TextStream, stream::text,
};
use crate::tokenizer::Tokenizer;

/// The most new tokens where neither the caller nor the model's folder says it.
pub const NEW_TOKENS: usize = 128;

/// Texts that cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// A step cannot be computed, or a prompt is empty or too long.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// More tokens are wanted than the model has positions for.
    #[error(
        "--max-new-tokens is {wanted}: too long behind {given} tokens, since the model has positions \
         for {positions}; expected at most {}",
        positions + 1 - given
    )]
    TooMany {
        /// The most new tokens.
        wanted: usize,
        /// Tokens of the longest prompt.
        given: usize,
        /// The model's limit.
        positions: usize,
    },
    /// The model's files end texts before the prompt's end.
    #[error(
        "the longest prompt has {given} tokens, and the model's files end texts at {max_length} \
         (max_length); give --max-new-tokens"
    )]
    NoRoom {
        /// Tokens of the longest prompt.
        given: usize,
        /// Where texts end.
        max_length: usize,
    },
}

/// How texts are written.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteOptions {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// What may be written.
    pub rules: Rules,
    /// The most new tokens [default: what the model's folder says, or [`NEW_TOKENS`]].
    pub max_new_tokens: Option<usize>,
    /// Prompts that are written behind at a time.
    pub batch_size: usize,
    /// The number of the first prompt, for draws: each depends on its prompt's number, and on no other prompt.
    pub first: usize,
}

impl WriteOptions {
    /// As a model's folder says, without draws, for as many prompts at a time.
    pub fn of(settings: &Settings, batch_size: usize) -> Self {
        let strategy = settings.strategy();
        Self {
            strategy,
            rules: settings.rules_for(strategy),
            max_new_tokens: None,
            batch_size,
            first: 0,
        }
    }
}

/// A model that writes, with its tokenizer and what its folder says of how to. Its parameters are those of an
/// engine, always the same one, that whoever has it write lends it.
#[derive(Debug)]
pub struct Writer {
    generator: Generator,
    tokenizer: Tokenizer,
    settings: Settings,
    /// The longest text that the model has positions for.
    positions: usize,
    stops: Stops,
}

impl Writer {
    /// A writer; the model has `positions`.
    pub fn new(
        generator: Generator,
        tokenizer: Tokenizer,
        settings: Settings,
        positions: usize,
    ) -> Self {
        Self {
            generator: generator.with_start(settings.start),
            tokenizer,
            settings,
            positions,
            stops: Stops::default(),
        }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What the model's folder says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ends texts at this token too.
    pub fn end_at(&mut self, token: Option<u32>) {
        let token = token.map(|token| token as i32);
        let new = token.filter(|token| !self.settings.ends.contains(token));
        self.settings.ends.extend(new);
    }

    /// Stops before this text too, where it is written; in a prompt it stops nothing.
    pub fn stop_before(&mut self, text: &str) {
        self.stops.add(text);
    }

    /// How texts are written, as `generation_config.json` names it, to be recorded with their scores.
    pub fn described(&self, options: &WriteOptions) -> Map<String, Value> {
        let rules = &options.rules;
        let mut said = match options.strategy {
            Strategy::Greedy => json!({"num_beams": 1, "do_sample": false}),
            Strategy::Beam {
                beams,
                length_penalty,
                early_stopping,
            } => json!({
                "num_beams": beams,
                "do_sample": false,
                "length_penalty": length_penalty,
                "early_stopping": early_stopping,
            }),
            Strategy::Sample {
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
            } => json!({
                "num_beams": 1,
                "do_sample": true,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "seed": seed,
            }),
        };
        let settings = &self.settings;
        let new = options.max_new_tokens.or(settings.max_new_tokens);
        match (new, settings.max_length) {
            (None, Some(all)) => said["max_length"] = json!(all),
            (new, _) => said["max_new_tokens"] = json!(new.unwrap_or(NEW_TOKENS)),
        }
        said["min_length"] = json!(rules.min_length);
        said["min_new_tokens"] = json!(rules.min_new_tokens);
        said["no_repeat_ngram_size"] = json!(rules.no_repeat_ngram_size);
        said["repetition_penalty"] = json!(rules.repetition_penalty);
        said["forced_bos_token_id"] = json!(rules.forced_bos);
        said["forced_eos_token_id"] = json!(rules.forced_eos);
        said["eos_token_id"] = json!(settings.ends);
        said["suppress_tokens"] = json!(rules.suppressed);
        said["begin_suppress_tokens"] = json!(rules.suppressed_at_begin);
        said["bad_words_ids"] = json!(rules.bad_words);
        said["stop_strings"] = json!(self.stops);
        match said {
            Value::Object(said) => said,
            _ => Map::new(),
        }
    }

    /// The texts that the model writes behind prompts, in their order. Prompts of nearly one length
    /// are written behind together, the longest first.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or has an id that the model does not know.
    pub fn write(
        &mut self,
        engine: &mut Engine,
        prompts: &[Vec<i32>],
        options: &WriteOptions,
    ) -> Result<Vec<String>, WriteError> {
        let found = self.tokens(engine, prompts, options, |_| true)?;
        Ok(found.iter().map(|tokens| self.read(tokens)).collect())
    }

    /// The tokens of the texts that [`write`](Self::write) gives, of the batches whose number `owns` takes; of
    /// others none.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn tokens(
        &mut self,
        engine: &mut Engine,
        prompts: &[Vec<i32>],
        options: &WriteOptions,
        owns: impl Fn(usize) -> bool,
    ) -> Result<Vec<Vec<i32>>, WriteError> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| Reverse(prompts[prompt].len()));
        let mut written = vec![Vec::new(); prompts.len()];
        let batches = order.chunks(options.batch_size.max(1)).enumerate();
        for (_, batch) in batches.filter(|(number, _)| owns(*number)) {
            let own: Vec<Vec<i32>> = batch
                .iter()
                .map(|&prompt| prompts[prompt].clone())
                .collect();
            let found = self.search(engine, &own, batch, options, |_, _, _| {});
            let found = found.map_err(|error| numbered(error, batch))?;
            for (&prompt, tokens) in batch.iter().zip(found) {
                written[prompt] = tokens;
            }
        }
        Ok(written)
    }

    /// The text that the model writes behind a prompt; `watch` sees its parts as they become certain.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn stream(
        &mut self,
        engine: &mut Engine,
        prompt: &[i32],
        options: &WriteOptions,
        watch: &mut dyn FnMut(&str),
    ) -> Result<String, WriteError> {
        let mut stream = TextStream::default();
        let prompts = [prompt.to_vec()];
        let found = self.search(
            engine,
            &prompts,
            &[0],
            options,
            |tokenizer, stops, token| {
                watch(&stream.push(tokenizer, stops, token));
            },
        )?;
        watch(&stream.finish(&self.tokenizer, &self.stops));
        Ok(self.read(&found.concat()))
    }

    /// The text of tokens, up to the first stop.
    pub fn read(&self, tokens: &[i32]) -> String {
        let mut text = text(&self.tokenizer, tokens);
        text.truncate(self.stops.end(&text));
        text
    }

    /// The tokens behind each of a batch of prompts, which have these numbers among all.
    fn search(
        &mut self,
        engine: &mut Engine,
        prompts: &[Vec<i32>],
        numbers: &[usize],
        options: &WriteOptions,
        mut watch: impl FnMut(&Tokenizer, &Stops, i32),
    ) -> Result<Vec<Vec<i32>>, WriteError> {
        let given = self.generator.given(prompts);
        let longest = given.iter().map(Vec::len).max().unwrap_or(0);
        let first = options.first;
        let options = Options {
            strategy: options.strategy,
            max_new_tokens: self.room(options.max_new_tokens, longest)?,
            rules: options.rules.clone(),
            ends: self.settings.ends.clone(),
            numbers: numbers.iter().map(|number| first + number).collect(),
        };
        let Self {
            generator,
            tokenizer,
            stops,
            ..
        } = self;
        let ends =
            |_: usize, tokens: &[i32]| !stops.is_empty() && stops.are_in(&text(tokenizer, tokens));
        let watch = |_: usize, token| watch(tokenizer, stops, token);
        Ok(generator.generate(engine, prompts, &options, ends, watch)?)
    }

    /// The most tokens to write behind as many as the longest text has.
    fn room(&self, wanted: Option<usize>, given: usize) -> Result<usize, WriteError> {
        let positions = self.positions;
        let most = (positions + 1).saturating_sub(given);
        match wanted {
            // That a prompt is too long is said with its number.
            _ if most == 0 => Ok(1),
            Some(wanted) if wanted > most => Err(WriteError::TooMany {
                wanted,
                given,
                positions,
            }),
            Some(wanted) => Ok(wanted),
            None => {
                let max_length = self.settings.max_length.unwrap_or_default();
                let room = self.settings.room(given, positions, NEW_TOKENS);
                room.ok_or(WriteError::NoRoom { given, max_length })
            }
        }
    }
}

/// An error about a prompt of a batch, with the prompt's number among all.
fn numbered(error: WriteError, batch: &[usize]) -> WriteError {
    let of = |row: usize| batch.get(row).copied().unwrap_or(row);
    let WriteError::Generate(error) = error else {
        return error;
    };
    WriteError::Generate(match error {
        GenerateError::EmptyPrompt(row) => GenerateError::EmptyPrompt(of(row)),
        GenerateError::LongPrompt { prompt, len, max } => GenerateError::LongPrompt {
            prompt: of(prompt),
            len,
            max,
        },
        GenerateError::NotFinite { row, value, cause } => GenerateError::NotFinite {
            row: of(row),
            value,
            cause,
        },
        other => other,
    })
}
