//! What the README and the book say: their commands run, their links lead somewhere, and their picture
//! is what the command draws.
//!
//! A block fenced as `sh` is run, on the model and the data that are built in; one fenced as `console`
//! needs a device, a download or hours.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

mod support;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "models/README.md",
    ];
    let embedded = root().join("models/data/embedded/README.md");
    let mut pages: Vec<PathBuf> = docs
        .chain(others.map(|page| root().join(page)))
        .chain([embedded, root().join("tests/python/README.md")])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    pages.into_iter().map(read).collect()
}

/// The commands of a page's `sh` blocks, one a line.
fn commands(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            None if line == "```sh" => block = Some(String::new()),
            None => {}
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some(block) => *block += &format!("{line}\n"),
        }
    }
    let lines = blocks.concat().replace("\\\n", " ");
    lines.lines().map(str::to_owned).collect()
}

/// Runs a command of the page in a folder.
fn run(command: &str, folder: &Path, cache: &Path) {
    let binary = Path::new(env!("CARGO_BIN_EXE_ailora"));
    let path = std::env::var_os("PATH").unwrap();
    let paths = std::iter::once(binary.parent().unwrap().to_owned());
    let path = std::env::join_paths(paths.chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env("AILORA_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`:\n{errors}");
}

/// What the commands find: the book's data, a causal language model, and an encoder-decoder.
fn given(folder: &Path) {
    let data = folder.join("docs/data");
    std::fs::create_dir_all(&data).unwrap();
    for entry in std::fs::read_dir(root().join("docs/data")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, data.join(path.file_name().unwrap())).unwrap();
    }
    support::language_model(&folder.join("llama"));
    support::encoder_decoder(&folder.join("bart"));
}

#[test]
fn the_commands_of_every_page_run() {
    let cache = tempfile::tempdir().unwrap();
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let mut ran = 0;
    for (page, text) in pages() {
        let folder = tempfile::tempdir().unwrap();
        given(folder.path());
        for command in commands(&text) {
            // What builds or tests all of this is run beside the tests.
            if ["cargo ", "scripts/"]
                .iter()
                .any(|own| command.starts_with(own))
            {
                let page = page.display();
                assert!(
                    ci.contains(&command),
                    "{page}: .ci/run does not run `{command}`"
                );
            } else {
                run(&command, folder.path(), cache.path());
                ran += 1;
            }
        }
    }
    assert!(ran >= 10, "only {ran} commands were found");
}

#[test]
fn the_picture_is_what_the_command_draws() {
    let folder = tempfile::tempdir().unwrap();
    let command = "ailora explain --task svamp --site layer.1.attention.self.query --forward --svg explained.svg";
    let page = std::fs::read_to_string(root().join("docs/design.md")).unwrap();
    assert!(commands(&page).iter().any(|known| known == command));
    run(command, folder.path(), folder.path());
    let drawn = std::fs::read_to_string(folder.path().join("explained.svg")).unwrap();
    let kept = std::fs::read_to_string(root().join("docs/explained.svg")).unwrap();
    assert!(drawn == kept, "run `{command}` in docs");
}

#[test]
fn links_lead_somewhere() {
    for (page, text) in pages() {
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            if target.contains("://") || path.is_empty() {
                continue;
            }
            let linked = page.parent().unwrap().join(path);
            assert!(linked.exists(), "{} links to {target}", page.display());
        }
    }
}

#[test]
fn the_summary_names_every_page() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for (page, _) in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        if page.parent() == Some(&root().join("docs")) && name != "SUMMARY.md" {
            assert!(
                summary.contains(&format!("({name})")),
                "{name} is not in the book"
            );
        }
    }
}

/// The walks of a weight and of a row name files that are there, and what is in them.
#[test]
fn the_walks_name_what_exists() {
    let page = std::fs::read_to_string(root().join("docs/design.md")).unwrap();
    let walk = |name: &str| {
        let walk = page.split(name).nth(1).unwrap();
        let walk = walk.split("\n## ").next().unwrap();
        let rows = walk.lines().filter(|line| line.starts_with("| `"));
        rows.collect::<Vec<&str>>()
    };
    let weight = walk("## The walk of one query weight");
    let row = walk("## The walk of one row");
    assert!(weight.len() > 30 && row.len() > 10, "{weight:?} {row:?}");
    let rows = [weight, row].concat();
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    for row in rows {
        let mut quoted = row.split('`').skip(1).step_by(2);
        let file = quoted.next().unwrap();
        let text = std::fs::read_to_string(root().join(file));
        let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
        let names: Vec<&str> = quoted
            .filter(|name| name.len() > 1 && is_name(name))
            .collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(words.any(|word| word == name), "{file} has no `{name}`");
        }
    }
}

/// A file of more than 500 lines says at its top why it is one.
#[test]
fn long_files_say_why() {
    let mut folders: Vec<PathBuf> = Vec::new();
    for name in [
        "src",
        "tests",
        "benches",
        "examples",
        "models",
        "ailora-macros",
        "ailora-graph",
    ] {
        folders.push(root().join(name));
    }
    folders.push(root().join("ailora-runtime"));
    let (mut seen, mut silent) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut lines = text.lines();
                let says = lines
                    .by_ref()
                    .take(25)
                    .any(|line| line.contains("One long file:"));
                seen += 1;
                if text.lines().count() > 500 && !says {
                    silent.push(path);
                }
            }
        }
    }
    assert!(seen > 300, "{seen} files");
    assert!(silent.is_empty(), "{silent:#?}");
}
