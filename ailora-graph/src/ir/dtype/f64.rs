use super::{Element, read, write};

/// Double-precision floats.
pub struct F64;

impl Element for F64 {
    const NAME: &'static str = "f64";
    const FILE: &'static str = "F64";
    const KERNEL: &'static str = "double";
    const BYTES: usize = 8;
    const IS_FLOAT: bool = true;

    fn round(x: f64) -> f64 {
        x
    }

    fn decode(from: &[u8], to: &mut [f32]) {
        read(from, to, |bytes| f64::from_le_bytes(bytes) as f32);
    }

    fn encode(from: &[f32], to: &mut [u8]) {
        write(from, to, |x| f64::from(x).to_le_bytes());
    }
}
