//! Trains a tokenizer on texts.

use serde_json::json;
use tokenizers::{
    AddedToken, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
    processors::roberta::RobertaProcessing,
};

use super::TokenizerError;

/// RoBERTa's special tokens; their ids are their places here.
const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", MASK];

/// The token that stands for one to be guessed.
pub const MASK: &str = "<mask>";

/// The least vocabulary: a token for every byte, and the special ones.
pub const MIN_VOCABULARY: usize = 256 + SPECIAL.len();

/// Trains a tokenizer as RoBERTa's on texts: byte pairs merged by frequency (Sennrich et al., 2016)
/// until there are `vocab_size` tokens, [`MIN_VOCABULARY`] at least, or nothing is left to merge. The
/// same texts give the same tokenizer. Returned are files of a model's folder by name.
///
/// # Errors
/// The texts give no tokenizer.
pub fn train<S: AsRef<str> + Sync + Send>(
    texts: &[S],
    vocab_size: usize,
) -> Result<[(&'static str, String); 2], TokenizerError> {
    let failed = |error: tokenizers::Error| TokenizerError::Train(error.to_string());
    let special = |token: &str| {
        // A space before a mask belongs to it: what is guessed begins with one.
        AddedToken::from(token, true).lstrip(token == MASK)
    };
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size.max(MIN_VOCABULARY))
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL.map(special).to_vec())
        .build();
    let [start, end] = [(SPECIAL[0].to_owned(), 0), (SPECIAL[2].to_owned(), 2)];
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(
            RobertaProcessing::new(end, start).add_prefix_space(false),
        ))
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(failed)?;
    tokenizer
        .train(&mut trainer, texts.iter().map(AsRef::as_ref))
        .map_err(failed)?;
    let about = json!({
        "tokenizer_class": "RobertaTokenizerFast",
        "bos_token": SPECIAL[0],
        "cls_token": SPECIAL[0],
        "pad_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "sep_token": SPECIAL[2],
        "unk_token": SPECIAL[3],
        "mask_token": MASK,
        "add_prefix_space": false,
    });
    Ok([
        (
            "tokenizer.json",
            tokenizer.to_string(false).map_err(failed)?,
        ),
        ("tokenizer_config.json", format!("{about:#}\n")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn frequent_words_become_tokens_and_every_text_comes_back() {
        let texts: Vec<String> = (0..50)
            .map(|i| format!("The whale number {i} swam. The whale dived."))
            .collect();
        let files = train(&texts, 300).unwrap();
        assert_eq!(train(&texts, 300).unwrap(), files);
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in &files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.pad_id(), 1);
        assert!(tokenizer.vocab_size() <= 300);
        let text = "The whale saw Ünïcode 🐋 and 42.";
        let ids = tokenizer.encode(text, None, 100).unwrap().ids;
        assert_eq!((ids[0], ids[ids.len() - 1]), (0, 2));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(tokenizer.encode("The whale", None, 9).unwrap().ids.len(), 4);
        let masked = tokenizer.encode("The <mask> dived.", None, 100).unwrap();
        assert!(masked.ids.contains(&tokenizer.id(MASK).unwrap()));
    }
}
