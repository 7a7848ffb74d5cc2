//! The types of elements, one file each: how wide they are, how files and kernels call them, their value.

mod bf16;
mod f16;
mod f32;
mod f64;
mod i32;

use std::fmt;

/// One type of elements.
///
/// A new type is a file here with an implementation of this, and a line in the list below. It is then read
/// from files and kept as it lies there; a program's leaf of another type gets it converted on the way.
pub trait Element {
    /// As programs print it.
    const NAME: &'static str;
    /// As safetensors files call it.
    const FILE: &'static str;
    /// As kernels on a device call what they load and store.
    const KERNEL: &'static str;
    /// Bytes of one.
    const BYTES: usize;
    /// Whether they are numbers that are computed with, not ids.
    const IS_FLOAT: bool;

    /// The nearest value that one can have.
    fn round(x: f64) -> f64;

    /// Little-endian elements in float32, to as many numbers.
    fn decode(from: &[u8], to: &mut [f32]);

    /// The nearest elements, little-endian, to as many bytes as they take.
    fn encode(from: &[f32], to: &mut [u8]);
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $file:ident::$name:ident,)*) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $($(#[$doc])* $name,)*
        }

        impl DType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As programs print it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $file::$name::NAME,)* }
            }

            /// As safetensors files call it.
            pub fn file_name(self) -> &'static str {
                match self { $(Self::$name => $file::$name::FILE,)* }
            }

            /// As kernels on a device call what they load and store.
            pub fn kernel_name(self) -> &'static str {
                match self { $(Self::$name => $file::$name::KERNEL,)* }
            }

            /// Bytes of one element.
            pub fn bytes(self) -> usize {
                match self { $(Self::$name => $file::$name::BYTES,)* }
            }

            /// Whether its elements are numbers that are computed with, not ids.
            pub fn is_float(self) -> bool {
                match self { $(Self::$name => $file::$name::IS_FLOAT,)* }
            }

            /// The nearest value that an element can have.
            pub fn round(self, x: f64) -> f64 {
                match self { $(Self::$name => $file::$name::round(x),)* }
            }

            /// Little-endian elements in float32, to as many numbers.
            ///
            /// # Panics
            /// If there are not as many.
            pub fn decode(self, from: &[u8], to: &mut [f32]) {
                assert_eq!(from.len(), to.len() * self.bytes(), "elements to decode");
                match self { $(Self::$name => $file::$name::decode(from, to),)* }
            }

            /// The nearest elements, little-endian, to as many bytes as they take.
            ///
            /// # Panics
            /// If there are not as many.
            pub fn encode(self, from: &[f32], to: &mut [u8]) {
                assert_eq!(to.len(), from.len() * self.bytes(), "elements to encode");
                match self { $(Self::$name => $file::$name::encode(from, to),)* }
            }
        }
    };
}

dtypes! {
    /// Single-precision floats: all arithmetic, adapters, gradients and the optimiser's state.
    f32::F32,
    /// The upper half of a single-precision float.
    bf16::Bf16,
    /// Half-precision floats.
    f16::F16,
    /// Double-precision floats, which only files have.
    f64::F64,
    /// 32-bit integers: token, type, position and class ids.
    i32::I32,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number in float32 or, where it has none, its neighbour there with an odd last bit: what is rounded to fewer
/// bits afterwards is rounded as the number itself, also beside a tie. The crate half forgets the low bits.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let bits = near.to_bits();
    if f64::from(near) == x || !near.is_finite() || bits % 2 == 1 {
        return near;
    }
    let is_beyond = f64::from(near.abs()) > x.abs();
    f32::from_bits(if is_beyond { bits - 1 } else { bits + 1 })
}

/// `f` of each element of `N` bytes.
fn read<const N: usize>(from: &[u8], to: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (to, from) in to.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = f(*from);
    }
}

/// Each number as an element of `N` bytes.
fn write<const N: usize>(from: &[f32], to: &mut [u8], f: impl Fn(f32) -> [u8; N]) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from) {
        *to = f(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values on both sides of ties, subnormal, infinite, and too large for some.
    const VALUES: [f32; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.003_906_2,
        1.011_718_8,
        3.140_625,
        1e-7,
        -65_519.0,
        65_520.0,
        1e38,
        f32::INFINITY,
        2.0,
    ];

    #[test]
    fn elements_are_the_rounded_values_and_stay_what_they_are() {
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_float()) {
            let mut bytes = vec![0; VALUES.len() * dtype.bytes()];
            dtype.encode(&VALUES, &mut bytes);
            let mut found = [f32::NAN; VALUES.len()];
            dtype.decode(&bytes, &mut found);
            for (x, found) in VALUES.iter().zip(found) {
                let expected = dtype.round(f64::from(*x)) as f32;
                assert_eq!(found.to_bits(), expected.to_bits(), "{dtype} of {x}");
            }
            let mut again = vec![0; bytes.len()];
            dtype.encode(&found, &mut again);
            assert_eq!(again, bytes, "{dtype}");
            dtype.encode(&[f32::NAN; VALUES.len()], &mut bytes);
            dtype.decode(&bytes, &mut found);
            assert!(found.iter().all(|x| x.is_nan()), "{dtype} loses NaN");
        }
    }

    /// Bits and ties as IEEE 754 and the definition of bfloat16 have them.
    #[test]
    fn ties_go_to_even_elements() {
        let halfway = 1.0 + 2f64.powi(-8);
        assert_eq!(DType::Bf16.round(halfway), 1.0);
        assert_eq!(
            DType::Bf16.round(halfway + 2f64.powi(-7)),
            1.0 + 2f64.powi(-6)
        );
        assert_eq!(DType::F16.round(1.0 + 2f64.powi(-11)), 1.0);
        assert_eq!(DType::F16.round(65_520.0), f64::INFINITY);
        // Beside a tie, in bits that float32 has and in bits that it has not.
        for (dtype, ulp) in [(DType::Bf16, 2f64.powi(-7)), (DType::F16, 2f64.powi(-10))] {
            for little in [2f64.powi(-23), 2f64.powi(-40)] {
                for x in [1.0 + 0.5 * ulp + little, 1.0 + 1.5 * ulp - little] {
                    assert_eq!(dtype.round(x), 1.0 + ulp, "{dtype} {little}");
                    assert_eq!(dtype.round(-x), -1.0 - ulp, "{dtype} {little}");
                }
            }
            assert_eq!(dtype.round(-1e-300).to_bits(), (-0.0_f64).to_bits());
        }
        let mut bytes = [0; 2];
        DType::Bf16.encode(&[-1.5], &mut bytes);
        assert_eq!(bytes, [0xc0, 0xbf]);
        DType::F16.encode(&[-1.5], &mut bytes);
        assert_eq!(bytes, [0x00, 0xbe]);
    }

    #[test]
    fn names_are_those_of_one_type_each() {
        for (i, a) in DType::ALL.iter().enumerate() {
            for b in &DType::ALL[..i] {
                assert_ne!(a.name(), b.name());
                assert_ne!(a.file_name(), b.file_name());
            }
        }
    }
}
