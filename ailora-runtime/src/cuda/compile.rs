//! From a kernel's text to machine code, kept on disk.

use std::{
    ffi::{CString, c_char},
    path::PathBuf,
};

use cudarc::nvrtc::{result as nvrtc, sys};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{CudaError, kept, library};
use crate::kernels::device::PRELUDE;

/// The compiler for one architecture.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    arch: String,
    /// Where machine code is kept, named by its kernel's text and the compiler's version.
    folder: Option<PathBuf>,
}

/// The entry point that a kernel's text defines.
pub(super) const ENTRY: &str = "KERNEL";

impl Compiler {
    /// For an architecture such as `sm_80`. Code is kept in `folder`.
    ///
    /// # Errors
    /// The compiler is missing.
    pub fn new(arch: String, folder: Option<PathBuf>) -> Result<Self, CudaError> {
        library::load_compiler()?;
        Ok(Self { arch, folder })
    }

    /// The machine code of kernels, in their order.
    ///
    /// # Errors
    /// One of them does not compile. That code cannot be kept is no error.
    pub fn compile(&self, kernels: &[&str]) -> Result<Vec<Vec<u8>>, CudaError> {
        kernels.par_iter().map(|code| self.one(code)).collect()
    }

    fn one(&self, code: &str) -> Result<Vec<u8>, CudaError> {
        let file = self.folder.as_ref().map(|folder| {
            let mut hash = Sha256::new();
            for part in [FORMAT, &self.arch, &version(), PRELUDE, code] {
                hash.update(part.as_bytes());
                hash.update([0]);
            }
            let name: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            folder.join(name).with_extension("cubin")
        });
        if let Some(known) = file.as_deref().and_then(kept::read) {
            return Ok(known);
        }
        let binary = self.fresh(code)?;
        if let Some(file) = file
            && let Err(error) = kept::write(&file, &binary)
        {
            tracing::debug!(%error, "machine code is not kept");
        }
        Ok(binary)
    }

    fn fresh(&self, code: &str) -> Result<Vec<u8>, CudaError> {
        let failed = |log: String| CudaError::Compile {
            arch: self.arch.clone(),
            log,
            code: code.to_owned(),
        };
        let whole = CString::new([PRELUDE, code].concat()).map_err(|e| failed(e.to_string()))?;
        let program = nvrtc::create_program(&whole, Some(c"kernel.cu"))
            .map(Program)
            .map_err(|e| failed(e.to_string()))?;
        let options = [
            format!("--gpu-architecture={}", self.arch),
            "--std=c++17".to_owned(),
            "--device-as-default-execution-space".to_owned(),
        ];
        // SAFETY: the program is alive.
        if let Err(error) = unsafe { nvrtc::compile_program(program.0, &options) } {
            // SAFETY: as above.
            let log = unsafe { nvrtc::get_program_log(program.0) }.unwrap_or_default();
            let log: Vec<u8> = log
                .into_iter()
                .map(|c| c as u8)
                .filter(|c| *c != 0)
                .collect();
            let log = String::from_utf8_lossy(&log);
            return Err(failed(format!("{error}: {log}")));
        }
        let mut binary = Vec::new();
        // SAFETY: the buffer is as long as the compiler says.
        unsafe {
            let mut bytes = 0;
            let found = sys::nvrtcGetCUBINSize(program.0, &mut bytes).result();
            found.map_err(|e| failed(e.to_string()))?;
            binary.resize(bytes, 0_u8);
            let found = sys::nvrtcGetCUBIN(program.0, binary.as_mut_ptr().cast::<c_char>());
            found.result().map_err(|e| failed(e.to_string()))?;
        }
        Ok(binary)
    }
}

/// Part of every kept file's name: raised when what is in them changes.
const FORMAT: &str = "2";

/// A program of the compiler.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created once, and used no more.
        unsafe { nvrtc::destroy_program(self.0) }.ok();
    }
}

/// The compiler's version.
fn version() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written.
    let known = unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result();
    known.map_or_else(|_| String::new(), |()| format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(compiler) = Compiler::new("sm_90".to_owned(), Some(folder.path().into())) else {
            println!("skipped: there is no compiler");
            return;
        };
        let code = "extern \"C\" __global__ void KERNEL(float* x) { x[0] = 3.0f; }";
        let compile = || compiler.compile(&[code]).unwrap();
        let fresh = compile();
        let files = std::fs::read_dir(folder.path()).unwrap();
        let [file] = &files.map(|file| file.unwrap().path()).collect::<Vec<_>>()[..] else {
            panic!("one kernel, one file");
        };
        let kept = std::fs::read(file).unwrap();
        let mut spoilt = kept.clone();
        spoilt[kept.len() / 2] ^= 1;
        for damage in [&[][..], &kept[..kept.len() / 3], &spoilt] {
            std::fs::write(file, damage).unwrap();
            assert_eq!(compile(), fresh);
            assert_eq!(std::fs::read(file).unwrap(), kept);
        }
    }

    #[test]
    fn a_kernel_that_does_not_compile_is_shown_with_why() {
        let Ok(compiler) = Compiler::new("sm_80".to_owned(), None) else {
            println!("skipped: there is no compiler");
            return;
        };
        let good = "extern \"C\" __global__ void KERNEL(float* x) { x[0] = 1.0f; }";
        let bad = good.replace("1.0f", "unheard_of");
        assert!(!compiler.compile(&[good]).unwrap().concat().is_empty());
        let error = compiler.compile(&[good, &bad]).unwrap_err().to_string();
        for part in [
            "did not compile for sm_80",
            "\"unheard_of\" is undefined",
            &bad,
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
