//! How elements are stored: in blocks of so many elements and bytes, by the names that llama.cpp has
//! for them.

use ailora_graph::ir::DType;
use half::f16;

/// Appends the elements of a block, which has as many bytes as its kind says.
type Decode = fn(&[u8], &mut Vec<f32>);

/// A kind of blocks.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Its number in files.
    number: u32,
    pub name: &'static str,
    pub elements: usize,
    pub bytes: usize,
    pub form: Form,
}

/// What bytes say.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Elements by themselves.
    Floats(DType),
    /// Blocks of elements.
    Blocks(Decode),
}

const fn float(number: u32, name: &'static str, bytes: usize, dtype: DType) -> Kind {
    Kind {
        number,
        name,
        elements: 1,
        bytes,
        form: Form::Floats(dtype),
    }
}

const fn kind(
    number: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    decode: Decode,
) -> Kind {
    Kind {
        number,
        name,
        elements,
        bytes,
        form: Form::Blocks(decode),
    }
}

/// The kinds that are read.
pub(super) const KINDS: [Kind; 14] = [
    float(0, "F32", 4, DType::F32),
    float(1, "F16", 2, DType::F16),
    float(30, "BF16", 2, DType::Bf16),
    float(28, "F64", 8, DType::F64),
    // A factor, then the low halves of all bytes before the high ones.
    kind(2, "Q4_0", 32, 18, |b, to| {
        let factor = half(b);
        to.extend(nibbles(&b[2..]).map(|q| factor * (f32::from(q) - 8.0)));
    }),
    // A factor and a minimum.
    kind(3, "Q4_1", 32, 20, |b, to| {
        let [factor, minimum] = [half(b), half(&b[2..])];
        to.extend(nibbles(&b[4..]).map(|q| factor * f32::from(q) + minimum));
    }),
    // The fifth bits of all elements are before the others.
    kind(6, "Q5_0", 32, 22, |b, to| {
        let factor = half(b);
        to.extend(fives(&b[2..]).map(|q| factor * (f32::from(q) - 16.0)));
    }),
    kind(7, "Q5_1", 32, 24, |b, to| {
        let [factor, minimum] = [half(b), half(&b[2..])];
        to.extend(fives(&b[4..]).map(|q| factor * f32::from(q) + minimum));
    }),
    kind(8, "Q8_0", 32, 34, |b, to| {
        let factor = half(b);
        to.extend(b[2..].iter().map(|&q| factor * f32::from(q as i8)));
    }),
    kind(10, "Q2_K", 256, 84, q2_k),
    kind(11, "Q3_K", 256, 110, q3_k),
    kind(12, "Q4_K", 256, 144, q4_k),
    kind(13, "Q5_K", 256, 176, q5_k),
    kind(14, "Q6_K", 256, 210, q6_k),
];

impl Kind {
    pub fn of(number: u32) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.number == number)
    }
}

/// What llama.cpp calls a kind that is not read.
pub(super) fn name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        other => return format!("number {other}, which has no known name"),
    };
    name.to_owned()
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let low = bytes.iter().map(|b| b & 15);
    low.chain(bytes.iter().map(|b| b >> 4))
}

/// Numbers of five bits: a word of fifth bits, and the others.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let bit = move |i: usize| ((fifth >> i & 1) as u8) << 4;
    nibbles(&bytes[4..])
        .enumerate()
        .map(move |(i, q)| q | bit(i))
}

/// The eight factors and minima, of six bits each, that twelve bytes of [`q4_k`] and [`q5_k`] have.
fn factors(b: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|i| {
        let (factor, minimum) = match i {
            0..4 => (b[i] & 63, b[i + 4] & 63),
            _ => (
                b[i + 4] & 15 | (b[i - 4] >> 6) << 4,
                b[i + 4] >> 4 | (b[i] >> 6) << 4,
            ),
        };
        (factor.into(), minimum.into())
    })
}

/// Eighths of 32, in pairs that share their bytes.
fn q4_k(b: &[u8], to: &mut Vec<f32>) {
    let [d, m] = [half(b), half(&b[2..])];
    let factors = factors(&b[4..16]);
    for (pair, bytes) in b[16..].chunks(32).enumerate() {
        for high in 0..2 {
            let (factor, minimum) = factors[2 * pair + high];
            let (factor, minimum) = (d * factor, m * minimum);
            let quant = |b: &u8| f32::from(b >> (4 * high) & 15);
            to.extend(bytes.iter().map(|b| factor * quant(b) - minimum));
        }
    }
}

/// As [`q4_k`], with the fifth bits of all in front: bit i of 32 bytes is for eighth i.
fn q5_k(b: &[u8], to: &mut Vec<f32>) {
    let [d, m] = [half(b), half(&b[2..])];
    let (factors, fifth) = (factors(&b[4..16]), &b[16..48]);
    for (pair, bytes) in b[48..].chunks(32).enumerate() {
        for high in 0..2 {
            let eighth = 2 * pair + high;
            let (factor, minimum) = factors[eighth];
            let (factor, minimum) = (d * factor, m * minimum);
            let quants = bytes.iter().zip(fifth);
            let quant = |(b, f): (&u8, &u8)| b >> (4 * high) & 15 | (f >> eighth & 1) << 4;
            to.extend(quants.map(|pair| factor * f32::from(quant(pair)) - minimum));
        }
    }
}

/// Halves of 128: the low four bits of 64 bytes, the high two of 32, and a factor for each 16.
fn q6_k(b: &[u8], to: &mut Vec<f32>) {
    let d = half(&b[208..]);
    for part in 0..2 {
        let (low, high) = (&b[64 * part..][..64], &b[128 + 32 * part..][..32]);
        let factors = &b[192 + 8 * part..][..8];
        for i in 0..128 {
            let q = low[i % 64] >> (4 * (i / 64)) & 15 | (high[i % 32] >> (2 * (i / 32)) & 3) << 4;
            let factor = d * f32::from(factors[i / 16] as i8);
            to.push(factor * (f32::from(q) - 32.0));
        }
    }
}

/// Halves of 128 in 32 bytes, from the lowest two bits up; a factor and a minimum for each 16.
fn q2_k(b: &[u8], to: &mut Vec<f32>) {
    let [d, m] = [half(&b[80..]), half(&b[82..])];
    for i in 0..256 {
        let (part, at) = (i / 128, i % 128);
        let q = b[16 + 32 * part + at % 32] >> (2 * (at / 32)) & 3;
        let scale = b[i / 16];
        let (factor, minimum) = (d * f32::from(scale & 15), m * f32::from(scale >> 4));
        to.push(factor * f32::from(q) - minimum);
    }
}

/// As [`q2_k`], with third bits in front, and sixteen factors of six bits in twelve bytes.
fn q3_k(b: &[u8], to: &mut Vec<f32>) {
    let d = half(&b[108..]);
    let packed = &b[96..108];
    for i in 0..256 {
        let (part, at) = (i / 128, i % 128);
        let low = b[32 + 32 * part + at % 32] >> (2 * (at / 32)) & 3;
        let third = b[at % 32] >> (i / 32) & 1;
        let n = i / 16;
        let factor =
            packed[n % 8] >> (4 * (n / 8)) & 15 | (packed[8 + n % 4] >> (2 * (n / 4)) & 3) << 4;
        let factor = d * (f32::from(factor) - 32.0);
        to.push(factor * (f32::from(low | third << 2) - 4.0));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Block {
        kind: u32,
        bytes: String,
        elements: Vec<f32>,
    }

    fn decoded(kind: u32, bytes: &[u8]) -> Vec<f32> {
        let kind = Kind::of(kind).unwrap();
        let mut found = Vec::new();
        for block in bytes.chunks(kind.bytes) {
            match kind.form {
                Form::Floats(dtype) => {
                    found.push(0.0);
                    let last = found.len() - 1;
                    dtype.decode(block, &mut found[last..]);
                }
                Form::Blocks(decode) => decode(block, &mut found),
            }
            assert_eq!(found.len() % kind.elements, 0, "{}", kind.name);
        }
        found
    }

    /// Expected: llama.cpp's own package `gguf`.
    #[test]
    fn blocks_of_every_kind_become_floats() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/gguf/blocks.json"
        );
        let text = std::fs::read(path).unwrap();
        let blocks: HashMap<String, Block> = serde_json::from_slice(&text).unwrap();
        assert_eq!(blocks.len(), KINDS.len() - 1, "all but F64");
        for (name, block) in blocks {
            let digits = block.bytes.as_bytes().chunks(2);
            let byte = |two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
            let bytes: Vec<u8> = digits.map(byte).collect();
            let found = decoded(block.kind, &bytes);
            assert_eq!(Kind::of(block.kind).unwrap().name, name);
            assert_eq!(found.len(), block.elements.len(), "{name}");
            for (i, (found, expected)) in found.iter().zip(&block.elements).enumerate() {
                let far = (found - expected).abs();
                assert!(
                    far <= 1e-6 * expected.abs().max(1.0),
                    "{name} {i}: {found} {expected}"
                );
            }
        }
        assert_eq!(decoded(28, &2.5_f64.to_le_bytes()), [2.5]);
    }

    /// The eight factors of six bits are spread over twelve bytes.
    #[test]
    fn factors_of_eighths_are_unpacked() {
        let [one, half] = [1.0, 0.5].map(|x| f16::from_f32(x).to_le_bytes());
        let packed = [
            0x41, 0x82, 0xc3, 0xc4, 0x45, 0x86, 0xc7, 0xc8, 0x41, 0x52, 0x63, 0xcf,
        ];
        let block = [&one[..], &half, &packed, &[0x21; 128]].concat();
        for (eighth, expected) in decoded(12, &block)
            .chunks(32)
            .zip([-1.5, 1.0, -0.5, 4.0, 7.0, 49.5, 24.0, 96.0])
        {
            assert_eq!(eighth, [expected; 32]);
        }
    }

    #[test]
    fn low_halves_come_before_high_ones() {
        let two = f16::from_f32(2.0).to_le_bytes();
        let quants: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let found = decoded(2, &[&two[..], &quants].concat());
        assert_eq!(found[..3], [-16.0, -14.0, -12.0]);
        assert_eq!(found[16..19], [14.0, 12.0, 10.0]);
    }
}
