//! Kernels as the device's compiler sees them, which needs no device.

use std::ffi::CString;

use cudarc::nvrtc::result;

use crate::{
    cuda::library::load_compiler,
    kernels::device::{PRELUDE, Source, Target},
};

/// Compiles each kernel for the generations of devices that may be the target, if there is a compiler.
pub(super) fn check<'a>(sources: impl IntoIterator<Item = &'a Source>, target: Target) {
    if let Err(error) = load_compiler() {
        println!("skipped: {error}");
        return;
    }
    let mut text = PRELUDE.to_owned();
    for (i, source) in sources.into_iter().enumerate() {
        text += &format!(
            "#define KERNEL kernel_{i}\nnamespace space_{i} {{\n{}}}\n#undef KERNEL\n",
            source.code
        );
    }
    let devices: &[&str] = match target.warpgroups {
        true => &["sm_90a"],
        false => &["sm_80", "sm_90"],
    };
    for device in devices {
        compile(&text, device);
    }
}

fn compile(text: &str, device: &str) {
    let code = CString::new(text).unwrap();
    let program = result::create_program(&code, None).unwrap();
    // That a variable goes unused is harmless.
    let options = [
        format!("--gpu-architecture={device}"),
        "--diag-suppress=177".to_owned(),
    ];
    // SAFETY: the program was just created and is destroyed last.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let log = result::get_program_log(program).unwrap();
        result::destroy_program(program).unwrap();
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
        let log = String::from_utf8_lossy(&log);
        let lines = text.lines().enumerate();
        let numbered = || lines.map(|(i, line)| format!("{:5} {line}\n", i + 1));
        assert!(compiled.is_ok(), "{}{log}", numbered().collect::<String>());
        let harmless = log.trim_end_matches('\0').trim().is_empty();
        assert!(harmless, "{log}");
    }
}
