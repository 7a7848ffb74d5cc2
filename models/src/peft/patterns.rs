//! Regular expressions and names as PEFT matches module paths with them.
//!
//! PEFT's are Python's. They are compiled by an engine whose time is linear in the path; what that
//! engine does not have, or takes for something else, is refused by name.

use std::fmt::Display;

use regex::{Regex, RegexBuilder};

use crate::closed::shortened;

/// What Python and this engine take for different things.
const DIFFERENT: [&str; 8] = ["++", "*+", "?+", "}+", "[[", "&&", "~~", "\\<"];

/// A pattern that cannot be used; the text says why.
pub type Bad = String;

/// The most regular expressions of a dictionary, and the most bytes of one.
const MOST_REGEXES: usize = 1024;
const LONGEST: usize = 4096;
/// The most bytes of a compiled one.
const COMPILED: usize = 1 << 20;

/// For each path the first of `keys` that is it or the end of it, as PEFT looks up `rank_pattern`
/// and `alpha_pattern`.
///
/// # Errors
/// A key that cannot be compiled, or too many that have to be.
pub fn first_keys<'a>(
    keys: impl IntoIterator<Item = &'a String>,
    paths: &[String],
) -> Result<Vec<Option<&'a str>>, Bad> {
    let mut found = vec![None; paths.len()];
    let mut compiled = 0;
    for text in keys {
        let key = Key::new(text)?;
        compiled += usize::from(matches!(key, Key::Regex(_)));
        if compiled > MOST_REGEXES {
            return Err(format!(
                "more than {MOST_REGEXES} of its keys are regular expressions"
            ));
        }
        for (found, path) in found.iter_mut().zip(paths) {
            if found.is_none() && key.matches(path) {
                *found = Some(text.as_str());
            }
        }
    }
    Ok(found)
}

/// The end of a path from a dot on, as a regular expression.
#[derive(Debug)]
enum Key {
    /// Characters, or nothing for any one.
    Plain(Vec<Option<u8>>),
    /// Any other: `re.match(rf"(.*\.)?({key})$", path)`.
    Regex(Regex),
}

impl Key {
    fn new(text: &str) -> Result<Self, Bad> {
        match plain(text) {
            Some(key) => Ok(Self::Plain(key)),
            None => {
                let whole = format!(r"\A(?:(.*\.)?({text})\z)");
                compile(text, &whole).map(Self::Regex)
            }
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Plain(key) => {
                let Some(start) = path.len().checked_sub(key.len()) else {
                    return false;
                };
                let (head, end) = path.as_bytes().split_at(start);
                let same = |(found, key): (&u8, &Option<u8>)| key.is_none_or(|key| key == *found);
                (head.is_empty() || head.ends_with(b".")) && end.iter().zip(key).all(same)
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// The characters of a regular expression of letters, digits and dots; `\.` is a dot itself.
fn plain(text: &str) -> Option<Vec<Option<u8>>> {
    let mut bytes = text.bytes();
    let mut key = Vec::new();
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'.' => None,
            b'\\' => Some(bytes.next().filter(|&byte| byte == b'.')?),
            _ if byte.is_ascii_alphanumeric() || byte == b'_' => Some(byte),
            _ => return None,
        });
    }
    (!key.is_empty()).then_some(key)
}

/// Modules by a regular expression over the whole path, or by a list of ends.
#[derive(Debug)]
pub enum Modules {
    /// `re.fullmatch(pattern, path)`.
    Regex(Regex),
    /// Paths, or their ends from a dot on.
    Ends(Vec<String>),
}

impl Modules {
    /// The modules whose whole path a regular expression matches.
    ///
    /// # Errors
    /// It cannot be compiled.
    pub fn regex(text: &str) -> Result<Self, Bad> {
        compile(text, &format!(r"\A(?:{text})\z")).map(Self::Regex)
    }

    /// Whether this path is among them.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(path),
            Self::Ends(ends) => ends.iter().any(|end| is_end(path, end)),
        }
    }
}

/// Whether `end` is the path, or the end of it behind a dot.
pub fn is_end(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|head| head.is_empty() || (head.ends_with('.') && !end.is_empty()))
}

/// The index that stands behind a module list in a path: behind any list, or one that `pattern`
/// names.
///
/// # Errors
/// The pattern cannot be compiled.
pub fn layer_index(pattern: Option<&str>) -> Result<Regex, Bad> {
    match pattern {
        None => compile("", r"\A.*?\.[^.]*\.(?P<idx>\d+)\."),
        Some(text) => compile(text, &format!(r"\A(?:^|.*?\.){text}\.(?P<idx>\d+)\.")),
    }
}

/// Whether a path is a module of `modules_to_save`, or inside of one, which no factors go to.
///
/// # Errors
/// The name is no regular expression, as which PEFT takes it.
pub fn inside(module: &str) -> Result<Regex, Bad> {
    compile(module, &format!(r"\A(?:(^|.*\.){module}($|\..*))"))
}

/// Compiles `whole`, which is made of the `text` that somebody wrote.
fn compile(text: &str, whole: &str) -> Result<Regex, Bad> {
    let bad = |cause: &dyn Display| {
        let cause = cause.to_string();
        let last = cause.lines().last().unwrap_or_default();
        format!(
            "{} cannot be used as a regular expression: {}; write it without lookaround, \
             backreferences and possessive repetition, or list the modules' paths",
            shortened(&text.into()),
            last.strip_prefix("error: ")
                .unwrap_or(last)
                .trim_end_matches('.')
        )
    };
    if let Some(found) = DIFFERENT
        .iter()
        .find(|&&different| text.contains(different))
    {
        return Err(bad(&format!(
            "`{found}` means something else to other engines than to Python's"
        )));
    }
    if text.len() > LONGEST {
        return Err(format!(
            "a regular expression of {} bytes; the longest have {LONGEST}",
            text.len()
        ));
    }
    let build = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        builder
            .size_limit(COMPILED)
            .dfa_size_limit(COMPILED)
            .build()
    };
    // By itself first, so that it cannot end a group of what stands around it.
    build(text).map_err(|error| bad(&error))?;
    build(whole).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "bert.encoder.layer.11.attention.self.query";

    #[test]
    fn keys_match_ends_as_python_does() {
        for (key, matches) in [
            ("query", true),
            ("self.query", true),
            ("bert.encoder.layer.11.attention.self.query", true),
            ("uery", false),
            ("elf.query", false),
            ("layer.1.attention.self.query", false),
            // A dot stands for any character.
            ("layer.11.attention.self.que.y", true),
            ("layer.11.attention.self", false),
            (r"layer\.\d+\.attention\.self\.query", true),
            (r"layer\.\d\.attention\.self\.query", false),
            (r"layer\.11\.attention\.self\.query", true),
            (r"layer\.1\.attention\.self\.query", false),
            (r".*\.11\..*(query|value)", true),
            ("query|value", true),
            ("^bert.encoder.layer.11.attention.self.query", true),
            ("^query", false),
            ("query$", true),
            ("", false),
            ("(((e|e)*)*)*x", false),
        ] {
            assert_eq!(Key::new(key).unwrap().matches(PATH), matches, "{key}");
        }
    }

    #[test]
    fn the_first_key_counts_and_each_has_its_own() {
        let paths = ["a.foo", "bar.foo", "b.x"].map(str::to_owned);
        let keys = ["a.*|bar.foo", "foo", r"b\.x"].map(str::to_owned);
        let found = first_keys(&keys, &paths).unwrap();
        assert_eq!(
            found,
            [Some("a.*|bar.foo"), Some("a.*|bar.foo"), Some(r"b\.x")]
        );
        let many: Vec<String> = (0..2000).map(|i| format!("a+{i}")).collect();
        assert!(first_keys(&many, &paths).unwrap_err().contains("1024"));
        let long = "a+".repeat(4000);
        assert!(
            first_keys([&long], &paths)
                .unwrap_err()
                .contains("8000 bytes")
        );
    }

    #[test]
    fn modules_match_whole_paths_or_ends_at_dots() {
        for (pattern, matches) in [
            (".*query", true),
            ("query", false),
            (".*(query|value)", true),
            ("bert.*self", false),
        ] {
            assert_eq!(Modules::regex(pattern).unwrap().matches(PATH), matches);
        }
        for (end, matches) in [
            ("query", true),
            ("self.query", true),
            ("f.query", false),
            (".", false),
            ("", false),
        ] {
            let ends = Modules::Ends(vec![end.to_owned()]);
            assert_eq!(ends.matches(PATH), matches, "{end:?}");
        }
    }

    #[test]
    fn what_the_engine_does_not_have_is_named() {
        for text in [
            "query(?!s)",
            r"(query)\1",
            "(?<=a)query",
            "(query",
            "query)|(value",
            "q*+",
            "((((q{1000}){1000}){1000}){1000})",
        ] {
            for error in [
                Key::new(text).unwrap_err(),
                Modules::regex(text).unwrap_err(),
            ] {
                assert!(error.contains(&shortened(&text.into())), "{error}");
                assert!(error.contains("regular expression"), "{error}");
            }
        }
    }

    #[test]
    fn the_first_number_is_the_layer() {
        let index = |pattern: Option<&str>, path: &str| {
            let regex = layer_index(pattern).unwrap();
            let found = regex.captures(path)?;
            found.name("idx").map(|index| index.as_str().to_owned())
        };
        let path = "model.layers.7.experts.3.up";
        assert_eq!(index(None, path).as_deref(), Some("7"));
        assert_eq!(index(Some("layers"), path).as_deref(), Some("7"));
        assert_eq!(index(Some("experts"), path).as_deref(), Some("3"));
        assert_eq!(index(Some("layer"), path), None);
    }
}
