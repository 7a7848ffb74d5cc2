//! A model that writes: what `generate` and `chat` share.

use std::path::PathBuf;

use ailora::{
    finetune::Model,
    models::{
        generate::{Generator, Options, Settings},
        tokenizer::Tokenizer,
    },
    runtime::{backend::Backend, engine::Engine},
};

use super::{
    choice::{Choice, positive},
    stream::{Stream, end, text},
};
use crate::cli::{
    Error,
    args::{DeviceArgs, ForceArgs, StrictArgs, say_applied},
};

/// The model that writes, and how.
#[derive(Debug, clap::Args)]
pub struct WriterArgs {
    /// Use a causal language model or an encoder-decoder: a folder, a GGUF file, or a hub id.
    #[arg(long, value_name = "DIR_OR_ID")]
    model: String,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    strict: StrictArgs,
    /// Use the adapter in this folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    insist: ForceArgs,
    /// Merge the adapter into the weights, instead of computing it beside them.
    #[arg(long, requires = "adapter")]
    merged: bool,
    #[command(flatten)]
    texts: TextArgs,
}

/// How texts are written.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// Generate at most N tokens for each prompt [default: what the model's generation_config.json
    /// says, or 128].
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    #[command(flatten)]
    choice: Choice,
    /// Stop before this text; may be repeated.
    #[arg(long, value_name = "TEXT", value_parser = some_text)]
    stop: Vec<String>,
}

fn some_text(text: &str) -> Result<String, String> {
    match text {
        "" => Err("expected a text".into()),
        text => Ok(text.into()),
    }
}

/// A model that writes.
pub struct Writer<'a> {
    args: &'a TextArgs,
    generator: Generator,
    engine: Engine,
    pub tokenizer: Tokenizer,
    settings: Settings,
    /// The longest text that the model has positions for.
    positions: usize,
    /// Texts that end what is written.
    stops: Vec<String>,
}

impl WriterArgs {
    /// Loads the model and its adapter.
    ///
    /// # Errors
    /// They do not fit together, or their files are not as they should be.
    pub fn open(&self) -> Result<Writer<'_>, Error> {
        let adapter = self.adapter.as_deref();
        let adapter = adapter.map(|path| self.insist.folder(path));
        let model = Model::generating(&self.model, adapter)?;
        if let Some(path) = &self.adapter {
            say_applied(path, &model);
        }
        let backend = self.device.open()?;
        self.texts.writer(model, self.merged, self.strict, backend)
    }
}

impl TextArgs {
    /// A model that writes; its adapter is beside the weights, or merged into them.
    ///
    /// # Errors
    /// Its files, or flags that contradict each other.
    pub fn writer(
        &self,
        mut model: Model,
        merged: bool,
        strict: StrictArgs,
        backend: Box<dyn Backend>,
    ) -> Result<Writer<'_>, Error> {
        let settings = model.generation()?;
        strict.check(&model)?;
        // Flags that contradict each other are said before anything is computed.
        self.choice.strategy(&settings)?;
        let positions = model.max_len(usize::MAX);
        let (generator, engine, tokenizer) = model.generator(merged, backend)?;
        Ok(Writer {
            args: self,
            generator: generator.with_start(settings.start),
            engine,
            tokenizer,
            settings,
            positions,
            stops: self.stop.clone(),
        })
    }
}

impl Writer<'_> {
    /// Ends texts at this token too.
    pub fn end_at(&mut self, token: Option<u32>) {
        let token = token.map(|token| token as i32);
        let new = token.filter(|token| !self.settings.ends.contains(token));
        self.settings.ends.extend(new);
    }

    /// Stops before this text too.
    pub fn stop_before(&mut self, text: Option<String>) {
        self.stops.extend(text);
    }

    /// What the model writes behind each prompt. What it writes behind a single one is shown as it
    /// comes, if `streams`.
    ///
    /// # Errors
    /// A prompt that is too long, or has an id that the model does not know.
    pub fn write(&mut self, prompts: &[Vec<i32>], streams: bool) -> Result<Vec<String>, Error> {
        let Self {
            args,
            tokenizer,
            settings,
            stops,
            ..
        } = self;
        let streams = streams && prompts.len() == 1;
        let strategy = args.choice.strategy(settings)?;
        let given = self.generator.given(prompts);
        let longest = given.iter().map(Vec::len).max().unwrap_or(0);
        let options = Options {
            strategy,
            max_new_tokens: room(args.max_new_tokens, settings, longest, self.positions)?,
            rules: args.choice.rules(settings, strategy),
            ends: settings.ends.clone(),
        };
        let ends = |_: usize, tokens: &[i32]| {
            let text = text(tokenizer, tokens);
            stops.iter().any(|stop| text.contains(stop))
        };
        let mut stream = Stream::default();
        let watch = |_: usize, token| {
            if streams {
                stream.push(tokenizer, stops, token);
            }
        };
        let engine = &mut self.engine;
        let found = self
            .generator
            .generate(engine, prompts, &options, ends, watch)?;
        if streams {
            stream.finish(tokenizer, stops);
        }
        let written = found.iter().map(|tokens| {
            let mut text = text(tokenizer, tokens);
            text.truncate(end(&text, stops));
            text
        });
        Ok(written.collect())
    }
}

/// The most tokens to write behind as many as the longest text has, of a model with `positions`.
fn room(
    wanted: Option<usize>,
    settings: &Settings,
    longest: usize,
    positions: usize,
) -> Result<usize, Error> {
    let most = (positions + 1).saturating_sub(longest);
    match wanted {
        Some(wanted) if wanted > most && most > 0 => Err(format!(
            "--max-new-tokens is {wanted}: too long behind {longest} tokens, since the model has \
             positions for {positions}; expected at most {most}"
        )
        .into()),
        Some(wanted) => Ok(wanted),
        // That a prompt is too long is said with its number.
        None if most == 0 => Ok(1),
        None => settings.room(longest, positions, 128).ok_or_else(|| {
            format!(
                "the longest prompt has {longest} tokens, and the model's files end texts at \
                 {} (max_length); give --max-new-tokens",
                settings.max_length.unwrap_or_default()
            )
            .into()
        }),
    }
}
