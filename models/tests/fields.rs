//! The tables of fields against those that transformers has.

mod support;

use std::collections::HashSet;

use ailora_models::{closed::Table, family::FAMILIES, generate, tokenizer};
use serde::de::DeserializeOwned;
use support::fixtures;

fn names<T: DeserializeOwned>(file: &str) -> T {
    let path = fixtures().join(format!("fields/{file}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every name of `expected` is in the table, and no name is there twice.
fn complete(table: Table, expected: &[String]) {
    assert!(expected.len() > 40, "{}", table.file);
    let missing: Vec<&String> = expected
        .iter()
        .filter(|name| table.get(name).is_none())
        .collect();
    assert!(missing.is_empty(), "{}: {missing:?}", table.file);
    let mut seen = HashSet::new();
    for field in table.fields.iter().copied().flatten() {
        assert!(seen.insert(field.name), "{}: {}", table.file, field.name);
    }
}

#[test]
fn every_field_of_a_configuration_is_known() {
    let expected: indexmap::IndexMap<String, Vec<String>> = names("config");
    assert_eq!(expected.len(), FAMILIES.len());
    for family in FAMILIES {
        complete(family.table, &expected[family.model_type]);
    }
}

#[test]
fn every_field_of_a_generation_configuration_is_known() {
    complete(generate::TABLE, &names::<Vec<String>>("generation_config"));
}

#[test]
fn every_field_of_a_tokenizer_s_configuration_is_known() {
    let table = tokenizer::fields::CONFIG;
    complete(table, &names::<Vec<String>>("tokenizer_config"));
}
