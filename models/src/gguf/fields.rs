//! What is done with every key of a file.
//!
//! Keys of the architecture begin with its name, for which the table has `{arch}`; numbers within
//! other keys are `{id}`. The table of the tokenizer's keys is [`crate::tokenizer::gguf::TABLE`].

use crate::closed::{Field, Table, Unknown, applied, inert, only, unset};

const ABOUT: &str = "it says where the model is from";
const SAMPLING: &str = "it advises how to sample; `generate` takes what its flags say";
const KIND: &str = "models of this kind are not supported";
const YARN: &str = "YaRN is not supported; use the model's safetensors";
const ZERO: &[&str] = &["0", "0.0"];
const ONE: &[&str] = &["0", "0.0", "1", "1.0"];

/// Keys that are not the architecture's.
pub const GENERAL: Table = Table {
    file: "GGUF: general and other keys",
    fields: &[GENERAL_FIELDS, OTHER_FIELDS],
    unknown: Unknown::Noted,
};

const GENERAL_FIELDS: &[Field] = &[
    applied("general.architecture", "`llama` or `qwen2`"),
    applied(
        "general.alignment",
        "at what multiples of bytes tensors begin: a power of two",
    ),
    only("general.type", &["\"model\""], "give the model's own file"),
    only(
        "general.quantization_version",
        &["2"],
        "blocks of older files are laid out otherwise: quantise the model again",
    ),
    inert("general.file_type", "every tensor says how it is stored"),
    inert("general.sampling.sequence", SAMPLING),
    inert("general.sampling.top_k", SAMPLING),
    inert("general.sampling.top_p", SAMPLING),
    inert("general.sampling.min_p", SAMPLING),
    inert("general.sampling.xtc_probability", SAMPLING),
    inert("general.sampling.xtc_threshold", SAMPLING),
    inert("general.sampling.temp", SAMPLING),
    inert("general.sampling.penalty_last_n", SAMPLING),
    inert("general.sampling.penalty_repeat", SAMPLING),
    inert("general.sampling.mirostat", SAMPLING),
    inert("general.sampling.mirostat_tau", SAMPLING),
    inert("general.sampling.mirostat_eta", SAMPLING),
    inert("general.name", ABOUT),
    inert("general.author", ABOUT),
    inert("general.version", ABOUT),
    inert("general.organization", ABOUT),
    inert("general.finetune", ABOUT),
    inert("general.basename", ABOUT),
    inert("general.description", ABOUT),
    inert("general.quantized_by", ABOUT),
    inert("general.size_label", ABOUT),
    inert("general.license", ABOUT),
    inert("general.license.name", ABOUT),
    inert("general.license.link", ABOUT),
    inert("general.url", ABOUT),
    inert("general.doi", ABOUT),
    inert("general.uuid", ABOUT),
    inert("general.repo_url", ABOUT),
    inert("general.source.url", ABOUT),
    inert("general.source.doi", ABOUT),
    inert("general.source.uuid", ABOUT),
    inert("general.source.repo_url", ABOUT),
    // As older converters wrote it.
    inert("general.source.huggingface.repository", ABOUT),
    inert("general.base_model.count", ABOUT),
    inert("general.base_model.{id}.name", ABOUT),
    inert("general.base_model.{id}.author", ABOUT),
    inert("general.base_model.{id}.version", ABOUT),
    inert("general.base_model.{id}.organization", ABOUT),
    inert("general.base_model.{id}.description", ABOUT),
    inert("general.base_model.{id}.url", ABOUT),
    inert("general.base_model.{id}.doi", ABOUT),
    inert("general.base_model.{id}.uuid", ABOUT),
    inert("general.base_model.{id}.repo_url", ABOUT),
    inert("general.dataset.count", ABOUT),
    inert("general.dataset.{id}.name", ABOUT),
    inert("general.dataset.{id}.author", ABOUT),
    inert("general.dataset.{id}.version", ABOUT),
    inert("general.dataset.{id}.organization", ABOUT),
    inert("general.dataset.{id}.description", ABOUT),
    inert("general.dataset.{id}.url", ABOUT),
    inert("general.dataset.{id}.doi", ABOUT),
    inert("general.dataset.{id}.uuid", ABOUT),
    inert("general.dataset.{id}.repo_url", ABOUT),
    inert("general.tags", ABOUT),
    inert("general.languages", ABOUT),
];

const OTHER_FIELDS: &[Field] = &[
    only("split.no", &["0"], SPLIT),
    only("split.count", &["0", "1"], SPLIT),
    inert("split.tensors.count", "the file has as many as it says"),
    inert("quantize.imatrix.file", ABOUT),
    inert("quantize.imatrix.dataset", ABOUT),
    inert("quantize.imatrix.entries_count", ABOUT),
    inert("quantize.imatrix.chunks_count", ABOUT),
    unset("imatrix.chunk_count", MATRIX),
    unset("imatrix.chunk_size", MATRIX),
    unset("imatrix.datasets", MATRIX),
    unset("adapter.type", ADAPTER),
    unset("adapter.lora.alpha", ADAPTER),
    unset("adapter.lora.task_name", ADAPTER),
    unset("adapter.lora.prompt_prefix", ADAPTER),
    unset("adapter.alora.invocation_tokens", ADAPTER),
    unset("diffusion.shift_logits", KIND),
    unset("xielu.alpha_p", KIND),
    unset("xielu.alpha_n", KIND),
    unset("xielu.beta", KIND),
    unset("xielu.eps", KIND),
];

const SPLIT: &str = "the model is split into several files: make one of them with llama.cpp's \
                     `llama-gguf-split --merge`";
const MATRIX: &str = "it is no model, but what a quantisation starts from";
const ADAPTER: &str =
    "it is an adapter; give the base's own file, and the adapter as a PEFT folder";

/// Keys of the architecture.
pub const ARCHITECTURE: Table = Table {
    file: "GGUF: keys of the architecture",
    fields: &[APPLIED_FIELDS, UNUSED_FIELDS, EXPERT_FIELDS, FOREIGN_FIELDS],
    unknown: Unknown::Refused,
};

const APPLIED_FIELDS: &[Field] = &[
    applied("{arch}.context_length", "the longest text"),
    applied("{arch}.embedding_length", "the width"),
    applied(
        "{arch}.block_count",
        "how many layers, which must be those that there are tensors of",
    ),
    applied("{arch}.feed_forward_length", "the width between"),
    applied("{arch}.vocab_size", "must be the rows of the embeddings"),
    applied("{arch}.attention.head_count", "how many heads"),
    applied(
        "{arch}.attention.head_count_kv",
        "how many heads of keys and values",
    ),
    applied("{arch}.attention.key_length", "the width of a head"),
    applied(
        "{arch}.attention.value_length",
        "must be the width of a head",
    ),
    applied(
        "{arch}.attention.layer_norm_rms_epsilon",
        "what is added to variances",
    ),
    applied(
        "{arch}.attention.sliding_window",
        "must be 0 or at least the context's length",
    ),
    applied("{arch}.attention.causal", "must be true"),
    applied(
        "{arch}.attention.scale",
        "must be 0 or that of the width of a head",
    ),
    applied("{arch}.rope.dimension_count", "must be the width of a head"),
    applied("{arch}.rope.freq_base", "the base of rotary angles"),
    applied(
        "{arch}.rope.scaling.type",
        "none or linear, or what the tensor `rope_freqs.weight` says; others are refused",
    ),
    applied(
        "{arch}.rope.scaling.factor",
        "of linear scaling, which is meant where no type is named",
    ),
    applied(
        "{arch}.rope.scale_linear",
        "the same, as older files call it",
    ),
];

const UNUSED_FIELDS: &[Field] = &[
    only(
        "{arch}.tensor_data_layout",
        &["\"Meta AI original pth\""],
        "convert the model again",
    ),
    only("{arch}.rope.scaling.attn_factor", ONE, YARN),
    inert(
        "{arch}.rope.scaling.original_context_length",
        "none and linear scaling do not need it",
    ),
    inert(
        "{arch}.rope.scaling.finetuned",
        "it says how the model was trained",
    ),
    inert("{arch}.pooling_type", "texts are not pooled to one vector"),
    only("{arch}.logit_scale", ONE, KIND),
    only("{arch}.residual_scale", ONE, KIND),
    only("{arch}.embedding_scale", ONE, KIND),
    only("{arch}.attention.output_scale", ONE, KIND),
    only("{arch}.attn_logit_softcapping", ZERO, KIND),
    only("{arch}.final_logit_softcapping", ZERO, KIND),
    only("{arch}.router_logit_softcapping", ZERO, KIND),
    only("{arch}.attention.max_alibi_bias", ZERO, KIND),
    only("{arch}.attention.clamp_kqv", ZERO, KIND),
    only("{arch}.attention.layer_norm_epsilon", ZERO, KIND),
    only("{arch}.use_parallel_residual", &["false"], KIND),
];

const MIXTURE: &str = "mixtures of experts are not supported";

const EXPERT_FIELDS: &[Field] = &[
    only("{arch}.expert_count", ZERO, MIXTURE),
    only("{arch}.expert_used_count", ZERO, MIXTURE),
    only("{arch}.expert_shared_count", ZERO, MIXTURE),
    only("{arch}.expert_group_count", ZERO, MIXTURE),
    only("{arch}.expert_group_used_count", ZERO, MIXTURE),
    only("{arch}.expert_feed_forward_length", ZERO, MIXTURE),
    only("{arch}.expert_shared_feed_forward_length", ZERO, MIXTURE),
    only("{arch}.expert_chunk_feed_forward_length", ZERO, MIXTURE),
    only("{arch}.expert_weights_scale", ZERO, MIXTURE),
    only("{arch}.expert_weights_norm", ZERO, MIXTURE),
    only("{arch}.expert_gating_func", ZERO, MIXTURE),
    only("{arch}.expert_group_scale", ZERO, MIXTURE),
    only("{arch}.experts_per_group", ZERO, MIXTURE),
    only("{arch}.moe_every_n_layers", ZERO, MIXTURE),
    only("{arch}.moe_latent_size", ZERO, MIXTURE),
    only("{arch}.interleave_moe_layer_step", ZERO, MIXTURE),
    only("{arch}.leading_dense_block_count", ZERO, MIXTURE),
];

/// Of models that are built otherwise.
const FOREIGN_FIELDS: &[Field] = &[
    only("{arch}.embedding_length_out", ZERO, KIND),
    only("{arch}.features_length", ZERO, KIND),
    only("{arch}.nextn_predict_layers", ZERO, KIND),
    only("{arch}.n_deepstack_layers", ZERO, KIND),
    only("{arch}.decoder_start_token_id", ZERO, KIND),
    only("{arch}.decoder_block_count", ZERO, KIND),
    only("{arch}.swin_norm", ZERO, KIND),
    only("{arch}.rescale_every_n_layers", ZERO, KIND),
    only("{arch}.time_mix_extra_dim", ZERO, KIND),
    only("{arch}.time_decay_extra_dim", ZERO, KIND),
    only("{arch}.token_shift_count", ZERO, KIND),
    only("{arch}.full_attention_interval", ZERO, KIND),
    only("{arch}.activation_sparsity_scale", ZERO, KIND),
    only("{arch}.altup.active_idx", ZERO, KIND),
    only("{arch}.altup.num_inputs", ZERO, KIND),
    only("{arch}.embedding_length_per_layer_input", ZERO, KIND),
    only("{arch}.swiglu_clamp_exp", ZERO, KIND),
    only("{arch}.swiglu_clamp_shexp", ZERO, KIND),
    only("{arch}.{dense}_feat_in", ZERO, KIND),
    only("{arch}.{dense}_feat_out", ZERO, KIND),
    only("{arch}.attention.group_norm_epsilon", ZERO, KIND),
    only("{arch}.attention.group_norm_groups", ZERO, KIND),
    only("{arch}.attention.q_lora_rank", ZERO, KIND),
    only("{arch}.attention.kv_lora_rank", ZERO, KIND),
    only("{arch}.attention.decay_lora_rank", ZERO, KIND),
    only("{arch}.attention.iclr_lora_rank", ZERO, KIND),
    only("{arch}.attention.value_residual_mix_lora_rank", ZERO, KIND),
    only("{arch}.attention.gate_lora_rank", ZERO, KIND),
    only("{arch}.attention.relative_buckets_count", ZERO, KIND),
    only("{arch}.attention.temperature_length", ZERO, KIND),
    only("{arch}.attention.key_length_mla", ZERO, KIND),
    only("{arch}.attention.value_length_mla", ZERO, KIND),
    only("{arch}.attention.key_length_swa", ZERO, KIND),
    only("{arch}.attention.value_length_swa", ZERO, KIND),
    only("{arch}.attention.shared_kv_layers", ZERO, KIND),
    only("{arch}.attention.sliding_window_pattern", ZERO, KIND),
    only("{arch}.attention.temperature_scale", ZERO, KIND),
    only("{arch}.attention.indexer.head_count", ZERO, KIND),
    only("{arch}.attention.indexer.key_length", ZERO, KIND),
    only("{arch}.attention.indexer.top_k", ZERO, KIND),
    only("{arch}.rope.dimension_count_swa", ZERO, KIND),
    only("{arch}.rope.dimension_sections", ZERO, KIND),
    only("{arch}.rope.freq_base_swa", ZERO, KIND),
    only("{arch}.rope.scaling.alpha", ZERO, YARN),
    only("{arch}.rope.scaling.yarn_log_multiplier", ZERO, YARN),
    only("{arch}.rope.scaling.yarn_ext_factor", ZERO, YARN),
    only("{arch}.rope.scaling.yarn_attn_factor", ZERO, YARN),
    only("{arch}.rope.scaling.yarn_beta_fast", ZERO, YARN),
    only("{arch}.rope.scaling.yarn_beta_slow", ZERO, YARN),
    only("{arch}.ssm.conv_kernel", ZERO, KIND),
    only("{arch}.ssm.inner_size", ZERO, KIND),
    only("{arch}.ssm.state_size", ZERO, KIND),
    only("{arch}.ssm.time_step_rank", ZERO, KIND),
    only("{arch}.ssm.group_count", ZERO, KIND),
    only("{arch}.ssm.dt_b_c_rms", ZERO, KIND),
    only("{arch}.kda.head_dim", ZERO, KIND),
    only("{arch}.wkv.head_size", ZERO, KIND),
    only("{arch}.posnet.embedding_length", ZERO, KIND),
    only("{arch}.posnet.block_count", ZERO, KIND),
    only("{arch}.convnext.embedding_length", ZERO, KIND),
    only("{arch}.convnext.block_count", ZERO, KIND),
    only("{arch}.classifier.output_labels", ZERO, KIND),
    only("{arch}.shortconv.l_cache", ZERO, KIND),
];
