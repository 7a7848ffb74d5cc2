//! What the columns of files hold, by one reading of them.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::data::{DataError, Record, Sink};

/// The most values of a column that are told apart.
pub const MOST_VALUES: usize = 1000;
/// Characters of a value that may be a label's, at most.
const LONGEST_LABEL: usize = 200;
/// Rows that are kept to be shown.
const SHOWN: usize = 3;

/// How many values are of which kind. A text that reads as a number counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Whole numbers without a decimal point.
    pub integers: usize,
    /// Other finite numbers.
    pub decimals: usize,
    /// Texts, and truth values.
    pub texts: usize,
    /// Lists.
    pub lists: usize,
    /// Objects.
    pub objects: usize,
}

impl Kinds {
    fn add(&mut self, value: &Value) {
        let count = match value {
            Value::Null => return,
            Value::Array(_) => &mut self.lists,
            Value::Object(_) => &mut self.objects,
            Value::Bool(_) => &mut self.texts,
            Value::Number(number) => self.of_number(&number.to_string()),
            Value::String(text) => self.of_number(text.trim()),
        };
        *count += 1;
    }

    fn of_number(&mut self, text: &str) -> &mut usize {
        let is_number = |_: &f64| !text.contains(['n', 'N', 'i', 'I']);
        match (
            text.parse::<i128>(),
            text.parse::<f64>().ok().filter(is_number),
        ) {
            (Ok(_), _) => &mut self.integers,
            (_, Some(_)) => &mut self.decimals,
            _ => &mut self.texts,
        }
    }

    /// How many there are in all.
    pub fn total(&self) -> usize {
        self.integers + self.decimals + self.texts + self.lists + self.objects
    }

    /// Whether there are some, all of them numbers.
    pub fn are_numbers(&self) -> bool {
        self.total() > 0 && self.total() == self.integers + self.decimals
    }

    /// Whether there are some, all of them lists.
    pub fn are_lists(&self) -> bool {
        self.lists > 0 && self.total() == self.lists
    }
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What is in its rows.
    pub kinds: Kinds,
    /// What is in its lists.
    pub items: Kinds,
    /// The fewest and the most items of its lists.
    pub lengths: (usize, usize),
    /// Lists in which there is nothing, and objects of nothing but such lists.
    pub blank: usize,
    /// Lists that have an item twice.
    pub repeating: usize,
    /// How often each value occurs, or each item of lists, as written; none if there are more than
    /// [`MOST_VALUES`], or long ones.
    pub values: Option<IndexMap<String, usize>>,
    /// The fewest and the most characters of its texts.
    pub chars: (usize, usize),
    /// Characters in all.
    pub total_chars: u64,
}

impl Default for Column {
    fn default() -> Self {
        Self {
            kinds: Kinds::default(),
            items: Kinds::default(),
            lengths: (usize::MAX, 0),
            blank: 0,
            repeating: 0,
            values: Some(IndexMap::new()),
            chars: (usize::MAX, 0),
            total_chars: 0,
        }
    }
}

impl Column {
    fn add(&mut self, value: &Value) {
        self.kinds.add(value);
        self.blank += usize::from(is_blank(value));
        match value {
            Value::Array(items) => {
                let (fewest, most) = self.lengths;
                self.lengths = (fewest.min(items.len()), most.max(items.len()));
                // Only of what may be labels: other lists are long.
                let may_be_labels = self.values.is_some() && !items.iter().any(Value::is_object);
                let repeats = |i: usize| items[..i].contains(&items[i]);
                let repeats = || (1..items.len().min(MOST_VALUES)).any(repeats);
                self.repeating += usize::from(may_be_labels && repeats());
                for item in items {
                    self.items.add(item);
                    self.count(item);
                }
                self.total_chars += value.to_string().len() as u64;
            }
            Value::Object(_) => self.total_chars += value.to_string().len() as u64,
            value => {
                self.count(value);
                let chars = value.as_str().map_or(0, |text| text.chars().count());
                self.chars = (self.chars.0.min(chars), self.chars.1.max(chars));
                self.total_chars += chars as u64;
            }
        }
    }

    fn count(&mut self, value: &Value) {
        let Some(values) = &mut self.values else {
            return;
        };
        let written = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return,
        };
        if written.len() > LONGEST_LABEL {
            self.values = None;
            return;
        }
        *values.entry(written).or_insert(0) += 1;
        if values.len() > MOST_VALUES {
            self.values = None;
        }
    }

    /// Whether its rows are texts for people: not numbers, lists or objects.
    pub fn is_text(&self) -> bool {
        self.kinds.texts > 0 && self.kinds.lists + self.kinds.objects == 0
    }
}

/// Whether a list is empty, or an object has nothing but empty lists.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_blank),
        _ => false,
    }
}

/// What files hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Records.
    pub rows: usize,
    /// The columns, by name, in the order in which they first come.
    pub columns: IndexMap<String, Column>,
    /// The first records.
    pub first: Vec<Map<String, Value>>,
    /// Records that cannot be read.
    pub malformed: usize,
    /// Whether such are left out.
    pub skips: bool,
}

impl Survey {
    /// Bytes of text in all.
    pub fn chars(&self) -> u64 {
        let columns = self.columns.values();
        columns.map(|column| column.total_chars).sum()
    }

    /// Rows in which a column is missing, null or empty.
    pub fn empty(&self, column: &Column) -> usize {
        self.rows - column.kinds.total().min(self.rows)
    }
}

impl Sink for Survey {
    fn columns(&mut self, _: &Path, names: &[&str]) -> Result<(), DataError> {
        for name in names {
            self.columns.entry((*name).to_owned()).or_default();
        }
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), DataError> {
        self.rows += 1;
        for (name, value) in record.fields() {
            let column = match self.columns.get_mut(name) {
                Some(column) => column,
                None => self.columns.entry(name.to_owned()).or_default(),
            };
            if !record.is_unset(name) {
                column.add(value);
            }
        }
        if self.first.len() < SHOWN {
            let fields = record.fields();
            let fields = fields.map(|(name, value)| (name.to_owned(), value.clone()));
            self.first.push(fields.collect());
        }
        Ok(())
    }

    fn malformed(&mut self, error: DataError) -> Result<(), DataError> {
        self.malformed += 1;
        match self.skips {
            true => Ok(()),
            false => Err(error),
        }
    }
}
