//! Models by id: the cache's layout, its place, and a download from a small hub of our own.
//!
//! One long file: the cases share one hub.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ailora_models::hub::{Hub, HubError, resolve};

fn hub(cache: &Path, offline: bool) -> Hub {
    Hub {
        cache: Some(cache.to_owned()),
        // Nothing listens on port 1.
        endpoint: "http://127.0.0.1:1".into(),
        offline,
        patience: Duration::from_secs(20),
    }
}

/// A cache with these files of a model, as Hugging Face's own library lays it out.
fn cache(folder: &str, files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join(folder);
    let snapshot = model.join("snapshots/0123abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "0123abc").unwrap();
    for file in files {
        fs::write(snapshot.join(file), "{}").unwrap();
    }
    (cache, snapshot)
}

#[test]
fn a_folder_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(resolve(dir.path().to_str().unwrap()).unwrap(), dir.path());
}

#[test]
fn a_cached_model_needs_no_network() {
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    for (id, folder) in [
        ("org/tiny-bert", "models--org--tiny-bert"),
        ("gpt", "models--gpt"),
    ] {
        let (cache, snapshot) = cache(folder, &files);
        assert_eq!(hub(cache.path(), true).resolve(id).unwrap(), snapshot);
        assert_eq!(hub(cache.path(), false).resolve(id).unwrap(), snapshot);
    }
    // Without a tokenizer it is worth asking the hub, if that is allowed.
    let (cache, snapshot) = cache("models--a--b", &["config.json", "model.safetensors"]);
    assert_eq!(hub(cache.path(), true).resolve("a/b").unwrap(), snapshot);
    assert!(matches!(
        hub(cache.path(), false).resolve("a/b"),
        Err(HubError::Download { .. })
    ));
}

#[test]
fn an_incomplete_cache_is_no_model() {
    for files in [
        &[][..],
        &["config.json"],
        &["model.safetensors", "tokenizer.json"],
    ] {
        let (cache, _) = cache("models--a--b", files);
        let message = hub(cache.path(), true)
            .resolve("a/b")
            .unwrap_err()
            .to_string();
        assert!(message.contains("`a/b` is no folder here and not complete in the cache"));
        assert!(
            message.contains(&cache.path().display().to_string()),
            "{message}"
        );
        assert!(message.contains("HF_HUB_OFFLINE is set"), "{message}");
        let message = hub(cache.path(), false)
            .resolve("a/b")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("from http://127.0.0.1:1 failed"),
            "{message}"
        );
        assert!(
            message.contains("check the id and the network"),
            "{message}"
        );
    }
}

#[test]
fn paths_are_not_ids() {
    let hub = hub(Path::new("nowhere"), true);
    for model in [
        "", ".", "./a", "../a", "a.gguf", "a/b.GGUF", "/a/b", "a/b/c", "a//b", "a/..", "a b",
        "~/x", "C:\\m",
    ] {
        let model = if Path::new(model).is_dir() {
            "./no such folder"
        } else {
            model
        };
        assert!(
            matches!(hub.resolve(model), Err(HubError::NotFound { .. })),
            "{model}"
        );
    }
}

#[test]
fn variables_say_where_the_cache_is() {
    let from = |vars: &[(&str, &str)]| {
        let vars: HashMap<String, OsString> = vars
            .iter()
            .map(|(name, value)| ((*name).into(), value.into()))
            .collect();
        Hub::from_vars(|name| vars.get(name).cloned())
    };
    let cache = |vars: &[(&str, &str)]| from(vars).cache.map(|path| path.display().to_string());
    let mut vars = vec![("HOME", "/h")];
    assert_eq!(cache(&vars).as_deref(), Some("/h/.cache/huggingface/hub"));
    for (name, value, expected) in [
        ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
        ("HF_HOME", "/hf", "/hf/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "/new", "/new"),
    ] {
        vars.push((name, value));
        assert_eq!(cache(&vars).as_deref(), Some(expected));
    }
    assert_eq!(cache(&[("HF_HOME", "")]), None);
    assert!(matches!(
        from(&[]).resolve("a/b"),
        Err(HubError::NoHome { .. })
    ));
    let offline = |value| from(&[("HF_HUB_OFFLINE", value)]).offline;
    assert!(offline("1") && offline("true") && !offline("0") && !offline(""));
    assert_eq!(from(&[]).endpoint, "https://huggingface.co");
    assert_eq!(
        from(&[("HF_ENDPOINT", "http://mirror")]).endpoint,
        "http://mirror"
    );
}

/// A hub that serves these files of the model `org/tiny`; its address.
fn serve(files: &[(&str, &str)]) -> String {
    let files: Arc<HashMap<String, String>> = Arc::new(
        files
            .iter()
            .map(|(name, text)| ((*name).into(), (*text).into()))
            .collect(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &files);
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, files: &HashMap<String, String>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body, size) = if path == "/api/models/org/tiny/revision/main" {
        let names = files
            .keys()
            .map(|name| format!("{{\"rfilename\": \"{name}\"}}"));
        let names = names.collect::<Vec<_>>().join(", ");
        let body = format!("{{\"siblings\": [{names}], \"sha\": \"feed\"}}");
        ("200 OK", body, None)
    } else {
        let file = path
            .strip_prefix("/org/tiny/resolve/main/")
            .and_then(|name| files.get(name));
        match file {
            None => ("404 Not Found", String::new(), None),
            Some(text) => {
                let first = headers
                    .iter()
                    .any(|line| line.to_lowercase() == "range: bytes=0-0");
                let body = if first {
                    text[..1].to_owned()
                } else {
                    text.clone()
                };
                ("206 Partial Content", body, Some(text.len()))
            }
        }
    };
    let range = size.map_or(String::new(), |size| {
        format!("content-range: bytes 0-0/{size}\r\n")
    });
    let etag = path.replace('/', "-");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-repo-commit: feed\r\netag: \"{etag}\"\r\n{range}\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
}

/// Whether this machine's settings send even local requests to a proxy.
fn behind_a_proxy() -> bool {
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let proxy = names
        .into_iter()
        .any(|name| std::env::var_os(name).is_some());
    if proxy {
        println!("skipped: an HTTP proxy is set");
    }
    proxy
}

#[test]
fn what_is_not_cached_is_downloaded_once() {
    if behind_a_proxy() {
        return;
    }
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let whole = ("model.safetensors", "weights");
    let shards = [
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", "first"),
        ("model-2.safetensors", "second"),
    ];
    let tokenizers = [
        &[("tokenizer.json", "{\"b\": 2}")][..],
        &[("vocab.json", "{\"b\": 2}"), ("merges.txt", "a b")],
    ];
    for (weights, tokenizer) in [&[whole][..], &shards].into_iter().zip(tokenizers) {
        let mut files = vec![
            ("config.json", "{\"a\": 1}"),
            ("tokenizer_config.json", "{}"),
        ];
        files.extend(tokenizer);
        files.extend(weights);
        let folder = tempfile::tempdir().unwrap();
        let mut hub = hub(folder.path(), false);
        hub.endpoint = serve(&[&files[..], &[("README.md", "not needed")]].concat());
        let dir = hub.resolve("org/tiny").unwrap();
        for (name, text) in &files {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), *text, "{name}");
        }
        assert!(!dir.join("README.md").exists());
        hub.offline = true;
        assert_eq!(hub.resolve("org/tiny").unwrap(), dir);
    }
}

#[test]
fn what_the_hub_lacks_is_named() {
    if behind_a_proxy() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub(folder.path(), false);
    hub.endpoint = serve(&[
        ("config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("tf_model.h5", "x"),
    ]);
    let message = hub.resolve("org/tiny").unwrap_err().to_string();
    assert!(
        message.contains("`org/tiny` has no model.safetensors on the hub"),
        "{message}"
    );
    let message = hub.resolve("org/other").unwrap_err().to_string();
    assert!(
        message.contains("downloading the list of files") && message.contains("404"),
        "{message}"
    );
}

/// A hub of `org/tiny` that answers each file's request as `behave` writes it; its address.
fn odd(behave: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let _headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            if path.starts_with("/api/") {
                let names = ["config.json", "tokenizer.json", "model.safetensors"];
                let names = names.map(|name| format!("{{\"rfilename\": \"{name}\"}}"));
                let body = format!("{{\"siblings\": [{}], \"sha\": \"feed\"}}", names.join(","));
                send(
                    &mut stream,
                    "200 OK",
                    &[("content-length", &body.len().to_string())],
                    &body,
                );
            } else {
                behave(&path, &mut stream);
            }
        }
    });
    format!("http://{address}")
}

fn send(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &str) {
    let mut text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    // Who refuses the headers reads no more.
    let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
}

/// Why the model cannot be downloaded, and that nothing of it is used.
fn fails(behave: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    fails_within(Duration::from_secs(20), behave)
}

fn fails_within(
    patience: Duration,
    behave: impl Fn(&str, &mut TcpStream) + Send + 'static,
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b/c/cache");
    let mut hub = hub(&cache, false);
    hub.endpoint = odd(behave);
    hub.patience = patience;
    let message = hub.resolve("org/tiny").unwrap_err().to_string();
    assert!(
        message.contains("downloading config.json from"),
        "{message}"
    );
    let mut files = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    assert_eq!(files, Vec::<PathBuf>::new());
    hub.offline = true;
    assert!(hub.resolve("org/tiny").is_err());
    message
}

const TEXT: &str = "{\"some\": \"text\"}";

#[test]
fn what_a_hub_answers_names_no_path() {
    if behind_a_proxy() {
        return;
    }
    let long = "x".repeat(300);
    for name in [
        "../../../out",
        "/tmp/out",
        "a/b",
        "..",
        ".",
        "",
        "a\\b",
        "C:x",
        &long,
    ] {
        for header in ["etag", "x-linked-etag", "x-repo-commit"] {
            let (value, length) = (format!("\"{name}\""), TEXT.len().to_string());
            let message = fails(move |_, stream| {
                let mut headers = vec![("content-length", &*length), ("etag", "\"0a\"")];
                headers.retain(|(name, _)| *name != header);
                let value = if header == "x-repo-commit" {
                    value.trim_matches('"')
                } else {
                    &value
                };
                headers.push((header, value));
                send(stream, "200 OK", &headers, TEXT);
            });
            assert!(
                message.contains("etag") || message.contains("x-repo-commit"),
                "{message}"
            );
        }
    }
    let length = TEXT.len().to_string();
    let message = fails(move |_, stream| {
        let headers = [
            ("content-length", &*length),
            ("etag", "0a"),
            ("x-repo-commit", "beef"),
        ];
        send(stream, "200 OK", &headers, TEXT);
    });
    assert!(
        message.contains("it is of commit beef, and others are of feed"),
        "{message}"
    );
}

#[test]
fn downloads_that_are_not_whole_are_not_used() {
    if behind_a_proxy() {
        return;
    }
    let more = (TEXT.len() + 7).to_string();
    let fewer = (TEXT.len() - 7).to_string();
    let whole = format!("bytes 0-4/{more}");
    // The SHA-256 of something else.
    let other = "0123456789abcdef".repeat(4);
    let length = TEXT.len().to_string();
    for (headers, part) in [
        (vec![("content-length", more.clone())], "breaks off"),
        (
            vec![("content-range", whole)],
            "breaks off after 16 of 23 bytes",
        ),
        (
            vec![("content-range", format!("bytes 0-4/{fewer}"))],
            "goes on behind the 9 bytes",
        ),
        (vec![], "does not say how long"),
        (vec![("content-length", "many".into())], ""),
        (
            vec![("content-length", length.clone()), ("x-linked-etag", other)],
            "damaged: its SHA-256",
        ),
    ] {
        let message = fails(move |_, stream| {
            let mut headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
            headers.push(("etag", "\"0a\""));
            send(stream, "200 OK", &headers, TEXT);
        });
        let expected = if part == "breaks off" { "" } else { part };
        assert!(message.contains(expected), "{message}");
    }
    let message = fails(move |_, stream| {
        send(stream, "200 OK", &[("content-length", &length)], TEXT);
    });
    assert!(message.contains("no header etag"), "{message}");
}

#[test]
fn a_silent_hub_is_not_waited_for_without_end() {
    if behind_a_proxy() {
        return;
    }
    for answers in [false, true] {
        let start = std::time::Instant::now();
        let patience = Duration::from_millis(1500);
        let message = fails_within(patience, move |_, stream| {
            if answers {
                let headers = [("content-length", "1000"), ("etag", "0a")];
                send(stream, "200 OK", &headers, "the beginning");
            }
            std::thread::sleep(Duration::from_secs(12));
        });
        let expected = if answers {
            "nothing more came for 1.5 s"
        } else {
            "no answer from 127.0.0.1 within 1.5 s"
        };
        assert!(message.contains(expected), "{message}");
        assert!(
            start.elapsed() < Duration::from_secs(12),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn redirects_are_followed_a_few_times() {
    if behind_a_proxy() {
        return;
    }
    for (status, location, expected) in [
        ("302 Found", None, "without an address"),
        ("304 Not Modified", None, "status 304"),
        (
            "302 Found",
            Some("/org/tiny/resolve/main/config.json"),
            "more than 5 redirects",
        ),
        (
            "307 Temporary Redirect",
            Some("http://["),
            "a redirect to \"http://[\"",
        ),
        (
            "301 Moved Permanently",
            Some("file:///etc/passwd"),
            "a redirect to \"file:",
        ),
        (
            "308 Permanent Redirect",
            Some("config.json"),
            "expected an address of HTTP",
        ),
        ("403 Forbidden", None, "hf auth login"),
    ] {
        let message = fails(move |_, stream| {
            let mut headers = vec![("content-length", "0"), ("etag", "0a")];
            headers.extend(location.map(|location| ("location", location)));
            send(stream, status, &headers, "");
        });
        assert!(message.contains(expected), "{message}");
    }
    // What a file is, says the hub; where it lies, what it leads to.
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub(folder.path(), false);
    hub.endpoint = odd(
        |path, stream| match path.strip_prefix("/org/tiny/resolve/main/") {
            Some(name) => {
                let (to, etag) = (format!("/elsewhere/{name}"), format!("\"of-{name}\""));
                let headers = [
                    ("location", &*to),
                    ("x-linked-etag", &etag),
                    ("x-repo-commit", "feed"),
                    ("content-length", "0"),
                ];
                send(stream, "302 Found", &headers, "");
            }
            None => {
                let headers = [("content-length", "17"), ("etag", "not this")];
                send(stream, "200 OK", &headers, "{\"some\": \"texts\"}");
            }
        },
    );
    let dir = hub.resolve("org/tiny").unwrap();
    assert_eq!(fs::read(dir.join("config.json")).unwrap().len(), 17);
    let blob = fs::canonicalize(dir.join("config.json")).unwrap();
    assert!(blob.ends_with("blobs/of-config.json"), "{}", blob.display());
}

/// The lines of a request, up to the empty one.
fn request(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn a_token_is_for_the_hub_alone() {
    if behind_a_proxy() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "hf_secret\n").unwrap();
    let [home, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let away = other.local_addr().unwrap();
    let endpoint = format!("http://{}", home.local_addr().unwrap());
    let (seen, requests) = std::sync::mpsc::channel();
    for listener in [home, other] {
        let seen = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = request(&stream);
                let path = lines[0].split(' ').nth(1).unwrap().to_owned();
                let told = lines.iter().any(|line| line.ends_with("Bearer hf_secret"));
                seen.send((path.clone(), told)).unwrap();
                let to = match &*path {
                    "/org/tiny/resolve/main/config.json" => Some("/moved".to_owned()),
                    "/moved" => Some(format!("http://{away}/away")),
                    _ => None,
                };
                let length = ("content-length", "2");
                match (to, path.starts_with("/api")) {
                    (Some(to), _) => send(
                        &mut stream,
                        "302 Found",
                        &[("location", &to), ("content-length", "0")],
                        "",
                    ),
                    (None, true) => {
                        let body =
                            "{\"sha\": \"feed\", \"siblings\": [{\"rfilename\": \"config.json\"}]}";
                        let length = body.len().to_string();
                        send(&mut stream, "200 OK", &[("content-length", &length)], body);
                    }
                    (None, false) => send(&mut stream, "200 OK", &[length, ("etag", "0a")], "{}"),
                }
            }
        });
    }
    let mut hub = hub(&folder.path().join("hub"), false);
    hub.endpoint = endpoint;
    let message = hub.resolve("org/tiny").unwrap_err().to_string();
    assert!(message.contains("has no tokenizer.json"), "{message}");
    let found: Vec<(String, bool)> = requests.try_iter().collect();
    let expected = [
        ("/api/models/org/tiny/revision/main", true),
        ("/org/tiny/resolve/main/config.json", true),
        ("/moved", true),
        ("/away", false),
    ];
    assert_eq!(found, expected.map(|(path, told)| (path.to_owned(), told)));
}
