//! The file format of SentencePiece (Kudo & Richardson, 2018): a message of protocol buffers.

use std::fmt;

/// A SentencePiece model as far as tokenizing needs it.
#[derive(Debug, PartialEq)]
pub(super) struct SentencePiece {
    /// The pieces by id.
    pub pieces: Vec<Piece>,
    /// How text is split into them.
    pub algorithm: Algorithm,
    /// Whether characters without a piece become pieces of their bytes.
    pub byte_fallback: bool,
    /// Id of the piece for what has none.
    pub unknown: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A mark such as the end of a sentence, which no text becomes.
    Control,
    /// A token that the user asked for.
    UserDefined,
    /// Any other.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    Word,
    Char,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unigram => "unigram",
            Self::Bpe => "BPE",
            Self::Word => "word",
            Self::Char => "char",
        })
    }
}

impl SentencePiece {
    /// The model of a file, if it is one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            unknown: 0,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Value::Bytes(trainer)) => model.read_trainer(trainer)?,
                _ => {}
            }
        }
        (model.unknown < model.pieces.len()).then_some(model)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Option<()> {
        for field in Fields(bytes) {
            match field? {
                (3, Value::Number(algorithm)) => {
                    self.algorithm = match algorithm {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        3 => Algorithm::Word,
                        4 => Algorithm::Char,
                        _ => return None,
                    };
                }
                (35, Value::Number(fallback)) => self.byte_fallback = fallback != 0,
                (40, Value::Number(id)) => self.unknown = usize::try_from(id).ok()?,
                _ => {}
            }
        }
        Some(())
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut piece = Self {
            text: String::new(),
            score: 0.0,
            kind: Kind::Other,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = str::from_utf8(text).ok()?.to_owned(),
                (2, Value::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        _ => Kind::Other,
                    };
                }
                _ => {}
            }
        }
        (!piece.text.is_empty() && piece.score.is_finite()).then_some(piece)
    }
}

/// The fields of a message: numbers and values, or `None` once where it is not well-formed.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    /// Of a kind that nothing here reads.
    Other,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    /// Seven bits a byte, the lowest first, the last byte without its highest bit.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPM: &[u8] = include_bytes!("../../../tests/fixtures/tokenizers/deberta/spm.model");
    const BPE: &[u8] = include_bytes!("../../../tests/fixtures/tokenizers/llama/tokenizer.model");

    /// What the sentencepiece package reads from the same files.
    #[test]
    fn models_are_what_sentencepiece_reads() {
        let spm = SentencePiece::read(SPM).unwrap();
        assert_eq!((spm.algorithm, spm.pieces.len()), (Algorithm::Unigram, 800));
        assert_eq!((spm.unknown, spm.byte_fallback), (3, false));
        let kinds = [Kind::Control, Kind::Control, Kind::Control, Kind::Other];
        let names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"];
        for ((piece, kind), name) in spm.pieces.iter().zip(kinds).zip(names) {
            assert_eq!((&*piece.text, piece.score, piece.kind), (name, 0.0, kind));
        }
        assert_eq!(spm.pieces[4].kind, Kind::UserDefined);
        let bpe = SentencePiece::read(BPE).unwrap();
        assert_eq!((bpe.algorithm, bpe.pieces.len()), (Algorithm::Bpe, 800));
        assert_eq!((bpe.unknown, bpe.byte_fallback), (0, true));
        assert_eq!(bpe.pieces[3].text, "<0x00>");
        assert_eq!(
            (bpe.pieces[260].text.as_str(), bpe.pieces[260].score),
            ("he", -1.0)
        );
    }

    proptest! {
        #[test]
        fn damaged_files_are_no_models_or_other_models(
            at in 0..SPM.len(), byte in any::<u8>(), end in 0..SPM.len(), noise in any::<Vec<u8>>(),
        ) {
            let mut bytes = SPM.to_vec();
            bytes[at] = byte;
            let _ = SentencePiece::read(&bytes);
            let _ = SentencePiece::read(&bytes[..end]);
            let _ = SentencePiece::read(&noise);
        }
    }
}
