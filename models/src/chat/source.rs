//! Templates as minijinja reads them: what Jinja has and minijinja lacks, in other words.

/// The filter that marks what `{% generation %}` encloses.
pub(super) const GENERATION: &str = "__generation";

/// A template's source, made for minijinja.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The source as it was.
    pub jinja: String,
    pub text: String,
    /// Whether it says by `{% generation %}` what the model writes.
    pub marks: bool,
}

impl Source {
    /// Three things are written otherwise. `{% generation %}` is a block with a filter, which has
    /// the same white space around it. `a ~ b` is `a|string ~ b|string`, since minijinja joins
    /// its own words for None and True. And all line ends are `\n`, as Jinja has them.
    pub fn new(written: &str) -> Self {
        let jinja = written.replace("\r\n", "\n").replace('\r', "\n");
        let mut source = Self {
            jinja: written.to_owned(),
            text: String::new(),
            marks: false,
        };
        let mut rest = &*jinja;
        while let Some(at) = rest.find(['{']) {
            let (before, tag) = rest.split_at(at);
            source.text += before;
            let end = match tag.as_bytes().get(1) {
                Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
                Some(b'%') => source.statement(tag),
                Some(b'{') => source.expression(tag),
                _ => 1,
            };
            let copied = match tag.as_bytes().get(1) {
                Some(b'%' | b'{') => "",
                _ => &tag[..end],
            };
            source.text += copied;
            rest = &tag[end..];
        }
        source.text += rest;
        source
    }

    /// Takes `{{ ... }}` in; gives its length.
    fn expression(&mut self, tag: &str) -> usize {
        let inside = &tag[2..];
        let len = length(inside, "}}");
        let end = (2 + len + 2).min(tag.len());
        self.text += "{{";
        self.text += &texts(&inside[..len]);
        self.text += &tag[2 + len..end];
        end
    }

    /// Takes `{% ... %}` in, of `{% raw %}` the whole block; gives its length.
    fn statement(&mut self, tag: &str) -> usize {
        let inside = &tag[2..];
        let len = length(inside, "%}");
        let end = (2 + len + 2).min(tag.len());
        let whole = &tag[..end];
        let trimmed = inside[..len]
            .trim_start_matches(['-', '+'])
            .trim_end_matches(['-', '+']);
        match trimmed.trim() {
            "generation" => {
                self.marks = true;
                self.text +=
                    &whole.replacen("generation", &format!("filter {GENERATION} %}}{{% with"), 1);
            }
            "endgeneration" => {
                self.text += &whole.replacen("endgeneration", "endwith %}{% endfilter", 1);
            }
            "raw" => {
                let close = end_of_raw(&tag[end..]);
                self.text += &tag[..end + close];
                return end + close;
            }
            _ => {
                self.text += "{%";
                self.text += &texts(&inside[..len]);
                self.text += &tag[2 + len..end];
            }
        }
        end
    }
}

/// Where the block of `{% raw %}` ends.
fn end_of_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(found) = text[at..].find("{%") {
        let start = at + found;
        let inside = &text[start + 2..];
        let len = inside.find("%}").unwrap_or(inside.len());
        let end = (start + 2 + len + 2).min(text.len());
        let name = inside[..len]
            .trim_start_matches(['-', '+'])
            .trim_end_matches(['-', '+']);
        if name.trim() == "endraw" {
            return end;
        }
        at = start + 2;
    }
    text.len()
}

/// Bytes of an expression up to its `end`, which may occur inside of quotes and brackets.
fn length(text: &str, end: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if depth == 0 && rest.starts_with(end) {
            return at;
        }
        match rest.as_bytes()[0] {
            b'\'' | b'"' => at += string(rest),
            open @ (b'(' | b'[' | b'{' | b')' | b']' | b'}') => {
                match open {
                    b'(' | b'[' | b'{' => depth += 1,
                    _ => depth = depth.saturating_sub(1),
                }
                at += 1;
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    text.len()
}

/// Bytes of the text in quotes that `text` begins with.
fn string(text: &str) -> usize {
    let quote = text.chars().next();
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if Some(letter) == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// An expression in which what `~` joins are texts.
fn texts(expression: &str) -> String {
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    while at < expression.len() {
        let rest = &expression[at..];
        match rest.as_bytes()[0] {
            b'\'' | b'"' => at += string(rest),
            b'~' => {
                out += expression[copied..at].trim_end();
                out += "|string ~";
                at += 1;
                copied = at;
                let operand = operand(&expression[at..]);
                // Another `~` behind it says the same.
                let behind = expression[at + operand..].trim_start();
                if !behind.starts_with('~') {
                    out += &texts(&expression[at..at + operand]);
                    out += "|string";
                    at += operand;
                    copied = at;
                }
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    out += &expression[copied..];
    out
}

/// Bytes of the value that `text` begins with: a name, a number, a text or brackets, with all
/// attributes, items, calls and filters of it.
fn operand(text: &str) -> usize {
    let blank = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let name = |at: usize| {
        let len = text[at..].find(|c: char| !c.is_alphanumeric() && c != '_');
        at + len.unwrap_or(text.len() - at)
    };
    let mut end = blank(0);
    end = match text.as_bytes().get(end) {
        Some(b'\'' | b'"') => end + string(&text[end..]),
        Some(b'(' | b'[' | b'{') => end + brackets(&text[end..]),
        _ => name(end),
    };
    loop {
        let next = blank(end);
        end = match text.as_bytes().get(next) {
            Some(b'.') => name(blank(next + 1)),
            Some(b'(' | b'[') => next + brackets(&text[next..]),
            Some(b'|') => name(blank(next + 1)),
            _ => return end,
        };
    }
}

/// Bytes of the brackets that `text` begins with.
fn brackets(text: &str) -> usize {
    let close = match text.as_bytes().first() {
        Some(b'(') => ")",
        Some(b'[') => "]",
        _ => "}",
    };
    (1 + length(&text[1..], close) + 1).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_values_are_texts_and_all_else_is_kept() {
        for (jinja, expected) in [
            ("a ~ b {{ 1 }}", "a ~ b {{ 1 }}"),
            ("{{ a ~ b }}", "{{ a|string ~ b|string }}"),
            (
                "{{ '~' ~ b.c[1](x ~ y)|trim + d }}",
                "{{ '~'|string ~ b.c[1](x|string ~ y|string)|trim|string + d }}",
            ),
            (
                "{%- set x = a ~ b ~ '}}' -%}",
                "{%- set x = a|string ~ b|string ~ '}}'|string -%}",
            ),
            (
                "{{ {'a': {'b': 1}} }}~{{ (a ~ 1) }}",
                "{{ {'a': {'b': 1}} }}~{{ (a|string ~ 1|string) }}",
            ),
            (
                "{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}",
                "{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}",
            ),
            ("a\r\nb\rc {", "a\nb\nc {"),
            ("{{ a", "{{ a"),
            ("{% if 'é~' ~ x", "{% if 'é~'|string ~ x|string"),
        ] {
            assert_eq!(Source::new(jinja).text, expected, "{jinja}");
        }
    }

    #[test]
    fn what_is_generated_is_a_filtered_block() {
        let source = Source::new("{%- generation -%}x{%+ endgeneration %}\n{{ 'generation' }}");
        assert!(source.marks);
        assert_eq!(
            source.text,
            "{%- filter __generation %}{% with -%}x{%+ endwith %}{% endfilter %}\n{{ 'generation' }}"
        );
        assert!(!Source::new("{{ generation }}").marks);
    }
}
