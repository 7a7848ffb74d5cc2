use super::{End, Matrix, Method, Options, Triplets};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Part of every key: raised when the algorithms or the file format change.
const VERSION: u32 = 2;
/// The entry of a file's metadata that holds its [`Header`].
const HEADER: &str = "ailora-spectrum";

/// Singular triplets kept in a directory, one safetensors file for a weight, an end and a number of
/// triplets, named by a hash of the weight's shape and bits, so that a sweep over ranks, seeds and
/// tasks decomposes a weight once. The hash is in the file too, so that none is taken for another's.
///
/// The cache never fails: a file that is truncated, damaged or another weight's is logged, ignored and
/// replaced, a directory that cannot be written is logged once. Files appear whole or not at all,
/// so processes may share a directory.
#[derive(Debug)]
pub struct SpectrumCache {
    dir: PathBuf,
    warned: AtomicBool,
}

/// What a weight's files are named after.
#[derive(Debug)]
pub(super) struct Key(String);

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Which weight's it is, as the file's name says too.
    weight: String,
    end: String,
    method: Method,
    /// Hash of the weight, the end and the tensors' bytes in the order of their names.
    sha256: String,
}

impl SpectrumCache {
    /// A cache in `dir`, which is created when first written to.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            warned: AtomicBool::new(false),
        }
    }

    /// The key of `matrix` decomposed with `options`.
    pub(super) fn key(&self, matrix: &Matrix<'_>, options: &Options) -> Key {
        let mut hash = Sha256::new();
        hash.update(VERSION.to_le_bytes());
        hash.update((options.exact_up_to as u64).to_le_bytes());
        hash.update(options.tolerance.to_le_bytes());
        // What a solver finds differs in its last bits.
        hash.update([u8::from(options.solver.is_some())]);
        hash.update((matrix.rows() as u64).to_le_bytes());
        hash.update((matrix.cols() as u64).to_le_bytes());
        hash.update(bytemuck::cast_slice(&matrix.data()));
        Key(hex(hash))
    }

    /// The `k` triplets of `matrix` at `end`, if there is a sound file of them.
    pub(super) fn read(
        &self,
        key: &Key,
        matrix: &Matrix<'_>,
        end: End,
        k: usize,
    ) -> Option<Triplets> {
        let path = self.path(key, end, k);
        let found = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes, (key, end), [matrix.rows(), matrix.cols(), k]),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        found
            .map_err(|why| {
                tracing::warn!(file = %path.display(), why, "unusable spectrum cache file, computing anew");
            })
            .ok()
    }

    /// Keeps `triplets`, or logs why not.
    pub(super) fn write(&self, key: &Key, end: End, triplets: &Triplets) {
        let path = self.path(key, end, triplets.k());
        if let Err(error) = write_whole(&self.dir, &path, (key, end), triplets)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "the spectrum cache cannot be written, going on without it");
        }
    }

    fn path(&self, Key(key): &Key, end: End, k: usize) -> PathBuf {
        self.dir
            .join(format!("{key}-{}-{k}.safetensors", name(end)))
    }
}

fn name(end: End) -> &'static str {
    match end {
        End::Principal => "principal",
        End::Minor => "minor",
    }
}

fn write_whole(dir: &Path, path: &Path, of: (&Key, End), triplets: &Triplets) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&encode(of, triplets)?)?;
    file.persist(path)?;
    Ok(())
}

fn encode((key, end): (&Key, End), triplets: &Triplets) -> io::Result<Vec<u8>> {
    let k = triplets.k();
    let tensors = [
        ("residual", vec![1], bytes(&[triplets.residual])),
        ("s", vec![k], bytes(&triplets.s)),
        ("u", vec![triplets.u.len() / k, k], bytes(&triplets.u)),
        ("v", vec![triplets.v.len() / k, k], bytes(&triplets.v)),
    ];
    let parts = tensors.iter().map(|(_, _, data)| data.as_slice());
    let sha256 = checksum((key, end), parts);
    let header = serde_json::to_string(&Header {
        version: VERSION,
        weight: key.0.clone(),
        end: name(end).to_owned(),
        method: triplets.method,
        sha256,
    })?;
    let views = tensors
        .iter()
        .map(|(name, shape, data)| Ok((*name, TensorView::new(Dtype::F64, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    views
        .and_then(|views| serialize(views, Some(HashMap::from([(HEADER.to_owned(), header)]))))
        .map_err(io::Error::other)
}

/// The triplets of a file, which must be those of this weight and end.
fn decode(
    file: &[u8],
    (key, end): (&Key, End),
    [rows, cols, k]: [usize; 3],
) -> Result<Triplets, String> {
    let text = |error: safetensors::SafeTensorError| error.to_string();
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(text)?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(HEADER))
        .ok_or("not a spectrum file")?;
    let header: Header = serde_json::from_str(header).map_err(|error| error.to_string())?;
    if header.version != VERSION {
        return Err(format!(
            "written in version {} of the format, this is {VERSION}",
            header.version
        ));
    }
    if header.weight != key.0 || header.end != name(end) {
        return Err("it is another weight's or another end's".to_owned());
    }
    let tensors = SafeTensors::deserialize(file).map_err(text)?;
    let tensor = |name: &str, shape: &[usize]| {
        let view = tensors.tensor(name).map_err(text)?;
        if view.dtype() != Dtype::F64 || view.shape() != shape {
            return Err(format!(
                "{name} is {:?} {:?}, not F64 {shape:?}",
                view.dtype(),
                view.shape()
            ));
        }
        Ok(view.data())
    };
    let (residual, s, u, v) = (
        tensor("residual", &[1])?,
        tensor("s", &[k])?,
        tensor("u", &[rows, k])?,
        tensor("v", &[cols, k])?,
    );
    if checksum((key, end), [residual, s, u, v].into_iter()) != header.sha256 {
        return Err("its checksum does not match its contents".to_owned());
    }
    let residual = floats(residual)[0];
    Ok(Triplets {
        u: floats(u),
        s: floats(s),
        v: floats(v),
        residual,
        method: header.method,
    })
}

fn checksum<'a>((key, end): (&Key, End), parts: impl Iterator<Item = &'a [u8]>) -> String {
    let of = Sha256::new().chain_update(&key.0).chain_update(name(end));
    hex(parts.fold(of, |hash, part| hash.chain_update(part)))
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&chunk| f64::from_le_bytes(chunk))
        .collect()
}
