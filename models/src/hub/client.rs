//! Requests to a hub.

use std::{
    collections::HashSet,
    fmt,
    io::{Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri, header},
};

use crate::{closed::json, weights::is_file_name};

/// Answers that lead elsewhere, one after the other, at most.
const REDIRECTS: usize = 5;
/// Bytes of a list of files at most.
const LIST: u64 = 16 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How often it is said how far a download is.
const REPORT: Duration = Duration::from_secs(10);

pub(super) struct Client<'a> {
    endpoint: &'a str,
    agent: Agent,
    patience: Duration,
    token: Option<String>,
}

/// The files of a model.
pub(super) struct Files {
    pub commit: String,
    pub names: HashSet<String>,
}

/// A file that a hub is about to send.
pub(super) struct Download {
    /// What the hub calls its contents.
    pub etag: String,
    /// Its bytes.
    pub len: u64,
    body: Body,
    patience: Duration,
}

impl<'a> Client<'a> {
    pub fn new(endpoint: &'a str, patience: Duration, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("ailora/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience));
        Self {
            endpoint: endpoint.trim_end_matches('/'),
            agent: config.build().into(),
            patience,
            token,
        }
    }

    /// The files of a model's newest commit.
    ///
    /// # Errors
    /// The hub does not answer, or with something else.
    pub fn files(&self, model: &str) -> Result<Files, String> {
        let url = format!("{}/api/models/{model}/revision/main", self.endpoint);
        let (_, last) = self.get(&url, false)?;
        let mut bytes = Vec::new();
        let mut body = last.into_body().into_reader().take(LIST + 1);
        let read = body.read_to_end(&mut bytes);
        read.map_err(|error| self.silence(&error))?;
        if bytes.len() as u64 > LIST {
            return Err(format!("it has more than {LIST} bytes"));
        }
        let list = json::parse(Path::new("the answer"), &bytes);
        let list = list.map_err(|error| error.to_string())?;
        let commit = list.get("sha").and_then(Value::as_str);
        let files = list.get("siblings").and_then(Value::as_array);
        let (Some(commit), Some(files)) = (commit, files) else {
            return Err("it names no commit (`sha`) or no files (`siblings`)".into());
        };
        let names = files
            .iter()
            .filter_map(|file| file.get("rfilename")?.as_str());
        Ok(Files {
            commit: checked("the commit", commit)?,
            names: names.map(str::to_owned).collect(),
        })
    }

    /// Asks for a file of a model, which must be of this commit.
    ///
    /// # Errors
    /// The hub does not answer, or with something else, or does not say what the file is.
    pub fn file(&self, model: &str, name: &str, commit: &str) -> Result<Download, String> {
        let url = format!("{}/{model}/resolve/main/{name}", self.endpoint);
        // A range makes hubs say how long the whole is; one of an empty file is refused.
        let (first, last) = match self.get(&url, true)? {
            (_, last) if last.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
                self.get(&url, false)?
            }
            answers => answers,
        };
        let last_of = |name: &str| text(&last, name);
        let header = |name: &str| {
            first
                .as_ref()
                .and_then(|first| text(first, name))
                .or(last_of(name))
        };
        if let Some(found) = header("x-repo-commit") {
            let found = checked("the header x-repo-commit", found)?;
            if found != commit {
                return Err(format!(
                    "it is of commit {found}, and others are of {commit}: the model was changed \
                     meanwhile, try again"
                ));
            }
        }
        let etag = header("x-linked-etag").or(header("etag"));
        let etag = etag.ok_or("the answer has no header etag")?;
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let etag = checked("the header etag", etag)?;
        let total = match last_of("content-range") {
            Some(range) => Some(range.rsplit('/').next().unwrap_or_default()),
            None => last_of("content-length").or(header("x-linked-size")),
        };
        let len = total.and_then(|total| total.parse().ok());
        let len = len.ok_or("the answer does not say how long the file is")?;
        tracing::info!("downloading {name} of {model}: {}", Size(len));
        Ok(Download {
            etag,
            len,
            body: last.into_body(),
            patience: self.patience,
        })
    }

    /// The last answer to a request that may be led elsewhere, and the first if that is another.
    fn get(
        &self,
        url: &str,
        range: bool,
    ) -> Result<(Option<Response<Body>>, Response<Body>), String> {
        let own: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let mut uri = own.clone();
        let mut first = None;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(uri.clone());
            if range {
                request = request.header(header::RANGE, "bytes=0-");
            }
            // Other servers that a hub leads to are not told the token.
            let same = uri.authority() == own.authority() && uri.scheme() == own.scheme();
            if let Some(token) = self.token.as_ref().filter(|_| same) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|error| match error {
                ureq::Error::Timeout(what) => format!(
                    "no answer from {} within {} s ({what})",
                    uri.host().unwrap_or_default(),
                    self.patience.as_secs_f32()
                ),
                error => error.to_string(),
            })?;
            let status = answer.status();
            match status.as_u16() {
                200 | 206 => return Ok((first, answer)),
                416 if range => return Ok((first, answer)),
                301 | 302 | 303 | 307 | 308 => uri = elsewhere(&uri, &answer)?,
                401 | 403 => {
                    return Err(format!(
                        "status {status}: it may be private or need your consent; log in with \
                         `hf auth login`"
                    ));
                }
                _ => return Err(format!("status {status}")),
            }
            first = first.or(Some(answer));
        }
        Err(format!(
            "more than {REDIRECTS} redirects, one after the other"
        ))
    }

    fn silence(&self, error: &std::io::Error) -> String {
        broken(error, self.patience)
    }
}

/// Where an answer leads.
fn elsewhere(from: &Uri, answer: &Response<Body>) -> Result<Uri, String> {
    let status = answer.status();
    let location = text(answer, "location");
    let location =
        location.ok_or_else(|| format!("a redirect (status {status}) without an address"))?;
    let wrong = |why: &dyn fmt::Display| {
        let shown: String = location.chars().take(80).collect();
        format!("a redirect to {shown:?}: {why}")
    };
    let absolute = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            let scheme = from.scheme_str().unwrap_or("https");
            let host = from.authority().map_or("", |host| host.as_str());
            format!("{scheme}://{host}{location}")
        }
        _ => location.to_owned(),
    };
    let to: Uri = absolute.parse().map_err(|error| wrong(&error))?;
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) if to.host().is_some() => Ok(to),
        (Some("https"), Some("http")) => Err(wrong(&"it is not encrypted")),
        _ => Err(wrong(&"expected an address of HTTP")),
    }
}

impl Download {
    /// Writes the file.
    ///
    /// # Errors
    /// It breaks off, is longer than it should be, is not what its hash says, or cannot be written.
    pub fn write(self, name: &str, to: &mut impl Write) -> Result<(), String> {
        let Self {
            etag,
            len,
            body,
            patience,
        } = self;
        let mut reader = body.into_reader().take(len.saturating_add(1));
        let mut digest = Sha256::new();
        let mut block = vec![0; 1 << 16];
        let (mut done, mut said) = (0, Instant::now());
        loop {
            let read = reader.read(&mut block).map_err(|error| {
                format!("{} after {done} of {len} bytes", broken(&error, patience))
            })?;
            if read == 0 {
                break;
            }
            done += read as u64;
            if done > len {
                return Err(format!(
                    "it goes on behind the {len} bytes that were announced"
                ));
            }
            digest.update(&block[..read]);
            to.write_all(&block[..read])
                .map_err(|error| format!("cannot write it: {error}"))?;
            if said.elapsed() >= REPORT {
                said = Instant::now();
                tracing::info!("{name}: {} of {}", Size(done), Size(len));
            }
        }
        if done < len {
            return Err(format!("it breaks off after {done} of {len} bytes"));
        }
        let digest: String = digest
            .finalize()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let is_hash = etag.len() == digest.len() && etag.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash && !etag.eq_ignore_ascii_case(&digest) {
            return Err("it is damaged: its SHA-256 is not the one that the hub names".into());
        }
        Ok(())
    }
}

/// What an error while reading means.
fn broken(error: &std::io::Error, patience: Duration) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let timeout = matches!(inner, Some(ureq::Error::Timeout(_)));
    if timeout || error.kind() == std::io::ErrorKind::TimedOut {
        let seconds = patience.as_secs_f32();
        return format!("nothing more came for {seconds} s: the hub stopped answering");
    }
    error.to_string()
}

/// What a hub says, which becomes the name of a file or folder.
fn checked(what: &str, name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = is_file_name(name) && name.len() <= 128 && name.chars().all(plain);
    match fits {
        true => Ok(name.to_owned()),
        false => {
            let shown: String = name.chars().take(80).collect();
            Err(format!(
                "{what} is {shown:?}; expected up to 128 letters and digits, which name no path"
            ))
        }
    }
}

fn text<'r>(answer: &'r Response<Body>, name: &str) -> Option<&'r str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1_000_000 => write!(f, "{} kB", bytes.div_ceil(1000)),
            bytes => write!(f, "{} MB", bytes / 1_000_000),
        }
    }
}
