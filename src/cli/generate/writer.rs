//! The flags of a model that writes: what `generate`, `chat` and `predict` share.

use ailora::{
    finetune::Model,
    models::{
        generate::{Settings, WriteOptions, Writer},
        task::Task,
    },
    runtime::{backend::Backend, engine::Engine},
};
use serde_json::{Map, Value};

use super::choice::{Choice, first, positive};
use crate::cli::{
    Error,
    args::{DeviceArgs, StrictArgs, say_applied},
    print::{self, ClosedPipe},
    sources::{Given, SourceArgs},
};

/// Prompts that are written behind at a time, where no flag says it.
pub const TOGETHER: usize = 8;

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
    #[command(flatten)]
    pub source: SourceArgs,
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

impl WriterArgs {
    /// Loads the model and its adapter, and says how it writes.
    ///
    /// # Errors
    /// They do not fit together, or their files are not as they should be.
    pub fn open(&self, task: Option<&Task>) -> Result<Desk, Error> {
        let given = self.source.given()?;
        let model = Model::generating(&self.model, given.as_ref().map(Given::chosen))?;
        if let Some(given) = &given {
            say_applied(given, &model);
        }
        let how = How {
            task,
            merged: self.merged,
            strict: self.strict,
            together: TOGETHER,
        };
        let backend = self.device.open()?;
        self.texts.writer(model, &how, backend)
    }
}

/// How a model writes, beside its flags.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// The task that may say how.
    pub task: Option<&'a Task>,
    /// Whether the adapter is merged into the weights, or beside them.
    pub merged: bool,
    /// Whether anything of the model's files may be unused.
    pub strict: StrictArgs,
    /// Prompts that are written behind at a time.
    pub together: usize,
}

/// A model that writes, where its parameters are, and how it does.
pub struct Desk {
    pub writer: Writer,
    engine: Engine,
    options: WriteOptions,
}

impl Desk {
    /// The texts behind prompts, in their order.
    ///
    /// # Errors
    /// A prompt is too long, or has an id that the model does not know.
    pub fn write(&mut self, prompts: &[Vec<i32>]) -> Result<Vec<String>, Error> {
        let Self {
            writer,
            engine,
            options,
        } = self;
        Ok(writer.write(engine, prompts, options)?)
    }

    /// Goes on behind so many prompts, whose draws are not those of the next ones.
    pub fn behind(&mut self, prompts: usize) {
        self.options.first += prompts;
    }

    /// How texts are written, to be recorded.
    pub fn described(&self) -> Map<String, Value> {
        self.writer.described(&self.options)
    }

    /// Shows on standard output what the model writes behind a prompt, as it comes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn show(&mut self, prompt: &[i32]) -> Result<String, Error> {
        let Self {
            writer,
            engine,
            options,
        } = self;
        let mut failed = None;
        let text = writer.stream(engine, prompt, options, &mut |part| {
            if failed.is_some() {
                return;
            }
            if let Err(error) = print::stdout(format_args!("{part}")) {
                if error.is::<ClosedPipe>() {
                    // Whoever read it is gone: what would come is for nobody.
                    std::process::exit(0);
                }
                failed = Some(error);
            }
        })?;
        failed.map_or(Ok(text), Err)
    }
}

impl TextArgs {
    /// A model that writes, and how.
    ///
    /// # Errors
    /// Its files, or flags that contradict each other.
    pub fn writer(
        &self,
        mut model: Model,
        how: &How<'_>,
        backend: Box<dyn Backend>,
    ) -> Result<Desk, Error> {
        let settings = model.generation(how.task)?;
        how.strict.check(&model)?;
        // Flags that contradict each other are said before anything is computed.
        let options = self.options(&settings, how.together)?;
        let (writer, engine) = model.writer(settings, how.merged, backend)?;
        Ok(self.desk(writer, engine, options))
    }

    /// Refuses flags of how to write where nothing is written.
    ///
    /// # Errors
    /// One is given.
    pub fn unused(&self) -> Result<(), Error> {
        let others = [
            ("--max-new-tokens", self.max_new_tokens.is_some()),
            ("--stop", !self.stop.is_empty()),
        ];
        match self.choice.given().or(first(&others)) {
            None => Ok(()),
            Some(flag) => Err(format!(
                "{flag} is for texts that a model writes, and none are written here; leave it out"
            )
            .into()),
        }
    }

    /// How texts are written, so many at a time, where flags do not say otherwise as `settings` do.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn options(&self, settings: &Settings, together: usize) -> Result<WriteOptions, Error> {
        let strategy = self.choice.strategy(settings)?;
        let rules = self.choice.rules(settings, strategy);
        let (fewest, most) = (
            rules.min_new_tokens,
            self.max_new_tokens.or(settings.max_new_tokens),
        );
        if let Some(most) = most.filter(|&most| most < fewest) {
            return Err(format!(
                "texts are to have at least {fewest} new tokens (min_new_tokens) and at most {most} \
                 (max_new_tokens); give --min-new-tokens or --max-new-tokens"
            )
            .into());
        }
        Ok(WriteOptions {
            strategy,
            rules,
            max_new_tokens: self.max_new_tokens,
            batch_size: together,
            first: 0,
        })
    }

    /// A writer over an engine, which stops before the texts of the flags.
    pub fn desk(&self, mut writer: Writer, engine: Engine, options: WriteOptions) -> Desk {
        self.stop.iter().for_each(|stop| writer.stop_before(stop));
        Desk {
            writer,
            engine,
            options,
        }
    }
}
