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
    /// Always this.
    Bool(bool),
    /// Always this.
    Number(f64),
    /// Always this.
    Text(&'static str),
    /// An empty list.
    Empty,
}
