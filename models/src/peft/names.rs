//! What the tensors of an adapter's file are called.
//!
//! A name is `base_model.model.`, the path of a module, and a part of PEFT's own, such as `lora_A`,
//! behind which the adapter's name may stand. It is taken apart at its dots and never searched for
//! substrings, since modules and adapters may be called anything.

/// What PEFT puts before every module path.
pub const PREFIX: &str = "base_model.model.";

/// What it puts before the name of what all modules share.
pub const TUNER: &str = "base_model.";

/// What DDP, `torch.compile` and FSDP put before the path of what they wrap.
const WRAPPERS: [&str; 4] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// What a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `lora_A.weight`, `[r, in]`.
    A,
    /// `lora_B.weight`, `[out, r]`.
    B,
    /// `lora_B.bias`, `[out]`.
    Bias,
    /// `lora_embedding_A`, `[r, rows]`.
    EmbeddingA,
    /// `lora_embedding_B`, `[width, r]`.
    EmbeddingB,
    /// `lora_magnitude_vector`, `[out]`.
    Magnitude,
    /// `token_adapter.trainable_tokens_delta`, `[tokens, width]`.
    Tokens,
    /// A parameter of the module, by its name there: what is in place of the base's.
    Whole(String),
    /// A parameter of a copy of the module; the adapter's name may stand before the parameter's.
    Saved(Vec<String>),
    /// What the base has too, as PEFT keeps it beside a copy.
    Original,
    /// One of PEFT's own that nothing is known of.
    Unknown(String),
}

/// A tensor's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The path of its module.
    pub module: String,
    /// What it is of that.
    pub part: Part,
    /// The adapter's name, where it is in the tensor's.
    pub adapter: Option<String>,
}

impl Key {
    /// Takes a tensor's name apart.
    pub fn parse(name: &str) -> Self {
        let mut parts: Vec<&str> = unwrapped(name.split('.').collect());
        let marker = parts.iter().position(|part| is_own(part));
        let Some(at) = marker else {
            let last = parts.pop().unwrap_or_default();
            return Self {
                module: parts.join("."),
                part: Part::Whole(last.to_owned()),
                adapter: None,
            };
        };
        let (module, own) = parts.split_at(at);
        let (part, adapter) = part(own);
        Self {
            module: module.join("."),
            part,
            adapter: adapter.filter(|name| !name.is_empty()),
        }
    }
}

/// The parts of a name without what wraps the model, before or behind PEFT's own prefix.
fn unwrapped(mut parts: Vec<&str>) -> Vec<&str> {
    let leading = |parts: &[&str]| {
        let wrappers = parts.iter().take_while(|part| WRAPPERS.contains(part));
        wrappers.count()
    };
    parts.drain(..leading(&parts));
    if parts.starts_with(&["base_model", "model"]) {
        parts.drain(..2);
        parts.drain(..leading(&parts));
    }
    parts.retain(|part| !(part.starts_with('_') && WRAPPERS.contains(part)));
    parts
}

/// Whether a part of a name is PEFT's.
fn is_own(part: &str) -> bool {
    const OTHERS: [&str; 5] = [
        "modules_to_save",
        "original_module",
        "base_layer",
        "token_adapter",
        "trainable_tokens_delta",
    ];
    part.starts_with("lora_") || OTHERS.contains(&part)
}

/// What the end of a name is, from PEFT's first own part on, and the adapter's name in it.
fn part(own: &[&str]) -> (Part, Option<String>) {
    let join = |parts: &[&str]| parts.join(".");
    let named = |part, name: &[&str]| (part, Some(join(name)));
    match own {
        ["lora_A", name @ .., "weight"] => named(Part::A, name),
        ["lora_B", name @ .., "weight"] => named(Part::B, name),
        ["lora_B", name @ .., "bias"] => named(Part::Bias, name),
        ["lora_embedding_A", name @ ..] => named(Part::EmbeddingA, name),
        ["lora_embedding_B", name @ ..] => named(Part::EmbeddingB, name),
        ["lora_magnitude_vector", name @ .., "weight"] | ["lora_magnitude_vector", name @ ..] => {
            named(Part::Magnitude, name)
        }
        ["token_adapter", "trainable_tokens_delta", name @ ..]
        | ["trainable_tokens_delta", name @ ..] => named(Part::Tokens, name),
        ["token_adapter", "trainable_tokens_original", ..] | ["original_module", ..] => {
            (Part::Original, None)
        }
        ["token_adapter", "base_layer", rest @ ..] | ["base_layer", rest @ ..]
            if rest.len() == 1 =>
        {
            (Part::Whole(join(rest)), None)
        }
        ["modules_to_save", rest @ ..] if !rest.is_empty() => {
            let rest = rest.iter().map(|&part| part.to_owned());
            (Part::Saved(rest.collect()), None)
        }
        _ => (Part::Unknown(join(own)), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> (String, Part, Option<String>) {
        let Key {
            module,
            part,
            adapter,
        } = Key::parse(name);
        (module, part, adapter)
    }

    #[test]
    fn names_are_taken_apart_at_their_dots() {
        let q = "bert.encoder.layer.0.attention.self.query";
        for (tail, part, adapter) in [
            ("lora_A.weight", Part::A, None),
            ("lora_A.default.weight", Part::A, Some("default")),
            ("lora_B.sft.weight", Part::B, Some("sft")),
            ("lora_B.weight.weight", Part::B, Some("weight")),
            ("lora_A.lora_B.weight", Part::A, Some("lora_B")),
            ("lora_A.default.1.weight", Part::A, Some("default.1")),
            ("lora_B.bias", Part::Bias, None),
            ("lora_B.bias.bias", Part::Bias, Some("bias")),
            ("lora_embedding_A", Part::EmbeddingA, None),
            ("lora_embedding_B.x", Part::EmbeddingB, Some("x")),
            ("lora_magnitude_vector", Part::Magnitude, None),
            ("lora_magnitude_vector.a.weight", Part::Magnitude, Some("a")),
            ("base_layer.bias", Part::Whole("bias".into()), None),
            ("weight", Part::Whole("weight".into()), None),
            ("original_module.weight", Part::Original, None),
            ("lora_M.weight", Part::Unknown("lora_M.weight".into()), None),
        ] {
            for prefix in [
                "base_model.model.",
                "module.base_model.model.",
                "base_model.model._orig_mod.",
                "_fsdp_wrapped_module.base_model.model.module.",
                "",
            ] {
                let found = key(&format!("{prefix}{q}.{tail}"));
                let adapter = adapter.map(str::to_owned);
                assert_eq!(found, (q.to_owned(), part.clone(), adapter), "{tail}");
            }
        }
    }

    #[test]
    fn modules_may_be_called_like_anything_else() {
        let (module, part, adapter) = key("base_model.model.pair_weighted_avg.lin.lora_A.weight");
        assert_eq!(module, "pair_weighted_avg.lin");
        assert_eq!((part, adapter), (Part::A, None));
        for name in ["lora", "weight", "default.1"] {
            let tensor = format!("base_model.model.pair_weighted_avg.lin.lora_B.{name}.weight");
            let (module, part, adapter) = key(&tensor);
            assert_eq!((&*module, part), ("pair_weighted_avg.lin", Part::B));
            assert_eq!(adapter.as_deref(), Some(name));
        }
        let (module, part, _) = key("base_model.model.classifier.modules_to_save.default.out.bias");
        assert_eq!(module, "classifier");
        let rest = ["default", "out", "bias"].map(str::to_owned).to_vec();
        assert_eq!(part, Part::Saved(rest));
        let (module, part, _) = key("base_model.model.net.module.fc.weight");
        assert_eq!(module, "net.module.fc");
        assert_eq!(part, Part::Whole("weight".into()));
    }
}
