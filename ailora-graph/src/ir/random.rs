//! Counter-based randomness: what an element draws depends on the seed, a name, the step and the
//! element's position, and on nothing else.

/// What fixes every random draw of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// The seed of the run.
    pub seed: u64,
    /// The number of the forward pass.
    pub step: u64,
}

/// The key of a stream of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Draw {
    /// The key of the stream called `name`.
    pub fn key(self, name: &str) -> Key {
        let named = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Key(mix64(mix64(self.seed ^ mix64(named)) ^ self.step))
    }
}

impl Key {
    /// The key as a number, for kernels that draw the same bits elsewhere.
    pub fn word(self) -> u64 {
        self.0
    }

    /// 32 random bits for position `index`.
    ///
    /// Two rounds of multiply and xor-shift over 32-bit lanes, so that a loop over it vectorises.
    #[inline(always)]
    pub fn bits(self, index: u32) -> u32 {
        let mut h = index.wrapping_mul(0x9e37_79b1).wrapping_add(self.0 as u32);
        h ^= h >> 16;
        h = h.wrapping_mul(0x85eb_ca6b);
        h ^= (self.0 >> 32) as u32;
        h ^= h >> 13;
        h = h.wrapping_mul(0xc2b2_ae35);
        h ^ (h >> 16)
    }

    /// A uniform number in `[0, 1)` with 53 random bits for position `index`.
    pub fn uniform(self, index: u64) -> f64 {
        (mix64(self.0 ^ mix64(index)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A standard normal number for position `index` (Box-Muller).
    pub fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }
}

/// The number of random words, of 2^32, below which an element is dropped at this rate.
pub fn drop_threshold(rate: f64) -> u32 {
    (rate * 4_294_967_296.0) as u32
}

/// The finaliser of splitmix64.
fn mix64(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_name_and_step_and_are_uniform() {
        let key = |seed, step, name: &str| Draw { seed, step }.key(name);
        let keys = [
            key(0, 0, "a"),
            key(0, 0, "b"),
            key(1, 0, "a"),
            key(0, 1, "a"),
        ];
        for (i, a) in keys.iter().enumerate() {
            let mean =
                (0..40_000).map(|n| f64::from(a.bits(n))).sum::<f64>() / 40_000.0 / 2f64.powi(32);
            assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
            let dropped = (0..40_000)
                .filter(|&n| a.bits(n) < drop_threshold(0.1))
                .count();
            assert!(
                (3_700..4_300).contains(&dropped),
                "{dropped} of 40000 dropped at 0.1"
            );
            for b in &keys[..i] {
                let same = (0..40_000)
                    .filter(|&n| (a.bits(n) < 1 << 31) == (b.bits(n) < 1 << 31))
                    .count();
                assert!(
                    (19_300..20_700).contains(&same),
                    "{same} of 40000 signs agree"
                );
            }
        }
    }

    #[test]
    fn normals_have_unit_variance() {
        let key = Draw::default().key("w");
        let draws: Vec<f64> = (0..20_000).map(|i| key.normal(i)).collect();
        let mean = draws.iter().sum::<f64>() / 2e4;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e4;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04,
            "{mean} {variance}"
        );
    }
}
