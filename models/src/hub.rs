//! Where a model is: a folder, this crate itself, Hugging Face's cache, or the hub.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use ailora_runtime::store::StoreError;
use hf_hub::{
    Cache, Repo,
    api::sync::{ApiBuilder, ApiError},
};
use thiserror::Error;

use crate::{
    embedded, tokenizer,
    weights::{self, WeightsError},
};

const CONFIG: &str = "config.json";
/// What a model without a tokenizer lacks.
const TOKENIZER: &str = "tokenizer.json";
/// Files that say which token is the padding.
const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// A model that cannot be found.
#[derive(Debug, Error)]
pub enum HubError {
    /// Neither a folder nor an id.
    #[error(
        "`{model}` is no folder here, and no id of the hub, which reads `name` or \
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
         {endpoint} failed: {source}; check the id and the network, or give the path of a folder",
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
        source: Box<ApiError>,
    },
    /// The model that is built in cannot be written to a folder.
    #[error(transparent)]
    Embedded(#[from] StoreError),
    /// The downloaded index of shards cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The folder of a model, given as such, as [`embedded::MODEL`], or as an id of the hub.
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
        }
    }

    /// The folder of a model, given as such or as an id; see [`resolve`].
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, model: &str) -> Result<PathBuf, HubError> {
        if Path::new(model).is_dir() {
            return Ok(model.into());
        }
        let model = model.to_owned();
        if !is_id(&model) {
            return Err(HubError::NotFound { model });
        }
        let Some(path) = self.cache.clone() else {
            return Err(HubError::NoHome { model });
        };
        let cache = Cache::new(path);
        match cached(&cache, &model) {
            Some(dir) if self.offline || has_tokenizer(&dir) => Ok(dir),
            _ if !self.offline => self.download(&cache, &model),
            _ => Err(HubError::Offline {
                model,
                cache: cache.path().clone(),
            }),
        }
    }

    fn download(&self, cache: &Cache, model: &str) -> Result<PathBuf, HubError> {
        let failed = |file: &str, source: ApiError| HubError::Download {
            model: model.to_owned(),
            cache: cache.path().clone(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            source: Box::new(source),
        };
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.clone())
            .build()
            .map_err(|error| failed("anything", error))?;
        let repo = api.repo(Repo::model(model.to_owned()));
        let info = repo
            .info()
            .map_err(|error| failed("the list of files", error))?;
        let has = |file: &str| {
            info.siblings
                .iter()
                .any(|sibling| sibling.rfilename == file)
        };
        let get = |file: &str| {
            if !has(file) {
                let (model, file) = (model.to_owned(), file.to_owned());
                return Err(HubError::NoFile { model, file });
            }
            repo.get(file).map_err(|error| failed(file, error))
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
        Ok(config.parent().unwrap_or(&config).to_owned())
    }
}

/// The folder of a cached model, if its configuration and all its weights are there.
fn cached(cache: &Cache, model: &str) -> Option<PathBuf> {
    let config = cache.repo(Repo::model(model.to_owned())).get(CONFIG)?;
    let dir = config.parent()?;
    weights::files(dir).ok()?;
    Some(dir.to_owned())
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
