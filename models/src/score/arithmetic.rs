//! Whether a text ends in the right answer, a number or one of the letters A to E, by a named rule.
//!
//! A text is right if the number that the rule finds in it is within [`TOLERANCE`] of the right one, or the
//! letter is the same. Without a number or a letter it is wrong. Scores by different rules do not compare,
//! so the rule's name belongs beside every score.

use std::sync::LazyLock;

use regex::Regex;

use crate::choice::did_you_mean;

/// How far a number may be from the right one, as in LLM-Adapters.
pub const TOLERANCE: f64 = 1e-3;

/// How the answer of a text is found.
#[derive(Debug)]
pub struct Rule {
    /// Its name beside scores.
    pub name: &'static str,
    /// What it takes, in a line.
    pub about: &'static str,
    /// The number that a text gives as its answer.
    pub number: fn(&str) -> Option<f64>,
    /// The letter from A to E that a text gives as its answer.
    pub letter: fn(&str) -> Option<char>,
}

/// That of LLM-Adapters' `evaluate.py`.
pub const LLM_ADAPTERS: Rule = Rule {
    name: "llm-adapters",
    about: "the last match of -?\\d+\\.?\\d* once commas are removed; the first of A to E anywhere",
    number: adapters_number,
    letter: |text| text.chars().find(|letter| ('A'..='E').contains(letter)),
};

/// Reads numbers and letters as people do.
pub const STRICT: Rule = Rule {
    name: "strict",
    about: "the last number, with signs, $, thousands and fractions; the last of A to E that stands alone",
    number: |text| numbers(text).last(),
    letter: |text| letters(text).last(),
};

/// Reads what is behind a mark.
pub const MARKER: Rule = Rule {
    name: "marker",
    about: "as strict, but the first behind the first #### or \"answer is\"",
    number: |text| numbers(behind_marker(text)?).next(),
    letter: |text| letters(behind_marker(text)?).next(),
};

/// Every rule, by its name; the first is the default.
pub static RULES: &[Rule] = &[LLM_ADAPTERS, STRICT, MARKER];

impl Rule {
    /// The rule of this name.
    ///
    /// # Errors
    /// There is none; the error names all.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        RULES.iter().find(|rule| rule.name == name).ok_or_else(|| {
            let names = || RULES.iter().map(|rule| rule.name);
            format!(
                "no rule is called `{name}`; expected one of {}{}",
                names().collect::<Vec<_>>().join(", "),
                did_you_mean(name, names())
            )
        })
    }

    /// Whether a text gives the right answer.
    pub fn is_right(&self, text: &str, right: Answer) -> bool {
        match right {
            Answer::Number(right) => {
                let found = (self.number)(text);
                found.is_some_and(|found| (found - right).abs() <= TOLERANCE)
            }
            Answer::Letter(right) => (self.letter)(text) == Some(right),
        }
    }
}

/// A right answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// A finite number.
    Number(f64),
    /// A letter from A to E.
    Letter(char),
}

impl Answer {
    /// The answer that a file of problems gives: a number such as `576.0`, `-3` or `1,000`, a letter, or a
    /// solution as in GSM8K that ends in `#### N`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(written: &str) -> Result<Self, String> {
        let (_, last) = written.rsplit_once("####").unwrap_or(("", written));
        let last = last.trim();
        if let [letter @ b'A'..=b'E'] = last.as_bytes() {
            return Ok(Self::Letter(char::from(*letter)));
        }
        // A comma that does not separate thousands may be a decimal one.
        static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
            pattern(
                r"^[-+]?\$?-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9.]+(?:[eE][-+]?[0-9]+)?)$",
            )
        });
        let plain = last.replace([',', '$'], "");
        let plain = PLAIN.is_match(last).then_some(plain);
        let number = plain.and_then(|plain| plain.parse().ok());
        let number = number.filter(|number: &f64| number.is_finite());
        number.map(Self::Number).ok_or_else(|| {
            "a number, a letter from A to E, or a solution that ends in `#### N`".to_owned()
        })
    }
}

/// LLM-Adapters' number.
fn adapters_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"-?\d+\.?\d*"));
    let text = text.replace(',', "");
    let last = NUMBER.find_iter(&text).last()?;
    value(last.as_str())
}

/// The numbers of a text, with signs, currencies, thousands and fractions. What has two decimal points is
/// none, and a minus behind a number, a letter or a bracket is no sign.
fn numbers(text: &str) -> impl Iterator<Item = f64> + '_ {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"([-\u{2212}]?)[$€£]?([-\u{2212}]?)(\.?\d[\d,.]*)(?:/(\d+))?"));
    NUMBER.captures_iter(text).filter_map(|found| {
        let whole = found.get(0)?;
        let group = |i: usize| found.get(i).map_or("", |group| group.as_str());
        let before = text[..whole.start()].chars().next_back();
        let joins = before.is_some_and(|c| c.is_alphanumeric() || c == ')');
        let is_negative = !group(2).is_empty() || (!group(1).is_empty() && !joins);
        let mut number = value(&without_thousands(group(3)))?;
        if let Some(denominator) = found.get(4) {
            number /= value(denominator.as_str()).filter(|by| *by != 0.0)?;
        }
        Some(if is_negative { -number } else { number })
    })
}

/// Digits and commas without the commas that separate thousands, and of a list the last number.
fn without_thousands(digits: &str) -> String {
    let digits = digits.trim_end_matches(['.', ',']);
    let mut groups = digits.split(',');
    let first = groups.next().unwrap_or_default();
    let is_group = |group: &str| group.split('.').next().unwrap_or_default().chars().count() == 3;
    match first.chars().count() <= 3 && groups.all(is_group) {
        true => digits.replace(',', ""),
        false => digits.rsplit(',').next().unwrap_or_default().to_owned(),
    }
}

/// The letters from A to E that stand alone, in any case before a bracket, else in upper case. A is an
/// article where it begins a sentence and a word in lower case follows.
fn letters(text: &str) -> impl Iterator<Item = char> + '_ {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([A-Ea-e])\)|\b([A-E])\b"));
    LETTER.captures_iter(text).filter_map(|found| {
        let whole = found.get(0)?;
        let before = text[..whole.start()].trim_end_matches(' ');
        let is_start = before.is_empty() || before.ends_with(['.', '!', '?', '\n']);
        let mut behind = text[whole.end()..].chars();
        let is_word = behind.next() == Some(' ') && behind.next().is_some_and(char::is_lowercase);
        let letter = found.get(1).or(found.get(2))?.as_str().chars().next()?;
        let is_article = whole.as_str() == "A" && is_start && is_word;
        (!is_article).then_some(letter.to_ascii_uppercase())
    })
}

/// The text behind the first mark of an answer.
fn behind_marker(text: &str) -> Option<&str> {
    static MARKER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)####|answer is"));
    MARKER.find(text).map(|marker| &text[marker.end()..])
}

/// The number that digits say, of any script as in Python.
fn value(written: &str) -> Option<f64> {
    let ascii: Option<String> = written
        .chars()
        .map(|c| match c {
            '-' | '.' => Some(c),
            digit => char::from_digit(u32::from(self::digit(digit)?), 10),
        })
        .collect();
    ascii?.parse().ok()
}

/// The value of a decimal digit. The digits of a script follow each other from its zero on.
fn digit(c: char) -> Option<u8> {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d"));
    let is_digit = |code: u32| {
        let c = char::from_u32(code);
        c.is_some_and(|c| DIGIT.is_match(c.encode_utf8(&mut [0; 4])))
    };
    if let Some(value) = c.to_digit(10) {
        return u8::try_from(value).ok();
    }
    let code = u32::from(c);
    let before = (1..)
        .take_while(|back| code.checked_sub(*back).is_some_and(is_digit))
        .count();
    is_digit(code).then_some((before % 10) as u8)
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(rule: &Rule, text: &str) -> Option<f64> {
        (rule.number)(text)
    }

    fn letter(rule: &Rule, text: &str) -> Option<char> {
        (rule.letter)(text)
    }

    /// PITFALLS 70.
    #[test]
    fn dollars_dots_and_thousands_are_no_part_of_a_number() {
        for (text, expected) in [
            ("is $1,234.50.", 1234.5),
            ("The answer is 7.", 7.0),
            ("$1,000,000", 1e6),
            ("50%", 50.0),
            ("9.80", 9.8),
        ] {
            for rule in RULES.iter().filter(|rule| rule.name != "marker") {
                assert_eq!(number(rule, text), Some(expected), "{}: {text}", rule.name);
            }
            assert_eq!(number(&MARKER, &format!("#### {text}")), Some(expected));
        }
        assert!(LLM_ADAPTERS.is_right("9.80", Answer::Number(9.8)));
        assert!(LLM_ADAPTERS.is_right("9.801", Answer::Number(9.8)));
        assert!(!LLM_ADAPTERS.is_right("9.802", Answer::Number(9.8)));
    }

    /// PITFALLS 71.
    #[test]
    fn a_minus_is_a_sign_or_an_operator() {
        for (text, adapters, strict) in [
            ("10-7", -7.0, 7.0),
            ("10 - 7", 7.0, 7.0),
            ("5 - 3 = 2", 2.0, 2.0),
            ("\u{2212}4", 4.0, -4.0),
            ("x = -4", -4.0, -4.0),
            ("(2)-4", -4.0, 4.0),
            ("-$5", 5.0, -5.0),
            ("$-5", -5.0, -5.0),
        ] {
            assert_eq!(number(&LLM_ADAPTERS, text), Some(adapters), "{text}");
            assert_eq!(number(&STRICT, text), Some(strict), "{text}");
        }
        assert_eq!(
            Answer::parse("2 - 5 = -3\n#### -3"),
            Ok(Answer::Number(-3.0))
        );
        assert_eq!(Answer::parse("576.0"), Ok(Answer::Number(576.0)));
        assert_eq!(Answer::parse(" #### 1,000 "), Ok(Answer::Number(1000.0)));
        for (written, number) in [
            ("1,234,567.5", 1_234_567.5),
            ("$18", 18.0),
            ("-$5", -5.0),
            ("$-5", -5.0),
            ("+3", 3.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("2e-1", 0.2),
        ] {
            assert_eq!(
                Answer::parse(written),
                Ok(Answer::Number(number)),
                "{written}"
            );
        }
        assert_eq!(Answer::parse("C"), Ok(Answer::Letter('C')));
        for none in [
            "",
            "F",
            "nan",
            "inf",
            "1e999",
            "AB",
            "####",
            "1 2",
            "1,2",
            "1.000,50",
            "1,00,000",
            "5$3",
            "5$",
            ",5",
            "1.2.3",
            "12,345,67",
        ] {
            assert!(Answer::parse(none).is_err(), "{none}");
        }
    }

    /// PITFALLS 72.
    #[test]
    fn what_is_no_number_is_wrong_and_digits_are_of_any_script() {
        for (text, adapters, strict) in [
            ("no number", None, None),
            ("\u{bd}", None, None),
            ("1/2", Some(2.0), Some(0.5)),
            ("1/0", Some(0.0), None),
            ("1e3", Some(3.0), Some(3.0)),
            ("3.5.2", Some(2.0), None),
            ("2 or 3.5.2", Some(2.0), Some(2.0)),
            ("1,2,3", Some(123.0), Some(3.0)),
            ("\u{663}", Some(3.0), Some(3.0)),
            // The digits of five styles follow each other.
            ("\u{1d7cf}\u{1d7d9}\u{1d7ff}", Some(119.0), Some(119.0)),
        ] {
            assert_eq!(number(&LLM_ADAPTERS, text), adapters, "{text}");
            assert_eq!(number(&STRICT, text), strict, "{text}");
        }
        let huge = "9".repeat(400);
        assert_eq!(number(&LLM_ADAPTERS, &huge), Some(f64::INFINITY));
        for text in ["no number", &huge] {
            for right in [0.0, f64::INFINITY] {
                assert!(!LLM_ADAPTERS.is_right(text, Answer::Number(right)));
            }
        }
    }

    /// PITFALLS 74.
    #[test]
    fn a_letter_is_the_first_anywhere_or_the_last_that_stands_alone() {
        for (text, adapters, strict) in [
            ("The answer is B", Some('B'), Some('B')),
            ("Answer: B", Some('A'), Some('B')),
            ("Because 2+2, C", Some('B'), Some('C')),
            ("(d)", None, Some('D')),
            ("d) 40", None, Some('D')),
            ("D. A train is late", Some('D'), Some('D')),
            ("It is A, not B", Some('A'), Some('B')),
            ("So it is A since x > y", Some('A'), Some('A')),
            ("A", Some('A'), Some('A')),
            ("F", None, None),
        ] {
            assert_eq!(letter(&LLM_ADAPTERS, text), adapters, "{text}");
            assert_eq!(letter(&STRICT, text), strict, "{text}");
        }
        assert_eq!(letter(&MARKER, "The answer is (c). Not B"), Some('C'));
        assert!(LLM_ADAPTERS.is_right("B", Answer::Letter('B')));
        assert!(!LLM_ADAPTERS.is_right("(b)", Answer::Letter('B')));
    }

    /// PITFALLS 79.
    #[test]
    fn a_marker_is_looked_for_in_all_of_the_text() {
        let text = format!("So #### 42{}", " and then 7 more".repeat(25));
        assert_eq!(number(&MARKER, &text), Some(42.0));
        assert_eq!(number(&LLM_ADAPTERS, &text), Some(7.0));
        assert_eq!(
            number(&MARKER, "THE ANSWER IS: 3. The answer is 4"),
            Some(3.0)
        );
        assert_eq!(number(&MARKER, "42"), None);
        assert_eq!(number(&MARKER, "42 ####"), None);
    }

    #[test]
    fn rules_are_known_by_their_names() {
        for rule in RULES {
            assert_eq!(
                Rule::named(rule.name).map(|found| found.name),
                Ok(rule.name)
            );
        }
        let error = Rule::named("llm-adapter").unwrap_err();
        assert!(
            error.ends_with("llm-adapters, strict, marker; did you mean `llm-adapters`?"),
            "{error}"
        );
    }

    /// Expected: Python's `re` and `float`, as LLM-Adapters uses them.
    #[test]
    fn texts_of_any_kind_are_read_as_python_reads_them() {
        let rows = include_str!("../../../tests/fixtures/score/arithmetic.json");
        let rows: Vec<(String, Option<f64>, Option<char>)> = serde_json::from_str(rows).unwrap();
        assert_eq!(rows.len(), 400);
        for (text, value, first) in rows {
            assert_eq!(number(&LLM_ADAPTERS, &text), value, "{text}");
            assert_eq!(letter(&LLM_ADAPTERS, &text), first, "{text}");
        }
    }
}
