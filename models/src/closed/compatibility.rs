//! `docs/compatibility.md`, made of the tables.

use super::{Field, Table, rows};
use crate::{data::squad, family, generate, gguf, peft, tokenizer};

const INTRODUCTION: &str = "\
# Compatibility

What ailora does with every field of the files that other programs write. A field is **applied**, or **changes
nothing here**, or is **refused** unless it has a value that has no effect. A name that is not in these
lists is refused where it can change the arithmetic: tensors, fields of `adapter_config.json`, keys of a
GGUF file's architecture. Elsewhere it is reported once, by name, and `--strict` refuses it.

This page is generated from the tables that the readers use: after a change of one,
`AILORA_WRITE=1 cargo test --release -p ailora-models --test compatibility` writes it again. The fields
are those of transformers 5.17, PEFT 0.21.2 and gguf 0.19; a test fails when one of theirs is missing
here.
";

const OWN: &str = "
## Files of ailora's own

`run.json` is the record of a run and can be given as `--config`; unknown fields are refused. `checkpoint.safetensors`
has a checksum over its header and its tensors. In place of a damaged checkpoint the one before it is used, with a
note; without one it is refused. A spectrum in the cache has the hash of its weight and one of its own bytes; if either
does not match it is computed again. A compiled kernel in the cache has a checksum, and a damaged one is
compiled again. A cache is used only in a folder that belongs to the user.
";

/// The page.
pub fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    let mut section = |title: &str, tables: &[&Table]| {
        page += &format!("\n## {title}\n");
        for table in tables {
            if tables.len() > 1 {
                page += &format!("\n### {}\n", table.file);
            }
            page += &format!("\n{}", table.markdown());
        }
    };
    section("Adapters: `adapter_config.json`", &[&peft::LORA]);
    section("Adapters: `ailora.json`", &[&peft::ABOUT]);
    section("`generation_config.json`", &[&generate::TABLE]);
    section("`tokenizer_config.json`", &[&tokenizer::fields::CONFIG]);
    section(
        "`special_tokens_map.json`",
        &[&tokenizer::fields::SPECIAL_TOKENS_MAP],
    );
    section("`added_tokens.json`", &[&tokenizer::fields::ADDED_TOKENS]);
    section(
        "GGUF metadata",
        &[
            &gguf::fields::GENERAL,
            &gguf::fields::ARCHITECTURE,
            &tokenizer::gguf::TABLE,
        ],
    );
    section(
        "Data in SQuAD's JSON",
        &[
            &squad::FILE,
            &squad::ARTICLE,
            &squad::PARAGRAPH,
            &squad::QUESTION,
            &squad::ANSWER,
        ],
    );
    page += "\n## `config.json`\n";
    page += &configurations();
    page + OWN
}

/// The fields of every family: first those of its own, then those that families share.
fn configurations() -> String {
    let mut text = String::new();
    let mut shared: Vec<(&[Field], Vec<&str>)> = Vec::new();
    for family in family::FAMILIES {
        for list in family.table.fields {
            let same = |(other, _): &&mut (&[Field], _)| names(other).eq(names(list));
            match shared.iter_mut().find(same) {
                Some((_, families)) => families.push(family.model_type),
                None => shared.push((list, vec![family.model_type])),
            }
        }
    }
    shared.sort_by_key(|(_, families)| families.len());
    for of_same in shared.chunk_by(|(_, a), (_, b)| a == b) {
        let families = &of_same[0].1;
        let title = match families.len() == family::FAMILIES.len() {
            true => "every family".to_owned(),
            false => families.join(", "),
        };
        let fields: Vec<Field> = of_same
            .iter()
            .flat_map(|(list, _)| *list)
            .copied()
            .collect();
        text += &format!("\n### Of {title}\n\n{}", rows(&fields));
    }
    text + "\nAny other field is reported once, and refused under `--strict`.\n\n"
        + &format!("### {}\n\n{}", family::ROPE.file, family::ROPE.markdown())
}

fn names(fields: &[Field]) -> impl Iterator<Item = &str> {
    fields.iter().map(|field| field.name)
}
