use half::f16;

use super::{Element, read, to_odd, write};

/// Half-precision floats.
pub struct F16;

impl Element for F16 {
    const NAME: &'static str = "f16";
    const FILE: &'static str = "F16";
    const KERNEL: &'static str = "half";
    const BYTES: usize = 2;
    const IS_FLOAT: bool = true;

    fn round(x: f64) -> f64 {
        f16::from_f32(to_odd(x)).to_f64()
    }

    fn decode(from: &[u8], to: &mut [f32]) {
        read(from, to, |bytes| f16::from_le_bytes(bytes).to_f32());
    }

    fn encode(from: &[f32], to: &mut [u8]) {
        write(from, to, |x| f16::from_f32(x).to_le_bytes());
    }
}
