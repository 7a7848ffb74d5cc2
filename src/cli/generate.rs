use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::Model,
    models::{
        generate::{Options, Strategy, search},
        task::Task,
        tokenizer::Tokenizer,
    },
};
use serde_json::json;

use super::{
    Error,
    args::{DeviceArgs, StrictArgs},
    print::{self, out},
};

/// What is generated, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use a causal language model or an encoder-decoder: a folder, or an id of the hub.
    #[arg(long, value_name = "DIR_OR_ID")]
    model: String,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    strict: StrictArgs,
    /// Use the adapter in this folder.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Merge the adapter into the weights, instead of computing it beside them.
    #[arg(long, requires = "adapter")]
    merged: bool,
    /// Continue this text, or let an encoder-decoder read it; may be repeated. The answer to one prompt is
    /// written as it comes; of several, each gives a JSON object a line, with `prompt` and `text`.
    #[arg(long, value_name = "TEXT", required = true)]
    prompt: Vec<String>,
    /// Put each prompt into the form in which this task was trained.
    #[arg(long)]
    task: Option<String>,
    /// Generate at most N tokens for each prompt.
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_new_tokens: usize,
    /// Search with N beams; without them the likeliest token is taken.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "temperature")]
    beams: Option<usize>,
    /// Divide a sequence's log-probability by its length to this power.
    #[arg(
        long,
        default_value_t = 1.0,
        requires = "beams",
        allow_negative_numbers = true
    )]
    length_penalty: f64,
    /// Stop at as many finished sequences as there are beams.
    #[arg(long, requires = "beams")]
    early_stopping: bool,
    /// Sample tokens at this temperature.
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f64>,
    /// Sample among the K likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 0, requires = "temperature", value_name = "K")]
    top_k: usize,
    /// Sample among the likeliest tokens that make up this much of the probability.
    #[arg(
        long,
        default_value_t = 1.0,
        requires = "temperature",
        value_name = "P"
    )]
    top_p: f64,
    /// Seed of sampling.
    #[arg(long, default_value_t = 0, requires = "temperature")]
    seed: u64,
    /// Stop before this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

fn positive(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "expected a whole number")?;
    (number > 0)
        .then_some(number)
        .ok_or_else(|| "expected at least 1".into())
}

fn temperature(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number")?;
    let fits = number > 0.0 && number.is_finite();
    fits.then_some(number)
        .ok_or_else(|| "expected a number above 0; leave it out for the likeliest token".into())
}

impl Args {
    fn strategy(&self) -> Strategy {
        match (self.beams, self.temperature) {
            (Some(beams), _) => Strategy::Beam {
                beams,
                length_penalty: self.length_penalty,
                early_stopping: self.early_stopping,
            },
            (None, Some(temperature)) => Strategy::Sample {
                temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                seed: self.seed,
            },
            (None, None) => Strategy::Greedy,
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
    let model = Model::generating(&args.model)?;
    args.strict.check(&model)?;
    let options = Options {
        strategy: args.strategy(),
        max_new_tokens: args.max_new_tokens,
        ends: model.pretrained.model.config().ends(),
    };
    let max_len = model.max_len(usize::MAX);
    let (mut generator, tokenizer) =
        model.generator(args.adapter.as_deref(), args.merged, args.device.open()?)?;
    let encode = |prompt: &String| -> Result<Vec<i32>, Error> {
        let encoded = tokenizer.encode(prompt, None, max_len)?;
        Ok(encoded.ids.into_iter().map(|id| id as i32).collect())
    };
    let ids = prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let (mut session, logits) = generator.start(&ids, args.max_new_tokens)?;
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
    let found = search(&mut session, logits, ids.len(), &options, ends, watch)?;
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
