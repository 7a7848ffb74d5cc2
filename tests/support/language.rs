//! A causal language model of no size that reads and writes any text.

use std::{collections::HashMap, fs, path::Path};

use ailora::{
    ir::Draw,
    models::{config::Config, head::Head, model::Model},
    runtime::store::{self, Array, Params},
};
use serde_json::{Map, Value, json};

/// Control tokens, before those of bytes.
const CONTROLS: [&str; 4] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];

/// Writes the folder of a LLaMA with a token for every byte, weights drawn at random, and ChatML.
pub fn language_model(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let write = |name: &str, value: Value| fs::write(folder.join(name), value.to_string()).unwrap();
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "max_position_embeddings": 1024, "vocab_size": 260, "tie_word_embeddings": true,
            "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32", "initializer_range": 0.02,
        }),
    );
    write("tokenizer.json", tokenizer());
    let template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
                    {{ '<|im_start|>assistant\n' }}{% endif %}";
    write(
        "tokenizer_config.json",
        json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "chat_template": template}),
    );
    let config = Config::from_dir(folder).unwrap();
    let model = Model::new(config, Head::CausalLm).unwrap();
    let drawn = |parameter: &ailora::module::Parameter| {
        let key = Draw::default().key(&parameter.name);
        let count = parameter.shape.iter().product::<usize>() as u64;
        let value = |i: u64| match parameter.shape.len() {
            1 => 1.0,
            _ => 0.1 * key.normal(i) as f32,
        };
        let values = (0..count).map(value).collect();
        (
            parameter.name.clone(),
            Array::new(parameter.shape.clone(), values),
        )
    };
    let params: Params = model.parameters().iter().map(drawn).collect();
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    store::save(&folder.join("model.safetensors"), &params, metadata).unwrap();
}

fn tokenizer() -> Value {
    let mut vocabulary = Map::new();
    let controls = CONTROLS.map(str::to_owned);
    // Bytes that print stand for themselves, others for the characters from 256 on.
    let mut next = 256;
    let bytes = (0..=255_u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae.. => char::from(byte).to_string(),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap().to_string()
        }
    });
    for token in controls.iter().cloned().chain(bytes) {
        let id = vocabulary.len();
        vocabulary.insert(token, id.into());
    }
    let added = |(id, token): (usize, &&str)| {
        json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let added: Vec<Value> = CONTROLS.iter().enumerate().map(added).collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}
