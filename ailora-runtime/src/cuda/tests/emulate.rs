//! Kernels as functions of the host, by its C++ compiler.

use std::{ffi::c_void, process::Command};

use libloading::{Library, Symbol};
use tempfile::TempDir;

use crate::kernels::device::{PRELUDE, Source};

/// What a device gives to kernels.
const DEVICE: &str = include_str!("device.h");

/// Compiled kernels.
pub(in crate::cuda) struct Kernels {
    library: Library,
    _folder: TempDir,
}

type Launch = unsafe extern "C" fn(*const *mut c_void, *const u32, u32) -> i32;

impl Kernels {
    /// Compiles kernels, if there is a compiler.
    pub fn new(sources: &[&Source]) -> Option<Self> {
        if Command::new("g++").arg("--version").output().is_err() {
            println!("skipped: there is no g++");
            return None;
        }
        let mut text = format!("{DEVICE}\n{PRELUDE}");
        for (i, source) in sources.iter().enumerate() {
            text += &format!(
                "#define KERNEL kernel_{i}\nnamespace space_{i} {{\n{}}}\n#undef KERNEL\n\
                 extern \"C\" int launch_{i}(void** p, const unsigned* grid, unsigned block) {{\n    \
                 return launch(space_{i}::kernel_{i}, p, grid, block);\n}}\n",
                source.code
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let [code, library] = ["kernels.cpp", "kernels.so"].map(|name| folder.path().join(name));
        std::fs::write(&code, &text).unwrap();
        let compiled = Command::new("g++")
            .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-w"])
            .args(["-fno-strict-aliasing", "-ffp-contract=off"])
            .args([&code, std::path::Path::new("-o"), &library])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{errors}");
        // SAFETY: it holds nothing but the kernels.
        let library = unsafe { Library::new(library) }.unwrap();
        Some(Self {
            library,
            _folder: folder,
        })
    }

    /// Executes kernel `i` on what its parameters point to.
    pub fn launch(&self, i: usize, source: &Source, arguments: &[*mut u8]) {
        let name = format!("launch_{i}");
        // SAFETY: the function is of this type, and the caller's memory is as large as the kernel
        // was told.
        let failed = unsafe {
            let launch: Symbol<Launch> = self.library.get(name.as_bytes()).unwrap();
            launch(
                arguments.as_ptr().cast(),
                source.grid.as_ptr(),
                source.block,
            )
        };
        assert_eq!(failed, 0, "threads wait for each other:\n{}", source.code);
    }
}
