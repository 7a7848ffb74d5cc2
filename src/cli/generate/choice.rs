//! How tokens are chosen: what the flags say, over what the model's folder says.

use ailora::models::generate::{MOST_BEAMS, Rules, Settings, Strategy};

use crate::cli::{Error, print::say};

/// How tokens are chosen. What is not given is as the model's generation_config.json says.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Follow this many sequences in a beam search; 1 takes the likeliest token
    /// [default: what the model's generation_config.json says, or 1].
    #[arg(long, value_name = "N", value_parser = beams, allow_negative_numbers = true, conflicts_with_all = ["sample", "temperature"])]
    beams: Option<usize>,
    /// Divide a sequence's log-probability by this power of its length, in a beam search.
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// Stop a beam search at as many finished sequences as there are beams.
    #[arg(long)]
    early_stopping: bool,
    /// Draw tokens at random, at the temperature that the model's generation_config.json says, or 1.
    /// Without this flag and --temperature the likeliest are taken, even where the file says to draw.
    #[arg(long)]
    sample: bool,
    /// Draw tokens at random, at this temperature.
    #[arg(long, value_name = "T", value_parser = above_0, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw among this many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that make up this much of the probability.
    #[arg(long, value_name = "P", value_parser = fraction, allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Draw among the tokens that are at least this many times as likely as the likeliest.
    #[arg(long, value_name = "P", value_parser = fraction, allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Seed of the random draws [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Make tokens that already occur less likely, by this factor.
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Write no sequence of this many tokens twice; 0 for no limit.
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    no_repeat_ngram_size: Option<usize>,
    /// Write at least this many tokens.
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    min_new_tokens: Option<usize>,
}

/// A number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "expected a whole number")?;
    match number {
        0 => Err("expected at least 1".into()),
        number => Ok(number),
    }
}

fn beams(text: &str) -> Result<usize, String> {
    match positive(text)? {
        number @ ..=MOST_BEAMS => Ok(number),
        _ => Err(format!("expected at most {MOST_BEAMS}")),
    }
}

fn number(text: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number| fits(number));
    number.ok_or_else(|| format!("expected {expected}"))
}

fn finite(text: &str) -> Result<f64, String> {
    number(text, "a number", f64::is_finite)
}

fn above_0(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |x| x > 0.0 && x.is_finite())
}

fn penalty(text: &str) -> Result<f64, String> {
    number(text, Rules::PENALTY, Rules::is_penalty)
}

fn whole(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| "expected a whole number, at least 0".into())
}

fn fraction(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

/// The first flag that is given.
pub fn first(flags: &[(&'static str, bool)]) -> Option<&'static str> {
    let given = flags.iter().find(|(_, given)| *given);
    given.map(|(flag, _)| *flag)
}

impl Choice {
    /// The first of the flags that is given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--beams", self.beams.is_some()),
            ("--length-penalty", self.length_penalty.is_some()),
            ("--early-stopping", self.early_stopping),
            ("--sample", self.sample),
            ("--temperature", self.temperature.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
            ("--repetition-penalty", self.repetition_penalty.is_some()),
            (
                "--no-repeat-ngram-size",
                self.no_repeat_ngram_size.is_some(),
            ),
            ("--min-new-tokens", self.min_new_tokens.is_some()),
        ];
        first(&flags)
    }

    /// How the next token is chosen.
    ///
    /// # Errors
    /// A flag that belongs to another way.
    pub fn strategy(&self, settings: &Settings) -> Result<Strategy, Error> {
        let draws = self.sample || self.temperature.is_some();
        let beams = self.beams.unwrap_or(settings.beams);
        let for_draws = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let for_beams = [
            ("--length-penalty", self.length_penalty.is_some()),
            ("--early-stopping", self.early_stopping),
        ];
        if let Some(flag) = first(&for_draws).filter(|_| !draws) {
            let text =
                format!("{flag} is for tokens that are drawn: add --sample or --temperature");
            return Err(text.into());
        }
        if let Some(flag) = first(&for_beams).filter(|_| draws || beams == 1) {
            return Err(format!("{flag} is for a beam search: add --beams").into());
        }
        if draws {
            let temperature = self.temperature.unwrap_or(settings.temperature);
            if temperature == 0.0 {
                let text = "`temperature` of generation_config.json is 0, at which nothing is drawn: \
                            give --temperature, or leave out --sample";
                return Err(text.into());
            }
            return Ok(Strategy::Sample {
                temperature,
                top_k: self.top_k.unwrap_or(settings.top_k),
                top_p: self.top_p.unwrap_or(settings.top_p),
                min_p: self.min_p.unwrap_or(settings.min_p),
                seed: self.seed.unwrap_or(0),
            });
        }
        if settings.sample && self.beams.is_none() {
            say!(
                "note: generation_config.json says to draw tokens (do_sample); the likeliest are \
                 taken, --sample draws them"
            );
        }
        let settings = Settings {
            beams,
            length_penalty: self.length_penalty.unwrap_or(settings.length_penalty),
            early_stopping: self.early_stopping || settings.early_stopping,
            ..settings.clone()
        };
        Ok(settings.strategy())
    }

    /// What may be written next, where tokens are chosen so.
    pub fn rules(&self, settings: &Settings, strategy: Strategy) -> Rules {
        let mut rules = settings.rules_for(strategy);
        if let Some(penalty) = self.repetition_penalty {
            rules.repetition_penalty = penalty;
        }
        if let Some(size) = self.no_repeat_ngram_size {
            rules.no_repeat_ngram_size = size;
        }
        if let Some(fewest) = self.min_new_tokens {
            (rules.min_new_tokens, rules.min_length) = (fewest, 0);
        }
        rules
    }
}
