use super::{Element, read, write};

/// 32-bit integers.
pub struct I32;

impl Element for I32 {
    const NAME: &'static str = "i32";
    const FILE: &'static str = "I32";
    /// Moving ids as floats keeps their bits.
    const KERNEL: &'static str = "float";
    const BYTES: usize = 4;
    const IS_FLOAT: bool = false;

    fn round(x: f64) -> f64 {
        f64::from(x as i32)
    }

    fn decode(from: &[u8], to: &mut [f32]) {
        read(from, to, |bytes| i32::from_le_bytes(bytes) as f32);
    }

    fn encode(from: &[f32], to: &mut [u8]) {
        write(from, to, |x| (x as i32).to_le_bytes());
    }
}
