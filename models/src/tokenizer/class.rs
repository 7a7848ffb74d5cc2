//! transformers' classes of tokenizers: what each does to text besides splitting it by its
//! vocabulary, which is in no file but for `tokenizer.json`.

use serde_json::{Value, json};

use super::{TokenizerError, settings::Settings};

/// A class of transformers 5, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Bert,
    /// RoBERTa and BART.
    Roberta,
    DebertaV2,
    Llama,
    Qwen2,
    /// What `tokenizer.json` says, and nothing else.
    File,
    /// A class that is not known here.
    Other,
}

/// The name that stands for a tokenizer that is all in its `tokenizer.json`.
pub(super) const FILE: &str = "PreTrainedTokenizerFast";

impl Class {
    /// The class that transformers takes for a model's type and a `tokenizer_class`; nothing if
    /// neither is there.
    pub fn of(model_type: Option<&str>, named: Option<&str>) -> Option<Self> {
        let registered = match model_type {
            Some("bert") => Some(Self::Bert),
            Some("roberta" | "bart") => Some(Self::Roberta),
            Some("deberta-v2") => Some(Self::DebertaV2),
            Some("qwen2") => Some(Self::Qwen2),
            Some("mistral") => Some(Self::File),
            _ => None,
        };
        let named = named.map(Self::named);
        match (registered, named) {
            // Folders of these types name classes that are not theirs.
            (Some(Self::Qwen2 | Self::File), _) | (_, None) => registered,
            (_, Some(_)) => named,
        }
    }

    fn named(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "BertTokenizer" | "ElectraTokenizer" => Self::Bert,
            "RobertaTokenizer" | "BartTokenizer" => Self::Roberta,
            "DebertaV2Tokenizer" => Self::DebertaV2,
            "LlamaTokenizer" => Self::Llama,
            "Qwen2Tokenizer" => Self::Qwen2,
            "PreTrainedTokenizer" | "TokenizersBackend" | "PythonBackend" => Self::File,
            _ => Self::Other,
        }
    }

    /// What transformers calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "BertTokenizer",
            Self::Roberta => "RobertaTokenizer",
            Self::DebertaV2 => "DebertaV2Tokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::File => FILE,
            Self::Other => "a class that is not known here",
        }
    }

    /// The algorithm that it splits words by.
    pub fn algorithm(self) -> Option<&'static str> {
        match self {
            Self::Bert => Some("WordPiece"),
            Self::DebertaV2 => Some("Unigram"),
            Self::Roberta | Self::Llama | Self::Qwen2 => Some("BPE"),
            Self::File | Self::Other => None,
        }
    }

    /// The special token of a role where no file names one.
    pub fn special(self, role: &str) -> Option<&'static str> {
        Some(match (self, role) {
            (Self::Bert | Self::DebertaV2, "unk_token") => "[UNK]",
            (Self::Bert | Self::DebertaV2, "sep_token") => "[SEP]",
            (Self::Bert | Self::DebertaV2, "pad_token") => "[PAD]",
            (Self::Bert | Self::DebertaV2, "cls_token") => "[CLS]",
            (Self::Bert | Self::DebertaV2, "mask_token") => "[MASK]",
            (Self::DebertaV2, "bos_token") => "[CLS]",
            (Self::DebertaV2, "eos_token") => "[SEP]",
            (Self::Roberta, "bos_token" | "cls_token") => "<s>",
            (Self::Roberta, "eos_token" | "sep_token") => "</s>",
            (Self::Roberta | Self::Llama, "unk_token") => "<unk>",
            (Self::Roberta, "pad_token") => "<pad>",
            (Self::Roberta, "mask_token") => "<mask>",
            (Self::Llama, "bos_token") => "<s>",
            (Self::Llama, "eos_token") => "</s>",
            (Self::Qwen2, "unk_token" | "eos_token" | "pad_token") => "<|endoftext|>",
            _ => return None,
        })
    }

    /// Whether the model is given segments where no file says it.
    pub fn gives_segments(self) -> bool {
        matches!(self, Self::Bert | Self::DebertaV2)
    }

    /// What comes before and after the vocabulary; nothing where `tokenizer.json` says it.
    pub fn pipeline(self, settings: &Settings) -> Result<Option<Pipeline>, TokenizerError> {
        let flag = |field| settings.flag(field);
        Ok(Some(match self {
            Self::Bert => Pipeline {
                normalizer: json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": flag("tokenize_chinese_chars")?.unwrap_or(true),
                    "strip_accents": flag("strip_accents")?,
                    "lowercase": flag("do_lower_case")?.unwrap_or(true),
                }),
                pre_tokenizer: json!({"type": "BertPreTokenizer"}),
                decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            },
            Self::Roberta => Pipeline {
                normalizer: Value::Null,
                pre_tokenizer: bytes(flag("add_prefix_space")?.unwrap_or(false), true),
                decoder: bytes(true, true),
            },
            Self::Qwen2 => Pipeline {
                normalizer: json!({"type": "NFC"}),
                pre_tokenizer: sequence(
                    "pretokenizers",
                    vec![
                        json!({"type": "Split", "pattern": {"Regex": QWEN2_WORDS},
                           "behavior": "Isolated", "invert": false}),
                        bytes(flag("add_prefix_space")?.unwrap_or(false), false),
                    ],
                ),
                decoder: bytes(true, true),
            },
            Self::DebertaV2 => {
                let mut normalizers = vec![
                    json!({"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"},
                           "content": " "}),
                    json!({"type": "NFC"}),
                    json!({"type": "Strip", "strip_left": false, "strip_right": true}),
                ];
                if flag("do_lower_case")? == Some(true) {
                    normalizers.insert(0, json!({"type": "Lowercase"}));
                }
                let scheme = match flag("add_prefix_space")? {
                    Some(false) => "first",
                    _ => "always",
                };
                let mut words = vec![metaspace(scheme, true)];
                if flag("split_by_punct")? == Some(true) {
                    words.insert(0, json!({"type": "Punctuation", "behavior": "Isolated"}));
                }
                Pipeline {
                    normalizer: sequence("normalizers", normalizers),
                    pre_tokenizer: sequence("pretokenizers", words),
                    decoder: metaspace(scheme, true),
                }
            }
            Self::Llama => {
                let prefix = flag("add_prefix_space")?.unwrap_or(true);
                let scheme = match (prefix, flag("legacy")?) {
                    (false, _) => "never",
                    (true, Some(true)) => "always",
                    (true, _) => "first",
                };
                let mut decoders = vec![
                    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if prefix {
                    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
                    decoders.push(strip);
                }
                Pipeline {
                    normalizer: Value::Null,
                    pre_tokenizer: metaspace(scheme, false),
                    decoder: sequence("decoders", decoders),
                }
            }
            Self::File | Self::Other => return Ok(None),
        }))
    }
}

/// How Qwen2 splits text into words.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What comes before a vocabulary and after it, as `tokenizer.json` writes it.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
}

fn sequence(items: &str, parts: Vec<Value>) -> Value {
    json!({"type": "Sequence", items: parts})
}

fn metaspace(prepend_scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme,
           "split": split})
}

fn bytes(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
           "use_regex": use_regex})
}

/// Whether a part of a `tokenizer.json` is what its class makes, but for what
/// `tokenizer_config.json` sets; a part that is not there is.
pub(super) fn alike(class: Class, file: &Value, made: &Value) -> bool {
    let file = skeleton(file);
    file.is_null() || file == skeleton(made) || is_old(class, &file)
}

/// Fields whose values `tokenizer_config.json` sets, or that change no tokens.
const SET: [&str; 7] = [
    "lowercase",
    "strip_accents",
    "handle_chinese_chars",
    "add_prefix_space",
    "trim_offsets",
    "prepend_scheme",
    "cleanup",
];

/// What is there or not as `tokenizer_config.json` says.
const OPTIONAL: [&str; 3] = ["Lowercase", "Punctuation", "Strip"];

fn skeleton(part: &Value) -> Value {
    let kind = |part: &Value| part.get("type").and_then(Value::as_str).map(str::to_owned);
    if kind(part).is_some_and(|kind| kind == "Sequence") {
        let items = ["normalizers", "pretokenizers", "decoders", "processors"];
        let items = items.iter().find_map(|items| part.get(items)?.as_array());
        let items = items
            .into_iter()
            .flatten()
            .filter(|item| kind(item).is_none_or(|kind| !OPTIONAL.contains(&&*kind)));
        let mut items: Vec<Value> = items.map(skeleton).collect();
        return match items.len() {
            0 => Value::Null,
            1 => items.remove(0),
            _ => Value::Array(items),
        };
    }
    match part {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .filter(|(name, _)| !SET.contains(&name.as_str()));
            fields
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        }
        other => other.clone(),
    }
}

/// Whether it is what transformers 4 wrote, which version 5 replaces.
fn is_old(class: Class, skeleton: &Value) -> bool {
    let parts = skeleton
        .as_array()
        .map_or(std::slice::from_ref(skeleton), Vec::as_slice);
    let kinds: Vec<&str> = parts
        .iter()
        .filter_map(|part| part.get("type")?.as_str())
        .collect();
    match class {
        Class::Llama => kinds == ["Prepend", "Replace"],
        Class::DebertaV2 => matches!(kinds[..], ["Precompiled"] | ["Precompiled", "Replace"]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `AutoTokenizer` of transformers 5.17 takes.
    #[test]
    fn classes_are_those_of_transformers() {
        for (model_type, named, expected) in [
            (Some("bert"), None, Some(Class::Bert)),
            (
                Some("bert"),
                Some("PreTrainedTokenizerFast"),
                Some(Class::File),
            ),
            (Some("bert"), Some("MPNetTokenizer"), Some(Class::Other)),
            (
                Some("roberta"),
                Some("BertTokenizerFast"),
                Some(Class::Bert),
            ),
            (Some("bart"), Some("BartTokenizer"), Some(Class::Roberta)),
            (
                Some("qwen2"),
                Some("LlamaTokenizerFast"),
                Some(Class::Qwen2),
            ),
            (Some("mistral"), Some("LlamaTokenizer"), Some(Class::File)),
            (
                Some("llama"),
                Some("LlamaTokenizerFast"),
                Some(Class::Llama),
            ),
            (Some("llama"), None, None),
            (None, Some("DebertaV2Tokenizer"), Some(Class::DebertaV2)),
        ] {
            assert_eq!(
                Class::of(model_type, named),
                expected,
                "{model_type:?} {named:?}"
            );
        }
    }

    #[test]
    fn parts_are_alike_whatever_the_settings() {
        let made = |class: Class| class.pipeline(&Settings::default()).unwrap().unwrap();
        let deberta = made(Class::DebertaV2);
        for (class, file, made, expected) in [
            (Class::DebertaV2, Value::Null, &deberta.normalizer, true),
            (
                Class::DebertaV2,
                json!({"type": "NFC"}),
                &deberta.normalizer,
                false,
            ),
            (
                Class::DebertaV2,
                json!({"type": "Sequence", "normalizers": [
                    {"type": "Strip", "strip_left": true, "strip_right": true},
                    {"type": "Precompiled", "precompiled_charsmap": "AA=="}]}),
                &deberta.normalizer,
                true,
            ),
            (
                Class::Bert,
                json!({"type": "Precompiled", "precompiled_charsmap": "AA=="}),
                &made(Class::Bert).normalizer,
                false,
            ),
            (
                Class::DebertaV2,
                metaspace("never", true),
                &deberta.pre_tokenizer,
                true,
            ),
            (
                Class::DebertaV2,
                metaspace("never", false),
                &deberta.pre_tokenizer,
                false,
            ),
            (
                Class::Roberta,
                bytes(true, true),
                &made(Class::Roberta).pre_tokenizer,
                true,
            ),
            (
                Class::Roberta,
                bytes(true, false),
                &made(Class::Roberta).pre_tokenizer,
                false,
            ),
        ] {
            assert_eq!(alike(class, &file, made), expected, "{class:?} {file}");
        }
    }
}
