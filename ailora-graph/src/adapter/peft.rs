//! How PEFT holds an adapter.

/// The form that PEFT gives an adapter: `adapter_config.json`, and a file with the adapter's tensors under
/// their own names, behind PEFT's prefix.
#[derive(Debug, PartialEq)]
pub struct Peft {
    /// `peft_type`.
    pub kind: &'static str,
    /// The fields beside those of all kinds, which are `peft_type`, `task_type`,
    /// `base_model_name_or_path`, `inference_mode`, `target_modules` and `modules_to_save`.
    pub fields: &'static [(&'static str, Field)],
}

/// The value of a field of `adapter_config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field {
    /// The rank of the first projection.
    Rank,
    /// `alpha` of the first projection, where the scale is `alpha / r`.
    Alpha,
    /// Ranks of projections that have another, by path.
    Ranks,
    /// `alpha` of projections that have another, by path.
    Alphas,
    /// Which biases of the base are trained: `none`, `lora_only` or `all`.
    Biases,
    /// Whether there are magnitudes, at all projections or none.
    Dora,
    /// Always this.
    Bool(bool),
    /// Always this.
    Number(f64),
    /// Always this.
    Text(&'static str),
    /// An empty list.
    Empty,
    /// This, where how training began is not known. Any number is read: what it began from is not
    /// needed beside the tensors.
    Began(f64),
    /// Modules, among which those of this adapter are or are not. It tells adapters of one `peft_type`
    /// apart.
    Among(bool),
    /// The seed of the parameters that are drawn [as PyTorch draws](super::Start::AsPytorch).
    DrawSeed,
    /// Whether these parameters are in the file, and not drawn again from the seed.
    DrawsSaved,
}

impl Peft {
    /// Whether one folder can hold adapters of both forms: they have the same fields, but for what
    /// tells them apart.
    pub fn is_beside(&self, other: &Self) -> bool {
        let same = |(a, b): (&(&str, Field), &(&str, Field))| {
            a == b || (a.0 == b.0 && matches!((a.1, b.1), (Field::Among(_), Field::Among(_))))
        };
        self.kind == other.kind
            && self.fields.len() == other.fields.len()
            && self.fields.iter().zip(other.fields).all(same)
    }
}
