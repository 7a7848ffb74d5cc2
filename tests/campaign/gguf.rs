//! A small LLaMA as a GGUF file: metadata of every kind, tensors in float32.

use std::path::Path;

use safetensors::SafeTensors;

/// The file of a model in Hugging Face's layout. Rows of queries and keys are not reordered: it is a
/// model all the same.
pub fn file(model: &Path) -> Vec<u8> {
    let weights = std::fs::read(model.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let tokens: Vec<String> = (0..99)
        .map(|i| match i {
            0 => "<unk>".into(),
            1 => "<s>".into(),
            2 => "</s>".into(),
            3 => "th".into(),
            4 => "\u{120}".into(),
            _ => char::from(b'!' + i as u8 - 5).to_string(),
        })
        .collect();
    let kinds: Vec<i32> = (0..99).map(|i| [2, 3, 3, 1][i.min(3)]).collect();
    let text = |text: &str| (8_u32, string(text));
    let integer = |n: u32| (4_u32, n.to_le_bytes().to_vec());
    let float = |x: f32| (6_u32, x.to_le_bytes().to_vec());
    let list = |kind: u32, items: Vec<Vec<u8>>| {
        let len = (items.len() as u64).to_le_bytes();
        (
            9_u32,
            [&kind.to_le_bytes()[..], &len, &items.concat()].concat(),
        )
    };
    let keys = [
        ("general.architecture", text("llama")),
        ("general.name", text("small")),
        ("llama.block_count", integer(2)),
        ("llama.context_length", integer(64)),
        ("llama.embedding_length", integer(32)),
        ("llama.feed_forward_length", integer(64)),
        ("llama.attention.head_count", integer(4)),
        ("llama.attention.head_count_kv", integer(2)),
        ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
        ("llama.rope.freq_base", float(10_000.0)),
        ("llama.rope.dimension_count", integer(8)),
        ("llama.vocab_size", integer(99)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("llama-bpe")),
        (
            "tokenizer.ggml.tokens",
            list(8, tokens.iter().map(|t| string(t)).collect()),
        ),
        ("tokenizer.ggml.merges", list(8, vec![string("t h")])),
        (
            "tokenizer.ggml.token_type",
            list(5, kinds.iter().map(|k| k.to_le_bytes().to_vec()).collect()),
        ),
        ("tokenizer.ggml.bos_token_id", integer(1)),
        ("tokenizer.ggml.eos_token_id", integer(2)),
        ("tokenizer.ggml.unknown_token_id", integer(0)),
    ];
    let mut names = weights.names();
    names.sort_unstable();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((names.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, (kind, value)) in keys {
        bytes.extend(string(key));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    let mut data = Vec::new();
    for name in names {
        let tensor = weights.tensor(name).unwrap();
        bytes.extend(string(&renamed(name)));
        bytes.extend((tensor.shape().len() as u32).to_le_bytes());
        for dim in tensor.shape().iter().rev() {
            bytes.extend((*dim as u64).to_le_bytes());
        }
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(tensor.data());
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn renamed(name: &str) -> String {
    let mut name = name.to_owned();
    for (old, new) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(old, new);
    }
    name
}
