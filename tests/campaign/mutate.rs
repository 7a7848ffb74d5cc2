//! Seeded changes of bytes and of text.
#![allow(dead_code, reason = "each campaign uses its part")]

/// SplitMix64 (Steele et al., 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Numbers at which readers go wrong.
pub const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    1 << 60,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// One to four changes of a file, most of them near its ends, where headers are.
pub fn bytes(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + random.below(4) {
        change(random, &mut bytes);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let len = bytes.len();
    let at = match random.below(10) {
        0..6 => random.below(len.min(1024)),
        6 | 7 => len - 1 - random.below(len.min(512)),
        _ => random.below(len),
    };
    let end = (at + 1 + random.below(64)).min(len);
    match random.below(10) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'.', b'(']),
        3 | 4 => {
            let number = random.pick(&NUMBERS).to_le_bytes();
            let width = *random.pick(&[4, 8]);
            for (byte, new) in bytes[at..].iter_mut().zip(&number[..width]) {
                *byte = *new;
            }
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..end)),
        7 => {
            let piece = bytes[at..end].to_vec();
            let times = *random.pick(&[1, 2, 300]);
            bytes.splice(at..at, piece.repeat(times));
        }
        8 => {
            let piece = bytes[at..end].to_vec();
            let to = random.below(len);
            for (byte, new) in bytes[to..].iter_mut().zip(piece) {
                *byte = new;
            }
        }
        _ => {
            let new = (0..1 + random.below(16)).map(|_| random.next() as u8);
            let new: Vec<u8> = new.collect();
            bytes.splice(at..at, new);
        }
    }
}

/// One to three changes of a text's lines and words, so that most of it is still what it was.
pub fn text(random: &mut Random, text: &str) -> String {
    if random.chance(25) {
        return String::from_utf8_lossy(&bytes(random, text.as_bytes())).into_owned();
    }
    const SEPARATORS: [char; 8] = [' ', '\t', '\n', ',', '(', ')', '=', '"'];
    let mut words: Vec<&str> = text.split_inclusive(SEPARATORS).collect();
    for _ in 0..1 + random.below(3) {
        if words.is_empty() {
            break;
        }
        let at = random.below(words.len());
        let other = random.below(words.len());
        match random.below(6) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[other]),
            2 => words.swap(at, other),
            3 => {
                words[at] = *random.pick(&[
                    "",
                    "-1",
                    "1e999",
                    "999999999999",
                    "NaN",
                    "\u{0}",
                    "é",
                    "\u{feff}",
                ])
            }
            4 => {
                words[at] = *random.pick(&[
                    "\"", "'", "{", "}", "(", ")", "\t", "\n", "\r\n", ",", "::", "<",
                ])
            }
            _ => {
                let word = words[at];
                words.splice(at..at, std::iter::repeat_n(word, 500));
            }
        }
    }
    words.concat()
}
