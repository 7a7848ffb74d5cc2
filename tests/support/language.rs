//! Language models of no size that read and write any text: a causal one, and an encoder-decoder.

use std::{collections::HashMap, fs, path::Path};

use ailora::{
    ir::Draw,
    models::{config::Config, head::Head, model::Model},
    runtime::store::{self, Array, Params},
};
use serde_json::{Map, Value, json};

/// Writes the folder of a LLaMA with a token for every byte, weights drawn at random, and ChatML.
pub fn language_model(folder: &Path) {
    let template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
                    {{ '<|im_start|>assistant\n' }}{% endif %}";
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024, "vocab_size": 260, "tie_word_embeddings": true,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32", "initializer_range": 0.02,
    });
    let settings = json!({
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "chat_template": template,
    });
    let controls = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let tokenizer = tokenizer(controls, &[("<s>", 0)], &[]);
    write(folder, &config, &tokenizer, &settings, Head::CausalLm);
}

/// Writes the folder of a BART with a token for every byte, and weights drawn at random.
pub fn encoder_decoder(folder: &Path) {
    let config = json!({
        "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "d_model": 16,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 1024, "vocab_size": 260, "dropout": 0.0, "bos_token_id": 0,
        "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
        "is_encoder_decoder": true, "torch_dtype": "float32",
    });
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"});
    let controls = ["<s>", "<pad>", "</s>", "<unk>"];
    let tokenizer = tokenizer(controls, &[("<s>", 0)], &[("</s>", 2)]);
    let head = Head::Seq2SeqLm { smoothing: 0.0 };
    write(folder, &config, &tokenizer, &settings, head);
}

fn write(folder: &Path, config: &Value, tokenizer: &Value, settings: &Value, head: Head) {
    fs::create_dir_all(folder).unwrap();
    let write =
        |name: &str, value: &Value| fs::write(folder.join(name), value.to_string()).unwrap();
    write("config.json", config);
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", settings);
    let config = Config::from_dir(folder).unwrap();
    let model = Model::new(config, head).unwrap();
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

/// A tokenizer of bytes behind four control tokens, of which it puts some before and behind a text.
fn tokenizer(controls: [&str; 4], before: &[(&str, u32)], behind: &[(&str, u32)]) -> Value {
    let mut vocabulary = Map::new();
    // Bytes that print stand for themselves, others for the characters from 256 on.
    let mut next = 256;
    let bytes = (0..=255_u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae.. => char::from(byte).to_string(),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap().to_string()
        }
    });
    for token in controls.map(str::to_owned).into_iter().chain(bytes) {
        let id = vocabulary.len();
        vocabulary.insert(token, id.into());
    }
    let added = |(id, token): (usize, &&str)| {
        json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let added: Vec<Value> = controls.iter().enumerate().map(added).collect();
    let special = |&(token, _): &(&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| vec![json!({"Sequence": {"id": name, "type_id": 0}})];
    let [before_text, behind_text] =
        [before, behind].map(|tokens| tokens.iter().map(special).collect::<Vec<_>>());
    let single = [before_text, text("A"), behind_text.clone()].concat();
    let pair = [single.clone(), text("B"), behind_text].concat();
    let known = |&(token, id): &(&str, u32)| {
        (
            token.to_owned(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        )
    };
    let specials: Map<String, Value> = before.iter().chain(behind).map(known).collect();
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
            "single": single,
            "pair": pair,
            "special_tokens": specials,
        },
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}
