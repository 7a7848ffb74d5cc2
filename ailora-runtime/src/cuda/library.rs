//! CUDA's libraries, where people have them: on the loader's path, in a toolkit, or beside Python.

use std::{
    env,
    path::{Path, PathBuf},
};

use cudarc::{cublas, cublaslt, cusolver, driver, nvrtc};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::CudaError;

/// The variable that names folders to look in first, separated by colons.
const FOLDERS: &str = "AILORA_CUDA_LIBRARIES";

/// Finds the libraries that running needs, once for the process.
///
/// # Errors
/// One of them is nowhere; the error says where it was looked for.
pub(super) fn load() -> Result<(), CudaError> {
    // SAFETY: loading these libraries runs no code but their own start.
    let libraries = unsafe {
        [
            ("libcuda", driver::sys::is_culib_present()),
            ("libnvrtc", nvrtc::sys::is_culib_present()),
            ("libcublasLt", cublaslt::sys::is_culib_present()),
            ("libcublas", cublas::sys::is_culib_present()),
        ]
    };
    libraries
        .into_iter()
        .try_for_each(|(name, present)| if present { Ok(()) } else { find(name) })
}

/// Finds the library of decompositions.
///
/// # Errors
/// As [`load`].
pub(super) fn load_solver() -> Result<(), CudaError> {
    // SAFETY: as above.
    if unsafe { cusolver::sys::is_culib_present() } {
        return Ok(());
    }
    // What it needs may be as hidden as itself.
    for name in ["libnvJitLink", "libcusparse"] {
        find(name).ok();
    }
    find("libcusolver")
}

/// Finds the compiler alone, which needs no device.
///
/// # Errors
/// As [`load`].
pub(super) fn load_compiler() -> Result<(), CudaError> {
    // SAFETY: as above.
    match unsafe { nvrtc::sys::is_culib_present() } {
        true => Ok(()),
        false => find("libnvrtc"),
    }
}

/// Loads a library by its file, after which it is found by its name, and before it what it looks for
/// by name itself.
fn find(name: &str) -> Result<(), CudaError> {
    if name == "libnvrtc" {
        find("libnvrtc-builtins").ok();
    }
    let folders = folders();
    let is_it = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = file.strip_prefix(name).and_then(|r| r.strip_prefix(".so"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for folder in &folders {
        let mut files: Vec<PathBuf> = entries(folder).filter(is_it).collect();
        files.sort();
        // The shortest name is a link to what is meant to be used.
        for file in files {
            // SAFETY: as above.
            if let Ok(library) = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) } {
                tracing::debug!(library = %file.display(), "found");
                // For the rest of the process.
                std::mem::forget(library);
                return Ok(());
            }
        }
    }
    let looked = folders.iter().map(|f| format!(" nor in {}", f.display()));
    Err(CudaError::Library {
        name: name.to_owned(),
        looked: looked.collect(),
    })
}

/// Folders that may hold CUDA's libraries, those that were named first.
fn folders() -> Vec<PathBuf> {
    let named = env::var_os(FOLDERS);
    let mut folders: Vec<PathBuf> = named.iter().flat_map(env::split_paths).collect();
    let homes = ["CUDA_HOME", "CUDA_PATH"].map(env::var_os);
    let homes = homes.into_iter().flatten().map(PathBuf::from);
    for home in homes.chain([PathBuf::from("/usr/local/cuda")]) {
        folders.extend(["lib64", "lib"].map(|lib| home.join(lib)));
    }
    folders.extend(python());
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The folders of NVIDIA's packages of the `python3` that would be run.
fn python() -> Vec<PathBuf> {
    let path = env::var_os("PATH");
    let active = env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin"));
    let bins = active
        .into_iter()
        .chain(path.iter().flat_map(env::split_paths));
    let homes = bins.filter(|bin| bin.join("python3").exists());
    let homes: Vec<PathBuf> = homes.filter_map(|bin| Some(bin.parent()?.into())).collect();
    let versions = homes.iter().flat_map(|home| entries(&home.join("lib")));
    let sites = versions.filter(|version| version.join("site-packages/nvidia").is_dir());
    sites
        .flat_map(|version| entries(&version.join("site-packages/nvidia")).collect::<Vec<_>>())
        .map(|package| package.join("lib"))
        .collect()
}

/// What is in a folder that can be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let read = std::fs::read_dir(folder).ok();
    let entries = read.into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
