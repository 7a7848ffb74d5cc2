//! What data are for, by the names and values of their columns.

use serde_json::{Map, Value, json};

use super::{
    Column, Dataset, DatasetError, Kinds, Survey,
    names::{
        ALPACA, ANSWERS, ASKED, BESIDE, CHATS, CONTEXTS, LABELS, OF_SQUAD, PARTS, STARTS, TEXTS,
        WRITTEN,
    },
    words::shown,
};
use crate::{
    choice::{Choice, did_you_mean},
    objective::OBJECTIVES,
    task::TaskError,
};

/// What is understood of data.
pub struct Inferred {
    /// The objective, a name with options.
    pub objective: Choice,
    /// The template of the text, or several.
    pub text: Value,
    /// That of the second text.
    pub pair: Option<Value>,
    /// The column of the rows' names.
    pub id: Option<String>,
    /// Columns that are known and not needed.
    pub unused: Vec<String>,
    /// Whether white space around what is put in is left out.
    pub trim: bool,
    /// What was decided, for the user.
    pub decisions: Vec<String>,
}

/// Understands data by what is asked for and what there is.
pub fn infer(dataset: &Dataset, survey: &Survey) -> Result<Inferred, DatasetError> {
    let asked = dataset.objective.clone().unwrap_or_else(|| Choice::of(""));
    let guess = Guess {
        dataset,
        survey,
        asked: &asked,
    };
    if dataset.objective.is_some() && !OBJECTIVES.iter().any(|kind| kind.name == asked.name) {
        let unknown = asked.clone().make("objective", OBJECTIVES).map(drop);
        unknown.map_err(TaskError::Description)?;
    }
    for column in &dataset.label {
        guess.column("label", column)?;
    }
    let mut found = match &*asked.name {
        "" if dataset.label.is_empty() => {
            let spans = guess.questions(false)?;
            let language = spans.or(guess.chat(false)?).or(guess.answers(false)?);
            match language {
                Some(found) => found,
                None if guess.label_column().is_none() => guess.running_text(false)?,
                None => guess.labelled()?,
            }
        }
        "chat" => guess
            .chat(true)?
            .ok_or_else(|| guess.unclear("has the messages", "text"))?,
        "causal" => guess
            .answers(true)?
            .ok_or_else(|| guess.unclear("has the answer", "label"))?,
        "seq2seq" => guess.written()?,
        "text" => guess.running_text(true)?,
        "extractive" => guess
            .questions(true)?
            .ok_or_else(|| guess.unclear("has the answers", "label"))?,
        _ => guess.labelled()?,
    };
    dataset.set_options(&mut found.objective)?;
    if dataset.pair.is_some() && found.pair.is_none() {
        return Err(DatasetError::no_pair(&found.objective.name));
    }
    Ok(found)
}

/// What is asked for, and what there is.
pub(super) struct Guess<'a> {
    pub dataset: &'a Dataset,
    pub survey: &'a Survey,
    pub asked: &'a Choice,
}

impl Guess<'_> {
    fn has(&self, name: &str) -> bool {
        self.survey.columns.contains_key(name)
    }

    /// The column of this name, whatever its case.
    fn named(&self, name: &str) -> Option<&String> {
        let columns = &self.survey.columns;
        let exact = columns.get_key_value(name).map(|(name, _)| name);
        exact.or_else(|| columns.keys().find(|c| c.eq_ignore_ascii_case(name)))
    }

    fn found(&self) -> String {
        let names: Vec<&str> = self.survey.columns.keys().map(String::as_str).collect();
        names.join(", ")
    }

    fn unclear(&self, what: &'static str, flag: &'static str) -> DatasetError {
        DatasetError::Unclear {
            path: self.dataset.first_file(),
            what,
            found: self.found(),
            flag,
        }
    }

    /// A column that a flag names.
    pub fn column(&self, flag: &'static str, name: &str) -> Result<&Column, DatasetError> {
        let names = || self.survey.columns.keys().map(String::as_str);
        self.survey
            .columns
            .get(name)
            .ok_or_else(|| DatasetError::NoColumn {
                flag,
                column: name.to_owned(),
                found: self.found(),
                suggestion: did_you_mean(name, names()),
            })
    }

    /// A template: the one given, or that of a column.
    fn template(&self, flag: &'static str, given: &str) -> Result<Value, DatasetError> {
        if given.contains('{') {
            return Ok(given.into());
        }
        self.column(flag, given)?;
        Ok(place(given).into())
    }

    /// Text and pair of rows whose other columns are these.
    fn texts(&self, others: &[String]) -> Result<(Value, Option<Value>), DatasetError> {
        let pair = self.dataset.pair.as_ref();
        let pair = pair.map(|pair| self.template("pair", pair)).transpose()?;
        if let Some(text) = &self.dataset.text {
            return Ok((self.template("text", text)?, pair));
        }
        let is_free = |name: &&String| !others.contains(name);
        let known = TEXTS.iter().find_map(|(name, seconds)| {
            let text = self.named(name).filter(is_free)?;
            let second = seconds.iter().find_map(|name| self.named(name));
            Some((text, second.filter(is_free)))
        });
        if let Some((text, second)) = known {
            let second = second.map(|second| place(second).into());
            return Ok((place(text).into(), pair.or(second)));
        }
        let columns = self.survey.columns.iter();
        let texts = columns.filter(|(name, column)| column.is_text() && !others.contains(name));
        let texts: Vec<&String> = texts.map(|(name, _)| name).collect();
        match texts[..] {
            [text] => Ok((place(text).into(), pair)),
            _ => Err(self.unclear("has the text", "text")),
        }
    }

    /// Conversations, in a column of that name or that was named, or made of prompts and answers.
    fn chat(&self, is_asked: bool) -> Result<Option<Inferred>, DatasetError> {
        let of_messages = |name: &str| {
            let name = self.named(name)?;
            let column = &self.survey.columns[name];
            // Tables hold lists as JSON text.
            let is_list = |value: &Value| value.as_str().is_some_and(|t| t.trim().starts_with('['));
            let mut first = self.survey.first.iter().filter_map(|row| row.get(name));
            let are_texts = column.is_text() && first.all(is_list);
            let are_lists = column.kinds.are_lists() && column.items.objects > 0;
            (are_texts || are_lists).then(|| name.clone())
        };
        if let Value::Object(asked) = &self.asked.options
            && (asked.contains_key("messages") || asked.contains_key("prompt"))
        {
            let decision = "conversations, as the objective's options say".to_owned();
            return Ok(Some(self.language("chat", Map::new(), "".into(), decision)));
        }
        let named = match &self.dataset.text {
            Some(text) => of_messages(text),
            None => CHATS.iter().find_map(|name| of_messages(name)),
        };
        let (mut options, decision) = match (named, is_asked) {
            (Some(column), _) => (
                Map::from_iter([("messages".to_owned(), json!(column))]),
                format!("conversations in `{column}`"),
            ),
            (None, false) if !self.are_chats(["prompt", "completion"]) => return Ok(None),
            (None, _) => {
                let Some(found) = self.answers(true)? else {
                    return Ok(None);
                };
                let prompt = match (found.trim, found.text.as_str()) {
                    (true, _) if self.has("input") => json!(ASKED),
                    (true, _) => json!(ASKED[1]),
                    // What stands between a prompt and its answer is the template's.
                    (false, Some(prompt)) => prompt.trim_end_matches('\n').into(),
                    (false, None) => found.text,
                };
                let answer = found.objective.options["answer"].clone();
                let decision = format!("conversations of {} and its answer", shown(&prompt));
                let options = [("prompt", prompt), ("answer", answer)];
                let options = options.map(|(name, value)| (name.to_owned(), value));
                (Map::from_iter(options), decision)
            }
        };
        for name in BESIDE.into_iter().filter(|name| self.has(name)) {
            options.insert(name.to_owned(), json!(name));
        }
        Ok(Some(self.language("chat", options, "".into(), decision)))
    }

    /// Whether columns hold lists of messages.
    fn are_chats(&self, names: [&str; 2]) -> bool {
        names.iter().all(|name| {
            let column = self.survey.columns.get(*name);
            column.is_some_and(|column| column.kinds.are_lists() && column.items.objects > 0)
        })
    }

    fn language(
        &self,
        name: &str,
        options: Map<String, Value>,
        text: Value,
        decision: String,
    ) -> Inferred {
        Inferred {
            objective: Choice {
                name: name.to_owned(),
                options: options.into(),
            },
            text,
            pair: None,
            id: None,
            unused: Vec::new(),
            trim: false,
            decisions: vec![decision],
        }
    }

    /// Prompts with answers.
    fn answers(&self, is_asked: bool) -> Result<Option<Inferred>, DatasetError> {
        let causal = |column: &str, trim: bool, text, decision| {
            let options = [("answer", json!(column)), ("trim", json!(trim))];
            let options = options.map(|(name, value)| (name.to_owned(), value));
            let mut found = self.language("causal", Map::from_iter(options), text, decision);
            found.trim = trim;
            found
        };
        if let ([label], true) = (&self.dataset.label[..], is_asked) {
            let (text, _) = self.texts(&self.dataset.label)?;
            let decision = format!("answers in `{label}` behind {}", shown(&text));
            return Ok(Some(causal(label, false, text, decision)));
        }
        if self.dataset.text.is_some() {
            return Ok(None);
        }
        // What another text is for is not told by its being there; `text` is Alpaca's own prompt.
        let alpaca = ["instruction", "input", "output", "text"];
        let is_alpaca = self.has("instruction") && self.has("output");
        if is_alpaca && (is_asked || self.has_no_text_but(&alpaca)) {
            let templates = match self.has("input") {
                true => json!(ALPACA),
                false => json!(ALPACA[1]),
            };
            let decision = "Alpaca's prompts, with answers in `output`".to_owned();
            return Ok(Some(causal("output", true, templates, decision)));
        }
        let known = ANSWERS.iter();
        let mut known = known.filter(|(name, _, answer)| self.has(name) && self.has(answer));
        let is_whole = |(prompt, _, answer): &&(&str, &str, &str)| {
            is_asked || self.has_no_text_but(&[prompt, answer])
        };
        Ok(known.next().filter(is_whole).map(|(_, template, answer)| {
            let decision = format!("answers in `{answer}` behind {}", shown(&json!(template)));
            causal(answer, false, json!(template), decision)
        }))
    }

    /// Texts that are written about others. What these are for is asked for: a language model learns the
    /// same columns as answers to prompts.
    fn written(&self) -> Result<Inferred, DatasetError> {
        let known = || {
            let mut known = WRITTEN.iter();
            known.find_map(|(text, target)| Some((self.named(text)?, self.named(target)?)))
        };
        // Of several columns that may have the target, the first that there is.
        let asked = match &self.asked.options["target"] {
            Value::Array(names) => names
                .iter()
                .find(|name| name.as_str().is_some_and(|n| self.has(n))),
            name => Some(name),
        };
        let asked = asked.and_then(Value::as_str);
        let target = match (&self.dataset.label[..], asked, known()) {
            ([target], ..) => target.clone(),
            ([], Some(target), _) => {
                self.column("label", target)?;
                target.to_owned()
            }
            ([], None, Some((_, target))) => target.clone(),
            _ => return Err(self.unclear("has the text to write", "label")),
        };
        let text = match (&self.dataset.text, known()) {
            (None, Some((text, of))) if *of == target => place(text).into(),
            _ => self.texts(std::slice::from_ref(&target))?.0,
        };
        let decision = format!("texts in `{target}` to write about {}", shown(&text));
        let options = [
            ("target", json!(target)),
            (
                "metrics",
                json!(["rouge1", "rouge2", "rougeL", "rougeLsum"]),
            ),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value));
        let mut found = self.language("seq2seq", Map::from_iter(options), text, decision);
        // The rows of stories have one, and most published sets.
        found.unused = vec!["id".to_owned()];
        Ok(found)
    }

    /// Questions that parts of a text answer. Without being asked for, only where the columns say where
    /// in the text the answers start.
    fn questions(&self, is_asked: bool) -> Result<Option<Inferred>, DatasetError> {
        let named = |names: &[&str]| names.iter().find_map(|name| self.named(name)).cloned();
        let option = |name: &str| self.asked.options[name].as_str().map(str::to_owned);
        let answers = match &self.dataset.label[..] {
            [label] => Some(label.clone()),
            _ => option("answers").or_else(|| named(&PARTS)),
        };
        let Some(answers) = answers else {
            return Ok(None);
        };
        let column = self.column("label", &answers)?;
        let (answers, starts) = match column.kinds.objects {
            0 => (answers, option("starts").or_else(|| named(&STARTS))),
            _ => (
                format!("{answers}.text"),
                Some(format!("{answers}.answer_start")),
            ),
        };
        let starts = match (starts, is_asked) {
            (Some(starts), _) => starts,
            (None, false) => return Ok(None),
            (None, true) => {
                let expected = "a column that says where they start, as in --objective \
                                '{extractive: {starts: COLUMN}}'";
                return Err(self.label(&answers, expected, self.found()));
            }
        };
        let place_of = |flag, given: &Option<String>, names: &[&str]| match given {
            Some(given) => self.template(flag, given).map(Some),
            None => Ok(named(names).map(|name| place(&name).into())),
        };
        let text = place_of("text", &self.dataset.text, &["question"])?;
        let pair = place_of("pair", &self.dataset.pair, &CONTEXTS)?;
        let (text, pair) = match (text, pair, is_asked) {
            (Some(text), Some(pair), _) => (text, pair),
            (_, _, false) => return Ok(None),
            (None, ..) => return Err(self.unclear("has the questions", "text")),
            (_, None, _) => return Err(self.unclear("has the texts that answer", "pair")),
        };
        let without = self.survey.empty(column) + column.blank;
        let has_none = match without {
            0 => "each has an answer".to_owned(),
            without => format!("{without} have no answer"),
        };
        let decision = format!(
            "questions in {} about {}, answered by the parts of it in `{answers}`; {has_none}",
            shown(&text),
            shown(&pair)
        );
        let options = [
            ("answers", json!(answers)),
            ("starts", json!(starts)),
            ("no_answer", json!(without > 0)),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value));
        let mut found = self.language("extractive", Map::from_iter(options), text, decision);
        found.pair = Some(pair);
        found.id = named(&["id"]);
        found.unused = OF_SQUAD.map(str::to_owned).to_vec();
        Ok(Some(found))
    }

    /// Whether no other column holds texts, lists or objects.
    fn has_no_text_but(&self, names: &[&str]) -> bool {
        let mut columns = self.survey.columns.iter();
        columns.all(|(name, column)| {
            let Kinds {
                texts,
                lists,
                objects,
                ..
            } = column.kinds;
            names.contains(&name.as_str()) || texts + lists + objects == 0
        })
    }

    /// Text without anything beside it, unless it is asked for.
    fn running_text(&self, is_asked: bool) -> Result<Inferred, DatasetError> {
        let (text, _) = self.texts(&[])?;
        if !is_asked && self.survey.columns.len() > 1 {
            return Err(self.unclear("has the label", "label"));
        }
        let decision = format!("running text: {}", shown(&text));
        Ok(self.language("text", Map::new(), text, decision))
    }

    /// The column of labels, if its name says so.
    fn label_column(&self) -> Option<String> {
        LABELS.iter().find_map(|name| self.named(name)).cloned()
    }

    /// Texts with labels.
    fn labelled(&self) -> Result<Inferred, DatasetError> {
        let labels = match &self.dataset.label[..] {
            [] => {
                let label = self.label_column();
                vec![label.ok_or_else(|| self.unclear("has the label", "label"))?]
            }
            given => given.to_vec(),
        };
        let (text, pair) = self.texts(&labels)?;
        let (objective, decision) = self.objective(&labels)?;
        let texts = match &pair {
            Some(pair) => format!("pairs: {} and {}", shown(&text), shown(pair)),
            None => format!("texts: {}", shown(&text)),
        };
        Ok(Inferred {
            objective,
            text,
            pair,
            id: None,
            unused: Vec::new(),
            trim: false,
            decisions: vec![texts, decision],
        })
    }
}

/// A template that is a column's text.
fn place(column: &str) -> String {
    format!("{{{column}}}")
}
