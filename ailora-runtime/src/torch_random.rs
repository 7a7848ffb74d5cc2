//! Random numbers as PyTorch draws them on a CPU, bit for bit: what other programs regenerate from a seed
//! instead of saving it.
//!
//! The generator is the 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), of which a float32 takes
//! the lower 24 bits of one output.

/// Words of state.
const WORDS: usize = 624;
/// How far ahead of a word the one lies that it is mixed with.
const SHIFT: usize = 397;

/// `torch.Generator("cpu").manual_seed(seed)`, or the global generator after `torch.manual_seed(seed)`.
#[derive(Clone, Debug)]
pub struct TorchRandom {
    words: [u32; WORDS],
    next: usize,
}

impl TorchRandom {
    /// Starts from a seed, of which PyTorch takes the lower 32 bits.
    pub fn new(seed: u64) -> Self {
        let mut words = [seed as u32; WORDS];
        for i in 1..WORDS {
            let last = words[i - 1];
            words[i] = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { words, next: WORDS }
    }

    /// The next output of the generator.
    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let y = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + SHIFT) % WORDS] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next element of `torch.rand(n)`: a multiple of 2^-24 in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.word() & 0xff_ffff) as f32 / 16_777_216.0
    }

    /// The next element of `torch.empty(n).uniform_(from, to)`, whose product and sum PyTorch rounds once.
    pub fn uniform(&mut self, from: f64, to: f64) -> f32 {
        let (from, to) = (from as f32, to as f32);
        self.unit().mul_add(to - from, from)
    }

    /// The next element of `torch.bernoulli(torch.full((n,), probability))`, with probabilities in float32.
    /// `torch.empty(n).bernoulli_(probability)` draws others.
    pub fn bernoulli(&mut self, probability: f64) -> bool {
        self.unit() < probability as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C++ standard's check of its `mt19937`: the ten thousandth output of seed 5489.
    #[test]
    fn the_generator_is_the_mersenne_twister() {
        let mut random = TorchRandom::new(5489);
        let words: Vec<u32> = (0..10_000).map(|_| random.word()).collect();
        assert_eq!([words[0], words[9_999]], [3_499_211_612, 4_123_659_995]);
        let mut wide = TorchRandom::new((7 << 32) + 5489);
        assert_eq!(wide.word(), words[0], "of a seed 32 bits count");
    }

    /// The sum of all bits, each number's times its place, so that order counts.
    fn digest(bits: impl Iterator<Item = u32>) -> u64 {
        let places = (1_u64..).zip(bits);
        places.fold(0, |sum, (i, bits)| {
            sum.wrapping_add(i.wrapping_mul(u64::from(bits)))
        })
    }

    /// From PyTorch 2.15: `torch.empty(n).uniform_(-0.31, 0.8, generator=g)` with `g` of seed 7.
    #[test]
    fn uniform_numbers_are_pytorchs_to_the_bit() {
        for (n, last, sum) in UNIFORM {
            let mut random = TorchRandom::new(7);
            let numbers: Vec<u32> = (0..n)
                .map(|_| random.uniform(-0.31, 0.8).to_bits())
                .collect();
            assert_eq!(numbers[n - 1], last, "{n}");
            assert_eq!(digest(numbers.into_iter()), sum, "{n}");
        }
    }

    /// From PyTorch 2.15: `torch.manual_seed(3); torch.bernoulli(torch.full((n,), 0.3))`.
    #[test]
    fn bernoulli_draws_are_pytorchs() {
        for (n, ones, sum) in BERNOULLI {
            let mut random = TorchRandom::new(3);
            let draws: Vec<bool> = (0..n).map(|_| random.bernoulli(0.3)).collect();
            assert_eq!(draws.iter().filter(|one| **one).count(), ones, "{n}");
            assert_eq!(digest(draws.into_iter().map(u32::from)), sum, "{n}");
        }
    }

    const UNIFORM: [(usize, u32, u64); 5] = [
        (1, 0x3e914985, 1_049_708_933),
        (15, 0x3e3c77a1, 185_106_249_303),
        (16, 0x3db5e0a9, 201_671_524_583),
        (17, 0x3efaafc6, 219_634_003_213),
        (1000, 0x3f4728d5, 818_137_118_971_293),
    ];
    const BERNOULLI: [(usize, usize, u64); 5] = [
        (1, 1, 1),
        (15, 7, 44),
        (16, 7, 44),
        (17, 8, 61),
        (1000, 311, 150_115),
    ];
}
