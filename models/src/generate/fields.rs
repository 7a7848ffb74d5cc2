//! What becomes of each field of `generation_config.json`.

use crate::closed::{Field, Table, Unknown, applied, inert, only, unset};

pub(super) const FILE: &str = "generation_config.json";

/// The fields of `generation_config.json`.
pub const TABLE: Table = Table {
    file: FILE,
    fields: &[FIELDS],
    unknown: Unknown::Noted,
};

const FIELDS: &[Field] = &[
    applied("max_new_tokens", "the most new tokens"),
    applied(
        "max_length",
        "the most tokens with those of the prompt; `max_new_tokens` counts before it",
    ),
    applied("min_new_tokens", "the fewest new tokens"),
    applied("min_length", "the fewest tokens with those of the prompt"),
    applied("eos_token_id", "tokens that end a text, one or several"),
    applied(
        "bos_token_id",
        "where an encoder-decoder begins, if `decoder_start_token_id` is missing",
    ),
    applied("decoder_start_token_id", "where an encoder-decoder begins"),
    applied("forced_bos_token_id", "the token behind the first"),
    applied(
        "force_bos_token_to_be_generated",
        "an older way to force `bos_token_id`",
    ),
    applied(
        "forced_eos_token_id",
        "the last token of a text that is as long as it may be: in a beam search; elsewhere if the \
         file itself says it and not config.json, whose default would only take the last word away",
    ),
    applied("num_beams", "sequences that a beam search follows"),
    applied(
        "length_penalty",
        "power of its length that a sequence's log-probability is divided by",
    ),
    only(
        "early_stopping",
        &["true"],
        "searches that go on to the longest text (\"never\") are not supported",
    ),
    applied(
        "do_sample",
        "said: tokens are drawn if `--sample` or `--temperature` asks for it",
    ),
    applied("temperature", "where tokens are drawn"),
    applied("top_k", "where tokens are drawn"),
    applied("top_p", "where tokens are drawn"),
    applied("min_p", "where tokens are drawn"),
    applied(
        "repetition_penalty",
        "makes tokens that occurred before less likely",
    ),
    applied(
        "no_repeat_ngram_size",
        "sequences of this length are not written twice",
    ),
    applied("suppress_tokens", "tokens that are never written"),
    applied("begin_suppress_tokens", "tokens that are not written first"),
    applied("bad_words_ids", "sequences that are never written"),
    applied("renormalize_logits", "in a beam search"),
    applied(
        "_from_model_config",
        "whether the file was made of config.json, whose fields then count too",
    ),
    inert("pad_token_id", "padding is masked"),
    inert(
        "remove_invalid_values",
        "logits that are not finite are an error",
    ),
    inert("use_cache", "keys and values are always kept"),
    inert("cache_implementation", "how keys and values are kept"),
    inert("cache_config", "how keys and values are kept"),
    inert("max_cache_len", "how keys and values are kept"),
    inert("prefill_chunk_size", "the same numbers, in parts"),
    inert("compile_config", "how transformers compiles"),
    inert("disable_compile", "how transformers compiles"),
    inert("continuous_batching_config", "how transformers serves"),
    inert("low_memory", "the same numbers, in parts"),
    inert("output_attentions", "what transformers returns"),
    inert("output_hidden_states", "what transformers returns"),
    inert("output_scores", "what transformers returns"),
    inert("output_logits", "what transformers returns"),
    inert("return_dict_in_generate", "what transformers returns"),
    inert(
        "is_assistant",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "num_assistant_tokens",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "num_assistant_tokens_schedule",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "assistant_confidence_threshold",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "assistant_early_exit",
        "the model guesses ahead; the text is the same",
    ),
    inert(
        "assistant_lookbehind",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "target_lookbehind",
        "another model guesses ahead; the text is the same",
    ),
    inert(
        "prompt_lookup_num_tokens",
        "the prompt guesses ahead; the text is the same",
    ),
    inert(
        "max_matching_ngram_size",
        "the prompt guesses ahead; the text is the same",
    ),
    inert(
        "speculation_type",
        "another model guesses ahead; the text is the same",
    ),
    inert("use_mtp", "the model guesses ahead; the text is the same"),
    inert("transformers_version", "who wrote the file"),
    inert("_commit_hash", "where the model was"),
    unset(
        "assistant_ensemble_weight",
        "a second model is not supported",
    ),
    unset("max_time", "give --max-new-tokens"),
    unset("stop_strings", "give --stop for each"),
    unset("token_healing", "prompts are not changed; remove it"),
    unset("sequence_bias", "biases of sequences are not supported"),
    unset(
        "exponential_decay_length_penalty",
        "penalties that grow are not supported",
    ),
    unset("watermarking_config", "watermarks are not supported"),
    unset("constraints", "constraints are not supported"),
    unset("force_words_ids", "words that are forced are not supported"),
    unset("dola_layers", "logits of several layers are not supported"),
    only(
        "penalty_alpha",
        &["0.0", "0"],
        "contrastive search is not supported",
    ),
    only("guidance_scale", &["1.0", "1"], "guidance is not supported"),
    only(
        "encoder_repetition_penalty",
        &["1.0", "1"],
        "penalties on the input text are not supported",
    ),
    only(
        "encoder_no_repeat_ngram_size",
        &["0"],
        "rules on the input text are not supported",
    ),
    only(
        "num_return_sequences",
        &["1"],
        "give a prompt several times",
    ),
    only(
        "num_beam_groups",
        &["1"],
        "groups of beams are not supported",
    ),
    only(
        "diversity_penalty",
        &["0.0", "0"],
        "groups of beams are not supported",
    ),
    only("typical_p", &["1.0", "1"], "give --top-p"),
    only("epsilon_cutoff", &["0.0", "0"], "give --min-p"),
    only("eta_cutoff", &["0.0", "0"], "give --min-p"),
    unset("top_h", "give --top-p"),
];
