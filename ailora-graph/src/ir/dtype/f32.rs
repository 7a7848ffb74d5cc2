use super::{Element, read, write};

/// Single-precision floats.
pub struct F32;

impl Element for F32 {
    const NAME: &'static str = "f32";
    const FILE: &'static str = "F32";
    const KERNEL: &'static str = "float";
    const BYTES: usize = 4;
    const IS_FLOAT: bool = true;

    fn round(x: f64) -> f64 {
        f64::from(x as f32)
    }

    fn decode(from: &[u8], to: &mut [f32]) {
        read(from, to, f32::from_le_bytes);
    }

    fn encode(from: &[f32], to: &mut [u8]) {
        write(from, to, f32::to_le_bytes);
    }
}
