mod choice;

use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::Model,
    models::{
        generate::{Options, Settings, search},
        task::Task,
        tokenizer::Tokenizer,
    },
};
use serde_json::json;

use self::choice::{Choice, positive};
use super::{
    Error,
    args::{DeviceArgs, ForceArgs, StrictArgs, say_applied},
    print::{self, out},
};

/// What is generated, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use a causal language model or an encoder-decoder: a folder, a GGUF file, or a hub id.
    #[arg(long, value_name = "DIR_OR_ID")]
    model: String,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    strict: StrictArgs,
    /// Use the adapter in this folder.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    insist: ForceArgs,
    /// Merge the adapter into the weights, instead of computing it beside them.
    #[arg(long, requires = "adapter")]
    merged: bool,
    /// Continue this text, or let an encoder-decoder read it; may be repeated. The answer to a single prompt
    /// is written as it is generated, those to several as one JSON object a line, with `prompt` and `text`.
    #[arg(long, value_name = "TEXT", required = true)]
    prompt: Vec<String>,
    /// Put each prompt into the template of this task, as in training.
    #[arg(long)]
    task: Option<String>,
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

impl Args {
    /// The most tokens to write behind as many as the longest text has, of a model with `positions`.
    fn room(&self, settings: &Settings, longest: usize, positions: usize) -> Result<usize, Error> {
        let most = (positions + 1).saturating_sub(longest);
        match self.max_new_tokens {
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
}

/// Writes what the model says behind each prompt.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut prompts = args.prompt.clone();
    if let Some(task) = &args.task {
        let task = Task::parse(task)?;
        prompts = prompts.iter().map(|text| task.prompt(text)).collect();
    }
    let adapter = args.adapter.as_deref();
    let adapter = adapter.map(|path| args.insist.folder(path));
    let mut model = Model::generating(&args.model, adapter)?;
    let settings = model.generation()?;
    args.strict.check(&model)?;
    if let Some(path) = &args.adapter {
        say_applied(path, &model);
    }
    let strategy = args.choice.strategy(&settings)?;
    let positions = model.max_len(usize::MAX);
    let (generator, tokenizer) = model.generator(args.merged, args.device.open()?)?;
    let mut generator = generator.with_start(settings.start);
    let encode = |prompt: &String| -> Result<Vec<i32>, Error> {
        let encoded = tokenizer.encode(prompt, None, usize::MAX)?;
        Ok(encoded.ids.into_iter().map(|id| id as i32).collect())
    };
    let ids = prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let given = generator.given(&ids);
    let longest = given.iter().map(Vec::len).max().unwrap_or(0);
    let options = Options {
        strategy,
        max_new_tokens: args.room(&settings, longest, positions)?,
        rules: args.choice.rules(&settings, strategy),
        ends: settings.ends,
    };
    let (mut session, logits) = generator.start(&ids, options.max_new_tokens)?;
    let ends = |_: usize, tokens: &[i32]| {
        let text = text(&tokenizer, tokens);
        args.stop.iter().any(|stop| text.contains(stop))
    };
    let streams = ids.len() == 1;
    let mut stream = Stream::default();
    let watch = |_: usize, token| {
        if streams {
            stream.push(&tokenizer, &args.stop, token);
        }
    };
    let found = search(&mut session, logits, &given, &options, ends, watch)?;
    if streams {
        stream.finish(&tokenizer, &args.stop);
        out!("")?;
        return Ok(ExitCode::SUCCESS);
    }
    for (prompt, tokens) in args.prompt.iter().zip(&found) {
        let text = text(&tokenizer, tokens);
        let text = &text[..end(&text, &args.stop)];
        out!("{}", json!({"prompt": prompt, "text": text}))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(tokenizer: &Tokenizer, tokens: &[i32]) -> String {
    let ids: Vec<u32> = tokens.iter().map(|&id| id as u32).collect();
    tokenizer.decode(&ids).unwrap_or_default()
}

/// Where the first of the stop texts begins, or the end.
fn end(text: &str, stops: &[String]) -> usize {
    let begins = stops.iter().filter_map(|stop| text.find(stop));
    begins.min().unwrap_or(text.len())
}

/// A text on the terminal that grows by tokens.
#[derive(Default)]
struct Stream {
    tokens: Vec<i32>,
    /// Bytes that were written.
    written: usize,
}

impl Stream {
    /// Writes what a token adds, but for what may become a stop text or is half of a character.
    fn push(&mut self, tokenizer: &Tokenizer, stops: &[String], token: i32) {
        self.tokens.push(token);
        let text = text(tokenizer, &self.tokens);
        let longest = stops.iter().map(String::len).max().unwrap_or(1);
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let certain = certain.saturating_sub(longest - 1);
        self.write(&text, certain.min(end(&text, stops)));
    }

    fn finish(&mut self, tokenizer: &Tokenizer, stops: &[String]) {
        let text = text(tokenizer, &self.tokens);
        self.write(&text, end(&text, stops));
    }

    fn write(&mut self, text: &str, to: usize) {
        let to = text.floor_char_boundary(to);
        if let Some(new) = text.get(self.written..to) {
            if print::stdout(format_args!("{new}")).is_err() {
                // Whoever read it is gone: what would come is for nobody.
                std::process::exit(0);
            }
            self.written = to;
        }
    }
}
