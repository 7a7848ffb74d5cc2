use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Identity, SettingsError, hash::hex, yaml};

/// What the file is called.
pub(crate) const NAME: &str = "run.json";

/// Settings that a resumed run may change: where a run ends and what it leaves is no part of what a
/// step computes, and files are compared by what is in them.
const FREE: [&str; 17] = [
    "checkpoint_every",
    "data",
    "dataset.test",
    "dataset.train",
    "dataset.valid",
    "epochs",
    "evaluate_every",
    "from",
    "half",
    "headline",
    "keep",
    "max_steps",
    "model",
    "patience",
    "strict",
    "train",
    "valid",
];

/// What a run was made of: enough to make it again, and to know whether another is the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// The version of this crate.
    pub version: String,
    /// Everything that was set.
    pub settings: Value,
    /// The hashes of the base model's `weights`, and of its other files by name; none where there is
    /// no base.
    pub base_sha256: IndexMap<String, String>,
    /// The hash of each data file.
    pub data_sha256: IndexMap<String, String>,
    /// Threads, which the last bits of sums may depend on.
    pub threads: usize,
    /// One hash of all of the above that has to stay as it is.
    pub fingerprint: String,
}

impl Manifest {
    /// The manifest of a run.
    pub fn new(identity: &Identity) -> Self {
        let mut manifest = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            settings: identity.settings.clone(),
            base_sha256: identity.base.clone(),
            data_sha256: identity.data.clone(),
            threads: rayon::current_num_threads(),
            fingerprint: String::new(),
        };
        manifest.fingerprint = fingerprint(&manifest.json());
        manifest
    }

    fn json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(json)) => json,
            _ => Map::new(),
        }
    }

    /// In which of the things that have to stay as they are this run is another than the recorded
    /// one, for people.
    pub(crate) fn changes(&self, record: &Record) -> Vec<String> {
        let (mut old, new) = (fixed(&record.json), fixed(&self.json()));
        let mut changes = Vec::new();
        for (name, now) in &new {
            let was = old.shift_remove(name);
            if was.as_ref() != Some(now) {
                changes.push(change(name, was.as_ref(), Some(now)));
            }
        }
        let gone = old.iter().map(|(name, was)| change(name, Some(was), None));
        changes.extend(gone);
        changes
    }
}

/// What has to stay as it is, by dotted name.
fn fixed(manifest: &Map<String, Value>) -> IndexMap<String, Value> {
    let mut fields = IndexMap::new();
    for (name, value) in manifest {
        if name != "threads" && name != "fingerprint" {
            flatten(name, value, &mut fields);
        }
    }
    fields.retain(|name, _| {
        let setting = name.strip_prefix("settings.");
        !setting.is_some_and(|name| FREE.contains(&name))
    });
    fields
}

/// One hash of what has to stay as it is.
fn fingerprint(manifest: &Map<String, Value>) -> String {
    let fields: Vec<_> = fixed(manifest).into_iter().collect();
    let fields = serde_json::to_vec(&fields).unwrap_or_default();
    hex(&Sha256::digest(&fields)[..16])
}

/// The values within a value. What is null is not there, as with settings that are not written.
fn flatten(name: &str, value: &Value, into: &mut IndexMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&format!("{name}.{field}"), value, into);
            }
        }
        value => {
            into.insert(name.to_owned(), value.clone());
        }
    }
}

fn change(name: &str, was: Option<&Value>, now: Option<&Value>) -> String {
    let shown = |value: Option<&Value>| match value {
        None => "not set".to_owned(),
        Some(value) => value.to_string(),
    };
    let happened = match (was, now) {
        (None, _) => "was not there",
        (_, None) => "is gone",
        _ => "is another",
    };
    match name.split_once('.') {
        Some(("settings", name)) => {
            format!("`{name}` was {} and is {} now", shown(was), shown(now))
        }
        Some(("base_sha256", "weights")) => "the model has other weights".to_owned(),
        Some(("base_sha256", file)) => format!("{file} of the model {happened}"),
        // Counted as far as the run goes.
        Some(("data_sha256", "rows")) => {
            "`max_steps`, or the rows that are read again every epoch, are others".to_owned()
        }
        Some(("data_sha256", file)) => format!("{file} of the data {happened}"),
        _ => format!("{name} was {} and is {} now", shown(was), shown(now)),
    }
}

/// What a run's folder says of it.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
    json: Map<String, Value>,
    fingerprint: String,
}

impl Record {
    /// Reads the record of the run in a folder, if it holds one.
    ///
    /// # Errors
    /// It cannot be read, is no record, or is not as the run wrote it.
    pub fn of(folder: &Path) -> Result<Option<Self>, SettingsError> {
        let path = folder.join(NAME);
        match path.exists() {
            true => Self::read(&path).map(Some),
            false => Ok(None),
        }
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        let bad = |reason: String| SettingsError::File {
            path: path.to_owned(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|error| bad(format!("cannot read it: {error}")))?;
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("not the record of a run: {error}")))?;
        let record = Self::from_json(path, json);
        let expected =
            "not the record of a run: expected an object with `settings` and `fingerprint`";
        let record = record.ok_or_else(|| bad(expected.into()))?;
        match fingerprint(&record.json) == record.fingerprint {
            true => Ok(record),
            false => Err(bad(
                "it was changed since the run wrote it: its `fingerprint` is of other settings or files. \
                 Put it back, or give what is to be another as flags, or start anew with --force"
                    .into(),
            )),
        }
    }

    /// A record, if that is what an object is.
    pub(crate) fn from_json(path: &Path, json: Value) -> Option<Self> {
        let Value::Object(json) = json else {
            return None;
        };
        let fingerprint = json.get("fingerprint")?.as_str()?.to_owned();
        json.get("settings")?.as_object()?;
        Some(Self {
            path: path.to_owned(),
            json,
            fingerprint,
        })
    }

    /// What stands for everything that fixes the run.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The threads of the run.
    pub fn threads(&self) -> Option<usize> {
        let threads = self.json.get("threads")?.as_u64()?;
        usize::try_from(threads).ok()
    }

    /// The settings of the run.
    ///
    /// # Errors
    /// They are of another kind of run.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S, SettingsError> {
        let settings = self.json.get("settings").cloned().unwrap_or_default();
        yaml::json(settings).map_err(|reason| SettingsError::File {
            path: self.path.clone(),
            reason: format!("of its `settings`, {reason}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use ailora_graph::{AdaptConfig, method::Lora};

    use super::*;
    use crate::finetune::Settings;

    /// The manifest of settings, and the record that it leaves.
    fn manifest(settings: &Settings, config: &str) -> (Manifest, Record) {
        let hash = |name: &str, hash: &str| (name.to_owned(), hash.to_owned());
        let manifest = Manifest::new(&Identity {
            settings: serde_json::to_value(settings).unwrap(),
            base: IndexMap::from([hash("weights", "1"), hash("config.json", config)]),
            ..Identity::default()
        });
        let json = serde_json::to_value(&manifest).unwrap();
        let record = Record::from_json(Path::new(NAME), json).unwrap();
        (manifest, record)
    }

    #[test]
    fn what_may_change_makes_no_other_run_and_what_may_not_is_named() {
        let settings = Settings {
            model: "here".into(),
            adapters: AdaptConfig::method(&Lora, 4),
            ..Settings::default()
        };
        let (first, record) = manifest(&settings, "2");
        assert_eq!(record.settings::<Settings>().unwrap(), settings);
        let free = Settings {
            model: "there".into(),
            data: Some("elsewhere".into()),
            epochs: 9,
            max_steps: Some(5),
            checkpoint_every: 7,
            evaluate_every: Some(3),
            headline: Some("accuracy".into()),
            strict: true,
            ..settings.clone()
        };
        let (same, _) = manifest(&free, "2");
        assert_eq!(same.fingerprint, first.fingerprint);
        assert_eq!(same.changes(&record), Vec::<String>::new());

        let other = Settings {
            lr: 3e-3,
            clip: None,
            rows: Some(10),
            adapters: AdaptConfig::method(&Lora, 6),
            ..settings
        };
        let (other, _) = manifest(&other, "3");
        assert_ne!(other.fingerprint, first.fingerprint);
        let expected = [
            "`adapters.rank` was 4 and is 6 now",
            "`lr` was 0.0005 and is 0.003 now",
            "`rows` was not set and is 10 now",
            "config.json of the model is another",
            "`clip` was 1.0 and is not set now",
        ];
        assert_eq!(other.changes(&record), expected);
    }

    #[test]
    fn a_record_that_was_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let (manifest, _) = manifest(&Settings::default(), "2");
        let text = serde_json::to_string(&manifest).unwrap();
        for (from, to, fits) in [
            ("", "", true),
            ("\"epochs\":3", "\"epochs\":5", true),
            ("\"lr\":0.0005", "\"lr\":0.0006", false),
            ("\"config.json\":\"2\"", "\"config.json\":\"3\"", false),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            match Record::of(folder.path()) {
                Ok(record) => assert!(fits && record.is_some(), "{to}"),
                Err(error) => assert!(
                    !fits && error.to_string().contains("changed since"),
                    "{error}"
                ),
            }
        }
    }
}
