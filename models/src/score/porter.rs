//! Porter's stemmer (Porter, 1980) with the extensions of NLTK, which are its `NLTK_EXTENSIONS`: the
//! variant that rouge-score uses. Other variants give other stems, and ROUGE in the third digit.

/// Words with stems of their own.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// The stem of a word in lower case. A word with other than ASCII characters is its own.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(known, _)| *known == word) {
        return (*stem).to_owned();
    }
    let word = word.to_owned();
    if word.len() <= 2 || !word.is_ascii() {
        return word;
    }
    let steps = [step_1a, step_1b, step_1c, step_2, step_3, step_4, step_5a];
    step_5b(steps.into_iter().fold(word, |word, step| step(word)))
}

/// Plurals.
fn step_1a(word: String) -> String {
    let rules = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    match word.strip_suffix("ies") {
        Some(stem) if stem.len() == 1 => format!("{stem}ie"),
        _ => by_rules(word, &rules, |_, _| true),
    }
}

/// Past tenses and participles.
fn step_1b(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return stem.to_owned() + if stem.len() == 1 { "ie" } else { "i" };
    }
    if word.ends_with("eed") {
        return by_rules(word, &[("eed", "ee")], |_, stem| measure(stem) > 0);
    }
    let has_vowel = |stem: &&str| consonants(stem).any(|is| !is);
    let of = |suffix| word.strip_suffix(suffix).filter(has_vowel);
    let Some(stem) = of("ed").or_else(|| of("ing")) else {
        return word;
    };
    let stem = stem.to_owned();
    match ends_double(&stem) {
        _ if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) => stem + "e",
        true if stem.ends_with(['l', 's', 'z']) => stem,
        true => stem[..stem.len() - 1].to_owned(),
        false if measure(&stem) == 1 && ends_cvc(&stem) => stem + "e",
        false => stem,
    }
}

fn step_1c(word: String) -> String {
    by_rules(word, &[("y", "i")], |_, stem| {
        stem.len() > 1 && consonants(stem).last() == Some(true)
    })
}

fn step_2(word: String) -> String {
    let rules = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
        ("logi", "log"),
    ];
    match word.strip_suffix("alli") {
        // What is left may have another of these endings.
        Some(stem) if measure(stem) > 0 => step_2(format!("{stem}al")),
        _ => by_rules(word, &rules, |suffix, stem| match suffix {
            "logi" => measure(&format!("{stem}l")) > 0,
            _ => measure(stem) > 0,
        }),
    }
}

fn step_3(word: String) -> String {
    let rules = [
        ("icate", "ic"),
        ("ative", ""),
        ("alize", "al"),
        ("iciti", "ic"),
        ("ical", "ic"),
        ("ful", ""),
        ("ness", ""),
    ];
    by_rules(word, &rules, |_, stem| measure(stem) > 0)
}

fn step_4(word: String) -> String {
    let suffixes = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion",
        "ou", "ism", "ate", "iti", "ous", "ive", "ize",
    ];
    by_rules(
        word,
        &suffixes.map(|suffix| (suffix, "")),
        |suffix, stem| measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])),
    )
}

fn step_5a(word: String) -> String {
    by_rules(word, &[("e", "")], |_, stem| match measure(stem) {
        0 => false,
        1 => !ends_cvc(stem),
        _ => true,
    })
}

fn step_5b(word: String) -> String {
    by_rules(word, &[("ll", "l")], |_, stem| {
        measure(&format!("{stem}l")) > 1
    })
}

/// Replaces the first of the endings that the word has, if what is before it `fits`: no other is tried.
fn by_rules(word: String, rules: &[(&str, &str)], fits: impl Fn(&str, &str) -> bool) -> String {
    let found = rules.iter().find_map(|(suffix, by)| {
        let stem = word.strip_suffix(suffix)?;
        Some((suffix, stem, by))
    });
    match found {
        Some((suffix, stem, by)) if fits(suffix, stem) => format!("{stem}{by}"),
        _ => word,
    }
}

/// Whether each letter is a consonant: `y` is one unless it follows one.
fn consonants(word: &str) -> impl Iterator<Item = bool> + '_ {
    let mut is_consonant = false;
    word.bytes().map(move |letter| {
        is_consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !is_consonant,
            _ => true,
        };
        is_consonant
    })
}

/// How often a consonant follows a vowel: m in the paper.
fn measure(stem: &str) -> usize {
    let mut after_vowel = false;
    let follows =
        |is_consonant: &bool| std::mem::replace(&mut after_vowel, !is_consonant) && *is_consonant;
    consonants(stem).filter(follows).count()
}

/// Whether a word ends in a consonant twice: *d in the paper.
fn ends_double(word: &str) -> bool {
    let end = word.as_bytes().last_chunk();
    end.is_some_and(|[a, b]| a == b) && consonants(word).last() == Some(true)
}

/// Whether a word ends in consonant, vowel and consonant, or is a vowel and a consonant: *o in the paper.
fn ends_cvc(word: &str) -> bool {
    let letters: Vec<bool> = consonants(word).collect();
    match letters[..] {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PITFALLS 83: Snowball's English and the first Porter have other stems.
    #[test]
    fn stems_are_those_of_nltk() {
        for (word, expected) in [
            ("generously", "gener"),
            ("communities", "commun"),
            ("exceeds", "exce"),
            ("singly", "singli"),
            ("1990s", "1990"),
            ("dying", "die"),
            ("skies", "sky"),
            ("news", "news"),
        ] {
            assert_eq!(stem(word), expected);
        }
        for own in ["", "as", "caf\u{e9}s"] {
            assert_eq!(stem(own), own);
        }
    }

    /// Expected: NLTK 3.10.
    #[test]
    fn every_rule_is_as_in_nltk() {
        let rows = include_str!("../../../tests/fixtures/score/stems.txt");
        let mut count = 0;
        for row in rows.lines() {
            let (word, expected) = row.split_once(' ').unwrap();
            assert_eq!(stem(word), expected, "{word}");
            count += 1;
        }
        assert!(count > 2000, "{count}");
    }
}
