//! The files beside a model's weights and configuration: its tokenizer, how to generate.

use std::fs;

use serde_json::{Map, Value};

use super::{Pretrained, PretrainedError};
use crate::tokenizer::Tokenizer;

/// Files that a folder may have, and that a copy of the model needs too.
const FILES: [&str; 16] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

/// A folder of templates for chats, each a file.
const TEMPLATES: &str = "additional_chat_templates";

impl Pretrained {
    /// The files that belong to the model beside `config.json` and the weights, by their names in
    /// its folder. For a GGUF file they are made of the `tokenizer` that it says.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn companions(
        &self,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<(String, Vec<u8>)>, PretrainedError> {
        let mut found = Vec::new();
        let mut names: Vec<String> = FILES.map(str::to_owned).into();
        if let Ok(entries) = fs::read_dir(self.dir.join(TEMPLATES)) {
            let entries = entries.filter_map(Result::ok);
            let templates = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.extend(templates.map(|name| format!("{TEMPLATES}/{name}")));
        }
        for name in names {
            let path = self.dir.join(&name);
            if path.is_file() {
                let read = |source| PretrainedError::Read {
                    path: path.clone(),
                    source,
                };
                found.push((name, fs::read(&path).map_err(read)?));
            }
        }
        if !self.dir.join("config.json").is_file() {
            for (name, bytes) in self.made(tokenizer)? {
                if !found.iter().any(|(other, _)| *other == name) {
                    found.push((name, bytes));
                }
            }
        }
        Ok(found)
    }

    /// The files of a tokenizer, and of how to generate.
    fn made(&self, tokenizer: &Tokenizer) -> Result<Vec<(String, Vec<u8>)>, PretrainedError> {
        let config = &self.model.config().json;
        let mut about = Map::new();
        let mut generation = Map::new();
        about.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        for name in ["bos", "eos", "pad"] {
            let field = format!("{name}_token_id");
            let id = match (config.get(&field), name) {
                (None, "pad") => Some(Value::from(tokenizer.pad_id())),
                (id, _) => id.cloned(),
            };
            let Some(id) = id else { continue };
            let token = id
                .as_u64()
                .and_then(|id| tokenizer.token(u32::try_from(id).ok()?));
            if let Some(token) = token {
                about.insert(format!("{name}_token"), token.into());
            }
            generation.insert(field, id);
        }
        let longest = self.model.config().architecture.max_len();
        about.insert("model_max_length".into(), longest.into());
        about.insert("clean_up_tokenization_spaces".into(), false.into());
        if let Some(template) = tokenizer.chat_template() {
            about.insert("chat_template".into(), template.to_json());
        }
        let file = |name: &str, json: Map<String, Value>| {
            let text = format!("{:#}\n", Value::Object(json));
            (name.to_owned(), text.into_bytes())
        };
        Ok(vec![
            ("tokenizer.json".into(), tokenizer.to_json()?.into_bytes()),
            file("tokenizer_config.json", about),
            file("generation_config.json", generation),
        ])
    }
}
