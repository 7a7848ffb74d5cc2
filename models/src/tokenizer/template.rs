//! Special tokens around texts, as `tokenizer.json` writes them.

use serde_json::{Map, Value, json};

/// A token and its id.
pub(super) type Special = (String, u32);

/// A part of what is around texts, with its segment.
#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'static str, u32),
    Token(&'a Special, u32),
}

fn template(single: &[Part], pair: &[Part]) -> Value {
    let part = |part: &Part| match part {
        Part::Text(id, segment) => json!({"Sequence": {"id": id, "type_id": segment}}),
        Part::Token((token, _), segment) => {
            json!({"SpecialToken": {"id": token, "type_id": segment}})
        }
    };
    let tokens = pair.iter().filter_map(|part| match part {
        Part::Token(token, _) => Some(*token),
        Part::Text(..) => None,
    });
    let special: Map<String, Value> = tokens
        .map(|(token, id)| {
            let ids = json!({"id": token, "ids": [id], "tokens": [token]});
            (token.clone(), ids)
        })
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": single.iter().map(part).collect::<Vec<_>>(),
        "pair": pair.iter().map(part).collect::<Vec<_>>(),
        "special_tokens": special,
    })
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`.
pub(super) fn classifier(cls: &Special, sep: &Special) -> Value {
    let single = [Part::Token(cls, 0), Part::Text("A", 0), Part::Token(sep, 0)];
    let pair = [&single[..], &[Part::Text("B", 1), Part::Token(sep, 1)]].concat();
    template(&single, &pair)
}

/// Each text between two tokens, as far as there are such.
pub(super) fn around(begin: Option<&Special>, end: Option<&Special>) -> Value {
    let text = |name, segment| {
        let token = |token| Part::Token(token, segment);
        let parts = [
            begin.map(token),
            Some(Part::Text(name, segment)),
            end.map(token),
        ];
        parts.into_iter().flatten()
    };
    let single: Vec<Part> = text("A", 0).collect();
    let pair: Vec<Part> = text("A", 0).chain(text("B", 1)).collect();
    template(&single, &pair)
}

/// Whether it is another way to write [`classifier`].
pub(super) fn is_bert(found: &Value, made: &Value) -> bool {
    let special =
        |field: &str| -> Option<Special> { serde_json::from_value(found.get(field)?.clone()).ok() };
    let kind = found.get("type").and_then(Value::as_str);
    match (kind, special("cls"), special("sep")) {
        (Some("BertProcessing"), Some(cls), Some(sep)) => classifier(&cls, &sep) == *made,
        _ => false,
    }
}
