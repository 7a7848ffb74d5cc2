use serde_json::Value;

/// A text or a pair of texts, with what is to be predicted of it where that is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// What its file calls it, if it has a name there.
    pub id: Option<String>,
    /// The text, or the first of the pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// What is to be predicted, as the task's objective has it.
    pub target: Option<Value>,
}

impl Example {
    /// A text of which nothing is known.
    pub fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}
