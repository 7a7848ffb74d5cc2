use half::bf16;

use super::{Element, read, to_odd, write};

/// The upper half of a single-precision float (bfloat16).
pub struct Bf16;

impl Element for Bf16 {
    const NAME: &'static str = "bf16";
    const FILE: &'static str = "BF16";
    const KERNEL: &'static str = "bf16";
    const BYTES: usize = 2;
    const IS_FLOAT: bool = true;

    fn round(x: f64) -> f64 {
        bf16::from_f32(to_odd(x)).to_f64()
    }

    fn decode(from: &[u8], to: &mut [f32]) {
        read(from, to, |bytes| {
            f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
        });
    }

    fn encode(from: &[f32], to: &mut [u8]) {
        write(from, to, |x| bf16::from_f32(x).to_le_bytes());
    }
}
