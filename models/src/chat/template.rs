//! Chat templates, rendered as transformers renders them.

use std::{fmt, path::Path};

use indexmap::IndexMap;
use minijinja::{
    Environment, Error, ErrorKind, Value, context,
    value::{Rest, ValueKind},
};
use serde_json::{Map, Value as Json};

use super::{
    ChatError, Date, Message, json, methods, python,
    source::{GENERATION, Source},
    spans::{BEGIN, END},
};
use crate::closed::wall;

/// The template that is taken where none is named.
pub(super) const DEFAULT: &str = "default";
/// The one that is taken for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// How many instructions a template may take for one conversation: far more than any that is meant.
const FUEL: u64 = 1 << 26;

/// Templates that are built in, by name.
pub const BUILT_IN: &[(&str, &str)] = &[("chatml", include_str!("chatml.jinja"))];

/// How a model writes conversations: a Jinja template, or several by name.
#[derive(Clone)]
pub struct ChatTemplate {
    sources: IndexMap<String, Source>,
    /// Where they are from, for errors.
    origin: String,
    /// What templates know beside the conversation: `bos_token` and the like.
    special: Map<String, Json>,
}

/// Whether a text is a template, and no path of one.
fn is_jinja(text: &str) -> bool {
    text.contains("{%") || text.contains("{{")
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.sources.keys().collect();
        f.debug_struct("ChatTemplate")
            .field("origin", &self.origin)
            .field("names", &names)
            .finish()
    }
}

impl ChatTemplate {
    /// A template by its Jinja source; `origin` says in errors where it is from.
    pub fn new(jinja: &str, origin: impl Into<String>) -> Self {
        Self::named([(DEFAULT.to_owned(), jinja.to_owned())], origin)
    }

    /// Templates by name: `default`, `tool_use` for conversations with tools, and others.
    pub(crate) fn named(
        sources: impl IntoIterator<Item = (String, String)>,
        origin: impl Into<String>,
    ) -> Self {
        let sources = sources.into_iter();
        Self {
            sources: sources
                .map(|(name, jinja)| (name, Source::new(&jinja)))
                .collect(),
            origin: origin.into(),
            special: Map::new(),
        }
    }

    /// What a user gives: the name of one that is [built in](BUILT_IN), Jinja, or the path of a file
    /// with it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn given(given: &str) -> Result<Self, ChatError> {
        if let Some((name, jinja)) = BUILT_IN.iter().find(|(name, _)| *name == given) {
            return Ok(Self::new(jinja, format!("`{name}`")));
        }
        let origin = if is_jinja(given) {
            "the settings"
        } else {
            given
        };
        Ok(Self::new(&Self::inlined(given)?, origin))
    }

    /// What a user [gives](Self::given), with the Jinja of a file in the place of its path.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn inlined(given: &str) -> Result<String, ChatError> {
        if is_jinja(given) || BUILT_IN.iter().any(|(name, _)| *name == given) {
            return Ok(given.to_owned());
        }
        super::files::text(Path::new(given)).map_err(|error| match error {
            ChatError::File { path, expected } if !path.exists() => {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let expected = format!(
                    "{expected}, or one of {}; there is no such file",
                    names.join(", ")
                );
                ChatError::File { path, expected }
            }
            other => other,
        })
    }

    /// The templates, which know these special tokens by their roles, such as `bos_token`.
    pub fn with_special(mut self, special: Map<String, Json>) -> Self {
        self.special = special;
        self
    }

    /// This template with the special tokens of another one.
    pub(crate) fn with_special_of(mut self, other: Option<&Self>) -> Self {
        if let Some(other) = other {
            self.special = other.special.clone();
        }
        self
    }

    /// The templates as `chat_template` of `tokenizer_config.json` has them.
    pub fn to_json(&self) -> Json {
        let mut sources = self.sources.iter();
        match (sources.next(), sources.next()) {
            (Some((name, source)), None) if name == DEFAULT => source.jinja.clone().into(),
            _ => {
                let entry = |(name, source): (&String, &Source)| serde_json::json!({"name": name, "template": source.jinja});
                self.sources.iter().map(entry).collect()
            }
        }
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Whether a template asks for the current date.
    pub fn is_dated(&self) -> bool {
        let mut sources = self.sources.values();
        sources.any(|source| source.text.contains("strftime_now"))
    }

    /// The templates, ready to be rendered on this day.
    ///
    /// # Errors
    /// One is no Jinja.
    pub fn compile(&self, date: Date) -> Result<Compiled<'_>, ChatError> {
        let mut environment = environment(date);
        for (name, source) in &self.sources {
            let added = wall::behind(|| {
                let added = environment.add_template(name, &source.text);
                added.map_err(|error| said(&error))
            });
            let added = added.unwrap_or_else(|panic| Err(failed(&panic)));
            added.map_err(|cause| ChatError::Syntax {
                origin: self.origin.clone(),
                cause,
            })?;
        }
        Ok(Compiled {
            environment,
            template: self,
        })
    }

    /// The name of the template for conversations with or without tools.
    fn choose(&self, tools: bool) -> Result<&str, ChatError> {
        let has = |name: &str| self.sources.contains_key(name);
        match () {
            () if tools && has(TOOL_USE) => Ok(TOOL_USE),
            () if has(DEFAULT) => Ok(DEFAULT),
            () => Err(ChatError::Ambiguous {
                origin: self.origin.clone(),
                names: self.sources.keys().cloned().collect(),
            }),
        }
    }
}

/// Templates that are ready to be rendered.
#[derive(Debug)]
pub struct Compiled<'a> {
    environment: Environment<'a>,
    template: &'a ChatTemplate,
}

impl Compiled<'_> {
    /// Whether the template for such conversations says by `{% generation %}` what is generated.
    pub(super) fn marks(&self, tools: bool) -> Result<bool, ChatError> {
        let name = self.template.choose(tools)?;
        Ok(self
            .template
            .sources
            .get(name)
            .is_some_and(|source| source.marks))
    }

    /// The text of messages, and behind them, if `prompt`, the header of an answer. What is
    /// generated is between marks.
    ///
    /// # Errors
    /// The template refuses them, or fails.
    pub(super) fn render(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        prompt: bool,
        place: &str,
    ) -> Result<String, ChatError> {
        let name = self.template.choose(tools.is_some())?;
        let mut variables = context! {
            messages => messages,
            tools => tools,
            documents => (),
            add_generation_prompt => prompt,
        };
        let special = Value::from_serialize(&self.template.special);
        variables = context! { ..variables, ..special };
        let rendered = wall::behind(|| {
            let template = self.environment.get_template(name)?;
            template.render(variables)
        });
        let place = place.to_owned();
        match rendered {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(match raised(&error) {
                Some(message) => ChatError::Raised { place, message },
                None => ChatError::Render {
                    place,
                    message: said(&error),
                },
            }),
            Err(panic) => Err(ChatError::Render {
                place,
                message: failed(&panic),
            }),
        }
    }
}

fn failed(panic: &str) -> String {
    format!("the minijinja library fails on it: {panic}")
}

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raised(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// An error with its line.
fn said(error: &Error) -> String {
    let line = error
        .line()
        .map(|line| format!(", line {line}"))
        .unwrap_or_default();
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{what}{line}")
}

/// What templates are rendered in.
fn environment<'a>(date: Date) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(methods::call);
    environment
        .set_formatter(|out, _, value| out.write_str(&python::display(value)).map_err(Error::from));
    environment.add_function(
        "raise_exception",
        |message: Value| -> Result<Value, Error> {
            let raised = Raised(python::display(&message));
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
        },
    );
    environment.add_function("strftime_now", move |format: &str| {
        let text = date.format(format);
        text.map_err(|cause| Error::new(ErrorKind::InvalidOperation, cause))
    });
    environment.add_filter(GENERATION, |text: &str| format!("{BEGIN}{text}{END}"));
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", |value: &Value| python::display(value));
    environment.add_filter("safe", |value: &Value| value.clone());
    environment.add_filter("trim", |value: &Value, letters: Rest<Value>| {
        methods::trim(value, letters)
    });
    environment.add_filter("join", join);
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    environment.add_filter("round", round);
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | String | Map | Undefined)
    });
    environment
}

fn join(values: &Value, between: Option<&str>, attribute: Option<Value>) -> Result<String, Error> {
    let texts = values.try_iter()?.map(|value| match &attribute {
        Some(attribute) => value
            .get_item(attribute)
            .map(|value| python::display(&value)),
        None => Ok(python::display(&value)),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join(between.unwrap_or_default()))
}

/// Jinja's `round`: to the even one of two that are as near.
fn round(value: &Value, digits: Option<usize>, how: Option<&str>) -> Result<Value, Error> {
    let how = how.unwrap_or("common");
    if value.is_integer() && how == "common" {
        return Ok(value.clone());
    }
    let value = f64::try_from(value.clone())?;
    let digits = digits.unwrap_or(0).min(300);
    let power = 10_f64.powi(digits as i32);
    let rounded = match how {
        "common" if digits == 0 => value.round_ties_even(),
        // The nearest decimal number, as Python finds it.
        "common" => format!("{value:.digits$}").parse().unwrap_or(value),
        "ceil" => (value * power).ceil() / power,
        "floor" => (value * power).floor() / power,
        other => {
            let what = format!("round knows common, ceil and floor, not {other}");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    };
    Ok(rounded.into())
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        let kind = value.kind();
        Error::new(
            ErrorKind::InvalidOperation,
            format!("a value of type {kind} has no length"),
        )
    })
}
