//! What becomes of the fields of `config.json` that all families share.

use crate::closed::{Field, applied, inert, only, unset};

/// The fields of transformers' `PretrainedConfig`, and what else is written for every model.
pub(crate) const SHARED: &[Field] = &[
    applied("model_type", "the family"),
    applied("id2label", "the classes and their order"),
    applied(
        "num_labels",
        "how many labels there are, where `id2label` does not say it",
    ),
    inert("label2id", "`id2label` says the same"),
    inert("_num_labels", "`id2label` says the same"),
    inert(
        "problem_type",
        "the task says what is predicted; `merge` writes it",
    ),
    inert(
        "architectures",
        "the head is chosen by the task; `merge` writes it",
    ),
    inert(
        "dtype",
        "tensors are read in the type they have, and computed in float32",
    ),
    inert("torch_dtype", "an older name of `dtype`"),
    inert("transformers_version", "who wrote the file"),
    inert("_name_or_path", "where the model was"),
    inert("name_or_path", "where the model was"),
    inert("_commit_hash", "where the model was"),
    inert("auto_map", "no code of a model is run"),
    applied("tokenizer_class", "where tokenizer_config.json names none"),
    inert("return_dict", "how transformers returns results"),
    inert("output_hidden_states", "what transformers returns"),
    inert("output_attentions", "what transformers returns"),
    inert("use_return_dict", "how transformers returns results"),
    inert("attn_implementation", "which kernel computes attention"),
    inert("_attn_implementation", "which kernel computes attention"),
    inert(
        "_attn_implementation_autoset",
        "which kernel computes attention",
    ),
    inert("experts_implementation", "which kernel computes experts"),
    inert("chunk_size_feed_forward", "the same numbers, in parts"),
    inert("use_cache", "keys and values are always kept"),
    inert("gradient_checkpointing", "a flag of `finetune`"),
    inert("torchscript", "how transformers exports"),
    inert("use_bfloat16", "a flag of TPUs"),
    inert("tf_legacy_loss", "a loss of TensorFlow"),
    inert("finetuning_task", "what the model was trained on"),
    inert("prefix", "a text for pipelines"),
    inert(
        "task_specific_params",
        "settings of pipelines; the flags of `generate` say them",
    ),
    inert("bos_token_id", "the tokenizer adds it; `generate` reads it"),
    inert("sep_token_id", "the tokenizer adds it"),
    unset("quantization_config", "give the model without quantisation"),
    unset("compression_config", "give the model without compression"),
    unset("per_layer_config", "layers that differ are not supported"),
    unset("pruned_heads", "heads that were pruned are not supported"),
    unset(
        "cross_attention_hidden_size",
        "attention to another model is not supported",
    ),
    unset(
        "tie_encoder_decoder",
        "an encoder that is the decoder is not supported",
    ),
];

/// How to generate, which older files say here; `generate` reads it where there is no
/// `generation_config.json`.
pub(crate) const GENERATION: &[Field] = {
    const WHERE: &str = "`generate` reads it where there is no generation_config.json";
    &[
        inert("max_length", WHERE),
        inert("min_length", WHERE),
        inert("do_sample", WHERE),
        inert("early_stopping", WHERE),
        inert("num_beams", WHERE),
        inert("temperature", WHERE),
        inert("top_k", WHERE),
        inert("top_p", WHERE),
        inert("typical_p", WHERE),
        inert("repetition_penalty", WHERE),
        inert("length_penalty", WHERE),
        inert("no_repeat_ngram_size", WHERE),
        inert("encoder_no_repeat_ngram_size", WHERE),
        inert("bad_words_ids", WHERE),
        inert("num_return_sequences", WHERE),
        inert("output_scores", WHERE),
        inert("return_dict_in_generate", WHERE),
        inert("forced_bos_token_id", WHERE),
        inert("forced_eos_token_id", WHERE),
        inert("force_bos_token_to_be_generated", WHERE),
        inert("remove_invalid_values", WHERE),
        inert("exponential_decay_length_penalty", WHERE),
        inert("suppress_tokens", WHERE),
        inert("begin_suppress_tokens", WHERE),
        inert("epsilon_cutoff", WHERE),
        inert("eta_cutoff", WHERE),
        inert("encoder_repetition_penalty", WHERE),
        inert("num_assistant_tokens", WHERE),
        inert("num_assistant_tokens_schedule", WHERE),
        inert("assistant_confidence_threshold", WHERE),
        inert("assistant_lookbehind", WHERE),
        inert("target_lookbehind", WHERE),
        inert("num_beam_groups", WHERE),
        inert("diversity_penalty", WHERE),
    ]
};

/// What an encoder says: that nothing in it looks at what came before alone.
pub(crate) const ENCODER: &[Field] = &[
    unset("is_causal", "only encoders are supported"),
    unset("is_decoder", "only encoders are supported"),
    unset("add_cross_attention", "only encoders are supported"),
    unset("is_encoder_decoder", "this family is an encoder"),
    inert("eos_token_id", "the tokenizer adds it"),
    inert("decoder_start_token_id", "an encoder writes nothing"),
    inert(
        "tie_word_embeddings",
        "a language model's head is the table of words",
    ),
    inert("rope_scaling", "positions are a table"),
    inert("rope_theta", "positions are a table"),
    only(
        "position_embedding_type",
        &["\"absolute\""],
        "relative positions are not supported",
    ),
];

/// What a decoder says.
pub(crate) const DECODER: &[Field] = &[
    applied("vocab_size", "rows of the table of words"),
    applied("hidden_size", "width"),
    applied(
        "intermediate_size",
        "width between the projections of a feed-forward block",
    ),
    applied("num_hidden_layers", "layers"),
    applied("num_attention_heads", "heads"),
    applied("num_key_value_heads", "heads of keys and values"),
    applied("head_dim", "width of a head"),
    applied(
        "hidden_act",
        "gelu, gelu_new, relu, silu, tanh and their other names",
    ),
    applied("max_position_embeddings", "the longest text"),
    applied("rms_norm_eps", "added to the mean square"),
    applied("initializer_range", "deviation of new weights"),
    applied("attention_dropout", "while training"),
    applied(
        "tie_word_embeddings",
        "whether the head is the table of words",
    ),
    applied(
        "rope_parameters",
        "default, linear, dynamic, yarn or llama3",
    ),
    applied(
        "rope_scaling",
        "as `rope_parameters`, before which it counts",
    ),
    applied("rope_theta", "where `rope_parameters` does not say it"),
    applied("original_max_position_embeddings", "of llama3 and yarn"),
    applied("is_causal", "must be true"),
    only(
        "partial_rotary_factor",
        &["1.0", "1"],
        "heads that are rotated in part are not supported",
    ),
    applied("eos_token_id", "ends of a text"),
    applied(
        "pad_token_id",
        "a classifier looks at the last token that is another",
    ),
    inert("decoder_start_token_id", "the prompt is the start"),
    unset("is_encoder_decoder", "this family is a decoder"),
    unset(
        "add_cross_attention",
        "attention to another model is not supported",
    ),
    inert("is_decoder", "it always is one"),
    inert("rope_type", "`rope_parameters` says it"),
];
