use std::sync::Arc;

use ailora_graph::ir::{Draw, ops::loss::IGNORED};
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective};
use crate::{
    batch::{Batch, BatchError, Encoded, Order, Targets},
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    tokenizer::{Encoding, Tokenizer, TokenizerError, train::MASK},
};

/// Tokens of running text, some of which are masked and to be guessed (Devlin et al., 2019), other
/// ones each time (Liu et al., 2019).
///
/// Examples are parts of one text, which is cut into rows of equally many tokens. They have no
/// targets: what is to be guessed is drawn for each batch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masked {
    /// The share of tokens to be guessed.
    pub rate: f64,
    /// What they are masked with: tokens of the model's tokenizer.
    #[serde(skip)]
    masking: Option<Masking>,
}

impl Masked {
    /// Of the tokens, `rate` are to be guessed.
    pub fn new(rate: f64) -> Self {
        Self {
            rate,
            masking: None,
        }
    }

    /// This objective with the tokens of a tokenizer.
    ///
    /// # Errors
    /// The tokenizer has no mask.
    pub fn bound(&self, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let mask = tokenizer.id(MASK).ok_or(TokenizerError::NoMask)? as i32;
        let masking = Some(Masking {
            rate: self.rate,
            mask,
            ordinary: (mask + 1, tokenizer.vocab_size() as i32),
        });
        Ok(Self {
            rate: self.rate,
            masking,
        })
    }
}

impl Objective for Masked {
    fn head(&self) -> Head {
        Head::MaskedLm
    }

    fn columns(&self) -> Vec<&str> {
        Vec::new()
    }

    fn target(&self, _: &Record<'_>) -> Result<Value, DataError> {
        Ok(Value::Null)
    }

    fn bind(
        &self,
        _: &Config,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        Ok(Some(Arc::new(self.bound(tokenizer)?)))
    }

    /// The examples one after the other, each followed by what separates texts, cut into rows of
    /// `max_len` tokens that begin as any text does. What does not fill a row is left out.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let texts = examples.iter().map(|example| (example.text.as_str(), None));
        let texts = tokenizer.encode_batch(&texts.collect::<Vec<_>>(), usize::MAX)?;
        let special = 2;
        if max_len <= special {
            return Err(TokenizerError::TooShort { max_len, special });
        }
        let start = texts.first().and_then(|text| text.ids.first());
        let start = start.copied().unwrap_or_default();
        let stream = texts.iter().flat_map(|text| text.ids.iter().skip(1));
        let stream: Vec<u32> = stream.copied().collect();
        let row = |tokens: &[u32]| Encoded {
            encoding: Encoding {
                ids: std::iter::once(start)
                    .chain(tokens.iter().copied())
                    .collect(),
                type_ids: vec![0; max_len],
                ..Encoding::default()
            },
            target: None,
            part: None,
        };
        Ok(stream.chunks_exact(max_len - 1).map(row).collect())
    }

    fn order(&self) -> Order {
        Order::Whole
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], draw: Draw) -> Result<(), BatchError> {
        let masking = self.masking.ok_or(BatchError::Unbound)?;
        batch.targets = Targets::tokens(masking.apply(&mut batch.ids, draw));
        Ok(())
    }
}

/// What tokens are masked with.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Masking {
    /// The share of tokens to be guessed.
    rate: f64,
    mask: i32,
    /// The tokens from which a wrong one is drawn, and which may have to be guessed: those that are not
    /// special.
    ordinary: (i32, i32),
}

impl Masking {
    /// Of the tokens to be guessed, 8 in 10 are masked, 1 is another one and 1 is as it was.
    fn apply(&self, ids: &mut [i32], draw: Draw) -> Vec<i32> {
        let key = draw.key("masked tokens");
        let (first, end) = self.ordinary;
        let hide = |(i, id): (usize, &mut i32)| {
            let chosen = *id >= first && key.uniform(2 * i as u64) < self.rate;
            if !chosen {
                return IGNORED;
            }
            let label = *id;
            // The first digit decides what happens, the others which token it becomes.
            let tenth = 10.0 * key.uniform(2 * i as u64 + 1);
            *id = match tenth {
                8.0..9.0 => first + (f64::from(end - first) * tenth.fract()) as i32,
                9.0.. => label,
                _ => self.mask,
            };
            label
        };
        ids.iter_mut().enumerate().map(hide).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_as_often_as_asked_and_special_ones_never() {
        let masking = Masking {
            rate: 0.15,
            mask: 4,
            ordinary: (5, 1005),
        };
        let before: Vec<i32> = (0..100_000).map(|i| i % 1005).collect();
        let mut ids = before.clone();
        let labels = masking.apply(&mut ids, Draw { seed: 1, step: 2 });
        let (mut chosen, mut masked, mut kept) = (0.0, 0.0, 0.0);
        for ((&id, &label), &was) in ids.iter().zip(&labels).zip(&before) {
            if label == IGNORED {
                assert_eq!(id, was);
                continue;
            }
            assert_eq!(label, was);
            assert!(was >= 5 && (id == 4 || (5..1005).contains(&id)));
            chosen += 1.0;
            masked += f64::from(u8::from(id == 4));
            kept += f64::from(u8::from(id == was));
        }
        assert!((chosen / 1e5_f64 - 0.15).abs() < 0.005, "{chosen}");
        assert!((masked / chosen - 0.8).abs() < 0.02, "{masked}");
        assert!((kept / chosen - 0.1).abs() < 0.02, "{kept}");
        let again = masking.apply(&mut before.clone(), Draw { seed: 1, step: 2 });
        assert_eq!(again, labels);
        let other = masking.apply(&mut before.clone(), Draw { seed: 1, step: 3 });
        assert_ne!(other, labels);
    }
}
