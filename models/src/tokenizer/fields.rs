//! The fields of a tokenizer's files.

use crate::closed::{Field, Table, Unknown, applied, inert, only, unset};

/// `tokenizer_config.json`.
pub const CONFIG: Table = Table {
    file: "tokenizer_config.json",
    fields: &[TEXT, SPECIAL, RECORDS, ARGUMENTS],
    unknown: Unknown::Noted,
};

/// `special_tokens_map.json`.
pub const SPECIAL_TOKENS_MAP: Table = Table {
    file: "special_tokens_map.json",
    fields: &[SPECIAL],
    unknown: Unknown::Noted,
};

/// `added_tokens.json`, whose names are tokens.
pub const ADDED_TOKENS: Table = Table {
    file: "added_tokens.json",
    fields: &[&[applied(
        "(each token)",
        "its id, where `added_tokens_decoder` says nothing",
    )]],
    unknown: Unknown::Refused,
};

const UNREAD: &str = "transformers 5 does not read it";
const PLACES: &str = "the folder's own files are read";
const OWN: &str = "save a tokenizer.json by transformers' `save_pretrained`, and remove the field";

/// How text is split.
const TEXT: &[Field] = &[
    applied(
        "tokenizer_class",
        "how text is split, where no tokenizer.json says so",
    ),
    applied("do_lower_case", "of BERT and DeBERTa"),
    applied("strip_accents", "of BERT"),
    applied("tokenize_chinese_chars", "of BERT"),
    applied("split_by_punct", "of DeBERTa"),
    applied(
        "add_prefix_space",
        "of RoBERTa, BART, DeBERTa, LLaMA, Qwen2",
    ),
    applied("legacy", "spaces before LLaMA's texts"),
    applied("unk_id", "of DeBERTa"),
    applied("add_bos_token", "where there is no tokenizer.json"),
    applied("add_eos_token", "where there is no tokenizer.json"),
    applied("split_special_tokens", ""),
    applied("truncation_side", ""),
    applied("chat_template", "how conversations are written"),
    applied("model_input_names", "whether the model is given segments"),
    applied(
        "clean_up_tokenization_spaces",
        "in generated text, but for byte pairs",
    ),
    applied(
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        "",
    ),
    applied("padding_side", "which of question and text is first"),
    inert("pad_token_type_id", "what pads is masked"),
    inert("pad_to_multiple_of", "what pads is masked"),
    inert("model_max_length", "lengths are the caller's"),
    inert("max_len", "lengths are the caller's"),
    inert("max_length", "lengths are the caller's"),
    inert("stride", "how much windows overlap is the caller's"),
    inert("truncation_strategy", "the longer text is cut first"),
    inert("trim_offsets", "offsets are trimmed as tokenizer.json says"),
    inert("errors", "bytes that are no UTF-8 are replaced"),
    inert("do_basic_tokenize", UNREAD),
    inert("never_split", UNREAD),
    inert("use_fast", UNREAD),
    inert("from_slow", UNREAD),
    inert("spaces_between_special_tokens", UNREAD),
    only("vocab_type", &["\"spm\""], OWN),
    unset("sp_model_kwargs", "pieces are not drawn at random"),
    unset("fix_mistral_regex", OWN),
    only(
        "fast_tokenizer_files",
        &["[\"tokenizer.json\"]"],
        "name the file that is meant tokenizer.json",
    ),
    only("backend", &["\"tokenizers\""], OWN),
    unset(
        "auto_map",
        "code of a folder is not run; save a tokenizer.json that does without",
    ),
    unset("init_inputs", OWN),
];

/// The special tokens.
const SPECIAL: &[Field] = &[
    applied("bos_token", ""),
    applied("eos_token", ""),
    applied("unk_token", ""),
    applied("sep_token", ""),
    applied("pad_token", ""),
    applied("cls_token", ""),
    applied("mask_token", ""),
    applied("extra_special_tokens", ""),
    applied(
        "additional_special_tokens",
        "`extra_special_tokens` before transformers 5",
    ),
    applied("model_specific_special_tokens", ""),
    applied("added_tokens_decoder", ""),
];

/// What records where a tokenizer comes from, or is for other uses.
const RECORDS: &[Field] = &[
    inert("response_template", "texts are taken as they are"),
    inert("response_schema", "texts are taken as they are"),
    inert("use_default_system_prompt", "texts are taken as they are"),
    inert("name_or_path", "a record"),
    inert("processor_class", "a record"),
    inert("transformers_version", "a record"),
    inert("tokenizer_type", "a record"),
    inert("files_loaded", "a record"),
    inert("verbose", "a record"),
    inert("device", "a record"),
    inert("is_local", "a record"),
    inert("local_files_only", "a record"),
    inert("trust_remote_code", "code of a folder is not run"),
    inert("_commit_hash", "a record"),
    inert("special_tokens_map_file", PLACES),
    inert("tokenizer_file", PLACES),
    inert("vocab_file", PLACES),
    inert("merges_file", PLACES),
    inert("spm_file", PLACES),
    inert("added_tokens_file", PLACES),
    inert("tokenizer_config_file", PLACES),
    inert("chat_template_file", PLACES),
];

/// Arguments of transformers' classes that no file can give.
const ARGUMENTS: &[Field] = &[
    unset("vocab", OWN),
    unset("merges", OWN),
    unset("gguf_file", OWN),
    unset("tokenizer_object", OWN),
    unset("post_processor", OWN),
    unset("tokenizer_padding", OWN),
    unset("tokenizer_truncation", OWN),
    unset("_json_padding", OWN),
    unset("_json_truncation", OWN),
    unset("_spm_precompiled_charsmap", OWN),
];
