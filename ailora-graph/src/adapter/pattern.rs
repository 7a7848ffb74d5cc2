//! Patterns that name projections or parameters of a model.

/// Whether `pattern` names `path`: the whole of it, or its last segments.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let suffixes = path.match_indices('.').map(|(i, _)| &path[i + 1..]);
    std::iter::once(path)
        .chain(suffixes)
        .any(|suffix| glob(pattern, suffix))
}

/// Whether `text` is `pattern` with each `*` replaced by some characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|&i| rest.is_char_boundary(i))
                .any(|i| glob(tail, &rest[i..]))
        }),
    }
}

/// What to write instead of a pattern that matches none of `paths`: the closest ending of as many
/// segments as `segments`, or all endings there are.
pub(crate) fn suggest<'a>(
    pattern: &str,
    paths: impl Iterator<Item = &'a str>,
    segments: usize,
) -> String {
    let end = |path: &'a str| match path.rmatch_indices('.').nth(segments - 1) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    };
    let mut names: Vec<&str> = Vec::new();
    for path in paths {
        if !names.contains(&end(path)) {
            names.push(end(path));
        }
    }
    let wanted = match pattern.rmatch_indices('.').nth(segments - 1) {
        Some((at, _)) => &pattern[at + 1..],
        None => pattern,
    };
    match closest(wanted, &names) {
        Some(name) => format!("; did you mean `{name}`?"),
        _ if names.is_empty() => "; it has none".to_owned(),
        _ => format!("; their names end in: {}", names.join(", ")),
    }
}

/// The name that is most like another one, if it is like it at all.
pub(crate) fn closest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.8)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_paths_and_their_ends() {
        assert!(matches("query", "encoder.layer.10.query"));
        assert!(matches("layer.1*.query", "encoder.layer.10.query"));
        assert!(matches("*", "anything"));
        assert!(matches("*LayerNorm*", "encoder.layer.0.LayerNorm.weight"));
        assert!(matches("*.bias", "encoder.layer.0.LayerNorm.bias"));
        assert!(!matches("uery", "encoder.query"));
        assert!(!matches("layer.1", "encoder.layer.1.query"));
    }
}
