//! Where a model is: a folder or a GGUF file, this crate itself, Hugging Face's cache, or the hub.
//!
//! What a hub answers is not trusted: it names no path outside the cache, sends no more than it
//! announces, and is not waited for without end. A file is in the cache whole or not at all.

mod cache;
mod client;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use self::{cache::Repository, client::Client};
use crate::{
    embedded::{self, EmbeddedError},
    gguf, tokenizer,
    weights::{self, WeightsError},
};

const CONFIG: &str = "config.json";
/// How long a hub may be silent, where nothing says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a model without a tokenizer lacks.
const TOKENIZER: &str = "tokenizer.json";
/// Files that say more of a tokenizer, and how to generate.
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// A model that cannot be found.
#[derive(Debug, Error)]
pub enum HubError {
    /// Neither a folder nor an id.
    #[error(
        "`{model}` is no folder or GGUF file here, and no id of the hub, which reads `name` or \
         `organisation/name`; check the path"
    )]
    NotFound {
        /// What was given.
        model: String,
    },
    /// No environment variable says where the cache is.
    #[error(
        "`{model}` is no folder here, and there is no home directory to look for a cached \
             model of that id in; set HF_HOME"
    )]
    NoHome {
        /// What was given.
        model: String,
    },
    /// The model is not in the cache, and the hub is not to be asked.
    #[error(
        "`{model}` is no folder here and not complete in the cache {}, and HF_HUB_OFFLINE is set; \
         download it with `hf download {model}`, unset HF_HUB_OFFLINE, or give the path of a folder",
        cache.display()
    )]
    Offline {
        /// What was given.
        model: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub's repository lacks a file.
    #[error("`{model}` has no {file} on the hub; give a model that has it")]
    NoFile {
        /// The id.
        model: String,
        /// The file.
        file: String,
    },
    /// The download failed.
    #[error(
        "`{model}` is no folder here and not complete in the cache {}, and downloading {file} from \
         {endpoint} failed: {cause}; check the id and the network, or give the path of a folder",
        cache.display()
    )]
    Download {
        /// What was given.
        model: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What was downloaded.
        file: String,
        /// The hub.
        endpoint: String,
        /// What went wrong.
        cause: Box<str>,
    },
    /// The model that is built in cannot be had.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The downloaded index of shards cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The folder or GGUF file of a model, given as such, as [`embedded::MODEL`], or as an id of the hub.
///
/// An id is looked up in the cache that `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` or `HF_HOME` name,
/// and downloaded to it from `HF_ENDPOINT` unless `HF_HUB_OFFLINE` is set.
///
/// # Errors
/// There is no such folder, and the model is neither cached nor can it be downloaded.
pub fn resolve(model: &str) -> Result<PathBuf, HubError> {
    if model == embedded::MODEL && !Path::new(model).is_dir() {
        return Ok(embedded::model()?);
    }
    Hub::from_vars(|name| std::env::var_os(name)).resolve(model)
}

/// Where ids are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// The cache's folder, where one is known.
    pub cache: Option<PathBuf>,
    /// The hub's address.
    pub endpoint: String,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// How long the hub may be silent.
    pub patience: Duration,
}

impl Hub {
    /// The cache and the hub that these environment variables describe, by the rules of Hugging
    /// Face's own library.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let folder = |name| set(name).map(PathBuf::from);
        let caches = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        let home = || folder("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
        let yes = |value: OsString| {
            let value = value.to_string_lossy().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&&*value)
        };
        Self {
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .or_else(|| Some(home()?.join("hub"))),
            endpoint: set("HF_ENDPOINT").map_or_else(
                || "https://huggingface.co".into(),
                |endpoint| endpoint.to_string_lossy().into_owned(),
            ),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            patience: set("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|seconds| seconds.to_str()?.parse().ok())
                .filter(|&seconds| seconds > 0)
                .map_or(PATIENCE, Duration::from_secs),
        }
    }

    /// The folder of a model, given as such or as an id; see [`resolve`].
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, model: &str) -> Result<PathBuf, HubError> {
        let path = Path::new(model);
        if path.is_dir() || gguf::is_gguf(path) && path.is_file() {
            return Ok(model.into());
        }
        let model = model.to_owned();
        if gguf::is_gguf(path) || !is_id(&model) {
            return Err(HubError::NotFound { model });
        }
        let Some(cache) = &self.cache else {
            return Err(HubError::NoHome { model });
        };
        let repository = Repository::new(cache, &model);
        match cached(&repository) {
            Some(dir) if self.offline || has_tokenizer(&dir) => Ok(dir),
            _ if !self.offline => self.download(cache, &repository, &model),
            _ => Err(HubError::Offline {
                model,
                cache: cache.clone(),
            }),
        }
    }

    fn download(
        &self,
        cache: &Path,
        repository: &Repository,
        model: &str,
    ) -> Result<PathBuf, HubError> {
        let failed = |file: &str, cause: String| HubError::Download {
            model: model.to_owned(),
            cache: cache.to_owned(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            cause: cause.into(),
        };
        let client = Client::new(&self.endpoint, self.patience, cache::token(cache));
        tracing::info!("asking {} for the files of {model}", self.endpoint);
        let list = client
            .files(model)
            .map_err(|cause| failed("the list of files", cause))?;
        let has = |file: &str| list.names.contains(file);
        let get = |file: &str| {
            if !has(file) {
                let (model, file) = (model.to_owned(), file.to_owned());
                return Err(HubError::NoFile { model, file });
            }
            let found = client.file(model, file, &list.commit);
            found
                .and_then(|found| repository.store(&list.commit, file, found))
                .map_err(|cause| failed(file, cause))
        };
        let config = get(CONFIG)?;
        for file in tokenizer::files(has).unwrap_or(&[TOKENIZER]) {
            get(file)?;
        }
        for file in OPTIONAL.into_iter().filter(|file| has(file)) {
            get(file)?;
        }
        // Where there are no weights, the error names the file that most models have.
        let found = weights::NAMES.into_iter().find(|name| has(name));
        let found = get(found.unwrap_or(weights::NAMES[0]))?;
        if weights::is_index(&found) {
            for shard in weights::shards(&found)? {
                get(&shard)?;
            }
        }
        let finished = repository.finish(&list.commit);
        finished.map_err(|cause| failed("its commit", cause))?;
        Ok(config.parent().unwrap_or(&config).to_owned())
    }
}

/// The folder of a cached model, if its configuration and all its weights are there.
fn cached(repository: &Repository) -> Option<PathBuf> {
    let dir = repository.snapshot()?;
    if !dir.join(CONFIG).is_file() {
        return None;
    }
    weights::files(&dir).ok()?;
    Some(dir)
}

fn has_tokenizer(dir: &Path) -> bool {
    tokenizer::files(|file| dir.join(file).is_file()).is_some()
}

/// Whether `model` is one or two names of letters, digits, `-`, `_` and `.`, with `/` between them.
fn is_id(model: &str) -> bool {
    let name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        name.chars().all(plain) && name.contains(|c: char| c.is_ascii_alphanumeric())
    };
    match model.split_once('/') {
        Some((organisation, model)) => name(organisation) && name(model),
        None => name(model),
    }
}
