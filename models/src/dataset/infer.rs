//! What data are for, by the names and values of their columns.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::{
    Column, Dataset, DatasetError, MOST_VALUES, Survey,
    names::{ALPACA, ANSWERS, ASKED, BESIDE, CHATS, LABELS, TEXTS},
    words::{counted, describe, shown},
};
use crate::choice::{Choice, did_you_mean};

/// What is understood of data.
pub struct Inferred {
    /// The objective, a name with options.
    pub objective: Choice,
    /// The template of the text, or several.
    pub text: Value,
    /// That of the second text.
    pub pair: Option<Value>,
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
    for column in &dataset.label {
        guess.column("label", column)?;
    }
    let mut found = match &*asked.name {
        "" if dataset.label.is_empty() => {
            let language = guess.chat(false)?.or(guess.answers(false)?);
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
        "text" => guess.running_text(true)?,
        _ => guess.labelled()?,
    };
    dataset.set_options(&mut found.objective)?;
    Ok(found)
}

/// What is asked for, and what there is.
struct Guess<'a> {
    dataset: &'a Dataset,
    survey: &'a Survey,
    asked: &'a Choice,
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
    fn column(&self, flag: &'static str, name: &str) -> Result<&Column, DatasetError> {
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
            (column.kinds.are_lists() && column.items.objects > 0).then(|| name.clone())
        };
        let named = match &self.dataset.text {
            Some(text) => of_messages(text),
            None => CHATS.iter().find_map(|name| of_messages(name)),
        };
        let (mut options, decision) = match (named, is_asked) {
            (Some(column), _) => (
                Map::from_iter([("messages".to_owned(), json!(column))]),
                format!("conversations in `{column}`"),
            ),
            (None, false) => return Ok(None),
            (None, true) => {
                let Some(found) = self.answers(true)? else {
                    return Ok(None);
                };
                let prompt = match found.trim {
                    true if self.has("input") => json!(ASKED),
                    true => json!(ASKED[1]),
                    false => found.text,
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
        if self.has("instruction") && self.has("output") {
            let templates = match self.has("input") {
                true => json!(ALPACA),
                false => json!(ALPACA[1]),
            };
            let decision = "Alpaca's prompts, with answers in `output`".to_owned();
            return Ok(Some(causal("output", true, templates, decision)));
        }
        let known = ANSWERS.iter();
        let mut known = known.filter(|(name, _, answer)| self.has(name) && self.has(answer));
        // What another text is for is not told by its being there.
        let is_whole = |(prompt, _, answer): &&(&str, &str, &str)| {
            let mut columns = self.survey.columns.iter();
            let is_known = |name: &str| name == *prompt || name == *answer;
            is_asked || columns.all(|(name, column)| is_known(name) || !column.is_text())
        };
        Ok(known.next().filter(is_whole).map(|(_, template, answer)| {
            let decision = format!("answers in `{answer}` behind {}", shown(&json!(template)));
            causal(answer, false, json!(template), decision)
        }))
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
            trim: false,
            decisions: vec![texts, decision],
        })
    }

    /// What is learned of labels.
    fn objective(&self, labels: &[String]) -> Result<(Choice, String), DatasetError> {
        let columns: Vec<&Column> = labels
            .iter()
            .map(|label| self.column("label", label))
            .collect::<Result<_, _>>()?;
        let (list, column) = (labels.join(", "), columns[0]);
        let name = match &*self.asked.name {
            "" if columns.len() > 1 => several(&columns),
            "" => one(column),
            asked => Some(asked),
        };
        match name {
            None => Err(self.label(
                &list,
                "classes, numbers, lists of these, or columns of 0 and 1",
                describe(column),
            )),
            Some("regression") => {
                let decision = format!("numbers in `{list}`: regression");
                let column = match labels {
                    [label] => json!(label),
                    labels => json!(labels),
                };
                let objective = options(
                    "regression",
                    json!({"label": column, "metrics": ["pearson", "spearman", "rmse"]}),
                );
                Ok((objective, decision))
            }
            Some("multilabel") if labels.len() > 1 => {
                let decision = format!("any of {} classes, a column each: {list}", labels.len());
                Ok((multilabel(json!(labels), labels.to_vec()), decision))
            }
            Some("multilabel") => {
                let classes = self.classes(&list, column)?;
                let decision = format!(
                    "any of {} classes, lists in `{list}`: {}",
                    classes.len(),
                    counted(&classes)
                );
                let names = classes.into_keys().collect();
                Ok((multilabel(json!(labels[0]), names), decision))
            }
            Some("classification") => {
                let classes = self.classes(&list, column)?;
                let decision = format!(
                    "one of {} classes in `{list}`: {}",
                    classes.len(),
                    counted(&classes)
                );
                let names: Vec<&String> = classes.keys().collect();
                let objective = options(
                    "classification",
                    json!({"label": list, "classes": names, "metrics": ["accuracy", "macro_f1"]}),
                );
                Ok((objective, decision))
            }
            Some(other) => Ok((Choice::of(other), format!("{other}, as asked for"))),
        }
    }

    fn label(&self, column: &str, expected: &str, found: String) -> DatasetError {
        DatasetError::Label {
            path: self.dataset.first_file(),
            column: column.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }

    /// The classes of a column with the rows of each: by number if all are whole numbers, else by
    /// code point.
    fn classes(
        &self,
        name: &str,
        column: &Column,
    ) -> Result<IndexMap<String, usize>, DatasetError> {
        let Some(mut classes) = column.values.clone() else {
            let expected = format!(
                "at most {MOST_VALUES} classes of short names, or numbers and --objective regression"
            );
            return Err(self.label(name, &expected, describe(column)));
        };
        let number = |text: &String| text.trim().parse::<i128>().ok();
        let by_number = classes.keys().all(|class| number(class).is_some());
        classes.sort_by(|a, _, b, _| match by_number {
            true => number(a).cmp(&number(b)).then(a.cmp(b)),
            false => a.cmp(b),
        });
        match classes.len() {
            0 => Err(self.label(name, "the names of classes", "nothing in any row".into())),
            1 => {
                let found = format!("only {}", counted(&classes));
                let expected = "at least 2 classes, of which one can be learned";
                Err(self.label(name, expected, found))
            }
            _ => Ok(classes),
        }
    }
}

/// What one column of labels is for.
fn one(column: &Column) -> Option<&'static str> {
    let kinds = &column.kinds;
    match kinds.are_lists() {
        true if column.items.are_numbers() && column.items.decimals > 0 => Some("regression"),
        true if column.items.lists + column.items.objects == 0 => Some("multilabel"),
        false if kinds.lists + kinds.objects > 0 => None,
        false if kinds.are_numbers() && kinds.decimals > 0 => Some("regression"),
        false => Some("classification"),
        true => None,
    }
}

/// What several columns of labels are for.
fn several(columns: &[&Column]) -> Option<&'static str> {
    let is_flag = |column: &&Column| {
        let flags = |values: &IndexMap<String, usize>| values.keys().all(|v| v == "0" || v == "1");
        column.values.as_ref().is_some_and(flags)
    };
    match columns.iter().all(is_flag) {
        true => Some("multilabel"),
        false => {
            let numbers = columns.iter().all(|column| column.kinds.are_numbers());
            numbers.then_some("regression")
        }
    }
}

fn options(name: &str, options: Value) -> Choice {
    Choice {
        name: name.to_owned(),
        options,
    }
}

fn multilabel(label: Value, classes: Vec<String>) -> Choice {
    options(
        "multilabel",
        json!({
            "label": label,
            "classes": classes,
            "metrics": ["micro_f1", "macro_f1", "exact_match"],
        }),
    )
}

/// A template that is a column's text.
fn place(column: &str) -> String {
    format!("{{{column}}}")
}
