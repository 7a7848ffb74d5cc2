//! What is learned of columns of labels.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{
    Column, DatasetError, MOST_VALUES,
    infer::Guess,
    words::{counted, describe},
};
use crate::choice::Choice;

/// So many rows of which none shares its class with another are no classes.
const MANY: usize = 10;

impl Guess<'_> {
    /// What is learned of labels.
    pub fn objective(&self, labels: &[String]) -> Result<(Choice, String), DatasetError> {
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
                "classes, or numbers in every row, or lists of these, or columns of 0 and 1 (or pass \
                 --objective)",
                describe(column),
            )),
            Some("regression") => {
                let decision = format!("numbers in `{list}`: regression");
                let mut found = json!({"metrics": ["rmse", "pearson", "spearman"]});
                found["label"] = match labels {
                    [label] => json!(label),
                    labels => json!(labels),
                };
                match column.lengths {
                    _ if labels.len() > 1 || !column.kinds.are_lists() => {}
                    (fewest, most) if fewest == most => found["outputs"] = json!(most),
                    (fewest, most) => {
                        let found = format!("lists of {fewest} to {most}");
                        return Err(self.label(&list, "as many numbers in every row", found));
                    }
                }
                Ok((options("regression", found), decision))
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
                // Answers, or names of rows.
                if classes.len() == self.survey.rows && classes.len() >= MANY {
                    let found = format!("{} classes of one row each", classes.len());
                    let expected = "classes that have several rows; pass --objective causal for answers, or \
                                    --objective regression for numbers";
                    return Err(self.label(&list, expected, found));
                }
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

    pub(super) fn label(&self, column: &str, expected: &str, found: String) -> DatasetError {
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
        if column.repeating > 0 {
            let expected = "lists that name each class once (0 and 1 for each class go into columns of their \
                            own, named by --label)";
            let found = format!("{} lists with one twice", column.repeating);
            return Err(self.label(name, expected, found));
        }
        if let Some(separator) = self.asked.options["separator"].as_str() {
            classes = separated(&classes, separator);
        }
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

/// The classes of texts in which a separator stands between them.
fn separated(texts: &IndexMap<String, usize>, separator: &str) -> IndexMap<String, usize> {
    let mut classes = IndexMap::new();
    for (text, rows) in texts {
        let names = text.split(separator).map(str::trim);
        for name in names.filter(|name| !name.is_empty()) {
            *classes.entry(name.to_owned()).or_insert(0) += rows;
        }
    }
    classes
}

/// What one column of labels is for.
fn one(column: &Column) -> Option<&'static str> {
    let kinds = &column.kinds;
    match kinds.are_lists() {
        true if column.items.are_numbers() && column.items.decimals > 0 => Some("regression"),
        true if column.items.lists + column.items.objects == 0 => Some("multilabel"),
        false if kinds.lists + kinds.objects > 0 => None,
        false if kinds.are_numbers() && kinds.decimals > 0 => Some("regression"),
        // A number that is missing or misspelt makes no classes of the others.
        false if kinds.decimals > 0 => None,
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
