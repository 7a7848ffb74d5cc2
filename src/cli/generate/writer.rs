//! The flags of a model that writes: what `generate`, `chat` and `predict` share.

use std::path::PathBuf;

use ailora::{
    finetune::Model,
    models::generate::{WriteOptions, Writer},
    runtime::backend::Backend,
};

use super::choice::{Choice, positive};
use crate::cli::{
    Error,
    args::{DeviceArgs, ForceArgs, StrictArgs, say_applied},
    print,
};

/// Prompts that are written behind at a time, where no flag says it.
const TOGETHER: usize = 8;

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

impl WriterArgs {
    /// Loads the model and its adapter, and says how it writes.
    ///
    /// # Errors
    /// They do not fit together, or their files are not as they should be.
    pub fn open(&self) -> Result<(Writer, WriteOptions), Error> {
        let adapter = self.adapter.as_deref();
        let adapter = adapter.map(|path| self.insist.folder(path));
        let model = Model::generating(&self.model, adapter)?;
        if let Some(path) = &self.adapter {
            say_applied(path, &model);
        }
        let backend = self.device.open()?;
        self.texts
            .writer(model, self.merged, self.strict, backend, TOGETHER)
    }
}

impl TextArgs {
    /// A model that writes, and how, `together` prompts at a time; its adapter is beside the weights, or
    /// merged into them.
    ///
    /// # Errors
    /// Its files, or flags that contradict each other.
    pub fn writer(
        &self,
        mut model: Model,
        merged: bool,
        strict: StrictArgs,
        backend: Box<dyn Backend>,
        together: usize,
    ) -> Result<(Writer, WriteOptions), Error> {
        let settings = model.generation()?;
        strict.check(&model)?;
        // Flags that contradict each other are said before anything is computed.
        let strategy = self.choice.strategy(&settings)?;
        let options = WriteOptions {
            strategy,
            rules: self.choice.rules(&settings, strategy),
            max_new_tokens: self.max_new_tokens,
            batch_size: together,
        };
        let mut writer = model.writer(settings, merged, backend)?;
        self.stop.iter().for_each(|stop| writer.stop_before(stop));
        Ok((writer, options))
    }
}

/// Shows on standard output what the model writes behind a prompt, as it comes.
///
/// # Errors
/// The prompt is too long, or has an id that the model does not know.
pub fn show(writer: &mut Writer, prompt: &[i32], options: &WriteOptions) -> Result<String, Error> {
    Ok(writer.stream(prompt, options, &mut |part| {
        if print::stdout(format_args!("{part}")).is_err() {
            // Whoever read it is gone: what would come is for nobody.
            std::process::exit(0);
        }
    })?)
}
