use serde::Deserialize;
use serde_json::Value;

/// The column that holds a target, or the columns that hold a part of it each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum LabelColumns {
    /// One column.
    One(String),
    /// Several columns, in the order of the head's outputs.
    Several(Vec<String>),
}

impl LabelColumns {
    /// The names of the columns.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }

    /// Unless there are columns, each once.
    pub(super) fn check(&self) -> Result<(), String> {
        let names = self.names();
        let twice = (1..names.len()).find(|&i| names[..i].contains(&names[i]));
        match (names, twice) {
            ([], _) => Err("`label` has no columns; expected at least one".into()),
            (_, Some(i)) => Err(format!("`label` has the column `{}` twice", names[i])),
            (_, None) => Ok(()),
        }
    }
}

impl TryFrom<Value> for LabelColumns {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let name = |value| match value {
            Value::String(name) => Some(name),
            _ => None,
        };
        let columns = match value {
            Value::Array(names) => names
                .into_iter()
                .map(name)
                .collect::<Option<_>>()
                .map(Self::Several),
            value => name(value).map(Self::One),
        };
        columns.ok_or("expected the name of a column, or a list of such names")
    }
}
