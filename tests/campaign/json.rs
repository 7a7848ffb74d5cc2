//! Seeded changes of JSON: of its values, its names or its bytes.

use super::mutate::{NUMBERS, Random, bytes};

/// One to three changes of a JSON text: of its values, its names or its bytes.
pub fn change(random: &mut Random, text: &str) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(text) else {
        return bytes(random, text.as_bytes());
    };
    if random.chance(15) {
        return bytes(random, text.as_bytes());
    }
    for _ in 0..1 + random.below(3) {
        let count = nodes(&value);
        let mut index = random.below(count);
        if let Some(node) = nth(&mut value, &mut index) {
            change_value(random, node);
        }
    }
    let mut text = value.to_string();
    if random.chance(5) {
        let name = r#"{"model_type":"bert","vocab_size":7,"#;
        text = text.replacen('{', name, 1);
    }
    text.into_bytes()
}

fn nodes(value: &serde_json::Value) -> usize {
    use serde_json::Value::{Array, Object};
    1 + match value {
        Array(items) => items.iter().map(nodes).sum(),
        Object(fields) => fields.values().map(nodes).sum(),
        _ => 0,
    }
}

fn nth<'a>(
    value: &'a mut serde_json::Value,
    index: &mut usize,
) -> Option<&'a mut serde_json::Value> {
    use serde_json::Value::{Array, Object};
    if *index == 0 {
        return Some(value);
    }
    *index -= 1;
    match value {
        Array(items) => items.iter_mut().find_map(|item| nth(item, index)),
        Object(fields) => fields.values_mut().find_map(|item| nth(item, index)),
        _ => None,
    }
}

fn change_value(random: &mut Random, value: &mut serde_json::Value) {
    use serde_json::{Value, json};
    match value {
        Value::Object(fields) if !fields.is_empty() && random.chance(80) => {
            let name = random
                .pick(&fields.keys().cloned().collect::<Vec<_>>())
                .clone();
            match random.below(4) {
                0 => drop(fields.shift_remove(&name)),
                1 => {
                    if let Some(moved) = fields.shift_remove(&name) {
                        fields.insert(format!("{name}x"), moved);
                    }
                }
                2 => {
                    let other = random
                        .pick(&fields.values().cloned().collect::<Vec<_>>())
                        .clone();
                    fields.insert(name, other);
                }
                _ => drop(fields.insert("surprise".into(), json!([1, {"a": null}]))),
            }
        }
        Value::Array(items) if !items.is_empty() && random.chance(80) => {
            let at = random.below(items.len());
            match random.below(3) {
                0 => drop(items.remove(at)),
                1 => {
                    let item = items[at].clone();
                    items.extend(vec![item; 1000]);
                }
                _ => {
                    let other = random.below(items.len());
                    items.swap(at, other);
                }
            }
        }
        Value::Number(number) if random.chance(60) => {
            let number = number.as_f64().unwrap_or_default();
            *value = match random.below(6) {
                0 => json!(number as i64 + 1),
                1 => json!(number as i64 - 1),
                2 => json!(-number),
                3 => json!(number * 2.0),
                4 => json!(number + 0.5),
                _ => json!(*random.pick(&NUMBERS)),
            };
        }
        Value::String(text) if random.chance(60) => {
            let changed = bytes(random, text.as_bytes());
            *value = Value::String(String::from_utf8_lossy(&changed).into_owned());
        }
        value => {
            *value = match random.below(13) {
                0 => Value::Null,
                1 => json!(true),
                2 => json!(-1),
                3 => json!(1e308),
                4 => json!(*random.pick(&NUMBERS)),
                5 => json!(""),
                6 => json!("x".repeat(*random.pick(&[1, 100_000]))),
                7 => json!([]),
                8 => json!({}),
                9 => json!(0.5),
                10 => json!("../../etc/passwd"),
                11 => json!("((a|a)*)*$"),
                _ => (0..100).fold(json!(1), |inner, _| json!([inner])),
            }
        }
    }
}
