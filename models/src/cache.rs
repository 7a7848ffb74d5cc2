//! The user's cache folder.

#[cfg(unix)]
use std::sync::OnceLock;
use std::{
    fs::DirBuilder,
    io,
    path::{Path, PathBuf},
    sync::Once,
};

use ailora_runtime::store::StoreError;

/// Where is kept what takes long to compute or to fetch: `AILORA_CACHE`, or the user's cache folder.
/// It is there, is the user's own, and nobody else can write to it; where that cannot be had,
/// nothing is kept, and why is logged once.
pub fn folder() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = variable("AILORA_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("ailora")))
        .or_else(|| Some(variable("HOME")?.join(".cache/ailora")))?;
    match private(&folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            SAID.call_once(|| tracing::warn!("nothing is kept: {error}"));
            None
        }
    }
}

/// Makes a folder that is the user's own, or checks that it is one.
///
/// # Errors
/// It cannot be made, is another user's, or others can write to it.
pub(crate) fn private(folder: &Path) -> Result<(), StoreError> {
    let failed = |action, source| StoreError::Io {
        path: folder.to_owned(),
        action,
        source,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|source| failed("create the folder", source))?;
    let found = std::fs::metadata(folder);
    let found = found.map_err(|source| failed("look at the folder", source))?;
    let refused = |why: String| failed("use it as a cache", io::Error::other(why));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let own = user().map_err(|source| failed("find out whose it is", source))?;
        if found.uid() != own {
            let why = "it is another user's, who could change what is read from it; set \
                       AILORA_CACHE to a folder of your own";
            return Err(refused(why.into()));
        }
        if found.mode() & 0o022 != 0 {
            return Err(refused(format!(
                "others can write to it, and change what is read from it; run `chmod go-w {}`, or \
                 set AILORA_CACHE to a folder of your own",
                folder.display()
            )));
        }
    }
    match found.is_dir() {
        true => Ok(()),
        false => Err(refused("it is no folder".into())),
    }
}

/// The number of the user whose files this process makes.
#[cfg(unix)]
fn user() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    static USER: OnceLock<u32> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Ok(*user);
    }
    let user = tempfile::tempfile()?.metadata()?.uid();
    Ok(*USER.get_or_init(|| user))
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown},
    };

    use super::*;

    #[test]
    fn a_cache_is_ones_own_or_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        private(&folder).unwrap();
        let mode = |folder: &Path| fs::metadata(folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for (mode, fits) in [(0o755, true), (0o775, false), (0o702, false), (0o500, true)] {
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            let found = private(&folder).map_err(|error| error.to_string());
            assert_eq!(found.is_ok(), fits, "{mode:o}");
            if let Err(error) = found {
                let command = format!("chmod go-w {}", folder.display());
                assert!(error.contains(&command), "{error}");
            }
        }
        // Only root can give a folder away.
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        if chown(&folder, Some(4321), None).is_ok() {
            let error = private(&folder).unwrap_err().to_string();
            assert!(error.contains("another user's"), "{error}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(private(&file).is_err());
    }
}
