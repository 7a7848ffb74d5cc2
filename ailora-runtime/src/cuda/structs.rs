//! Structs that the host and kernels share.

/// Declares structs for both sides: as they are here, and `STRUCTS`, the same for the kernels.
macro_rules! shared_structs {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$doc:meta])* $field:ident: $ty:ident,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Pod, Zeroable)]
            #[repr(C)]
            struct $name { $($(#[$doc])* $field: $ty,)* }
        )*
        const STRUCTS: &str = concat!($(
            "struct ", stringify!($name), " {\n",
            $("    ", c_type!($ty), " ", stringify!($field), ";\n",)*
            "};\n",
        )*);
    };
}

/// What a type is in a kernel.
macro_rules! c_type {
    (CUdeviceptr) => {
        "void*"
    };
    (u32) => {
        "u32"
    };
    (u64) => {
        "u64"
    };
    (f32) => {
        "float"
    };
    (f64) => {
        "double"
    };
}
