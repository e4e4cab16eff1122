//! `kilonova.conf`: the form of oslo.config's files, read with the number of each line.
//!
//! Sections in brackets, `name = value` or `name: value`, comments that begin a line with `#` or `;`, and values that
//! go on in lines that begin with a blank. A name set twice has its last value.

use std::path::Path;

/// One `name = value`, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The section, without brackets; `DEFAULT` before the first.
    pub(crate) section: String,
    /// The name.
    pub(crate) name: String,
    /// The value; the lines of a longer one are joined by line ends.
    pub(crate) value: String,
    /// The line it begins in, from 1.
    pub(crate) line: usize,
}

/// A line that is no configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {reason}")]
pub(crate) struct SyntaxError {
    line: usize,
    reason: &'static str,
}

/// All entries of a text, in their order.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut section = "DEFAULT".to_owned();
    let mut entries: Vec<Entry> = Vec::new();
    let mut goes_on = false;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let fail = |reason| Err(SyntaxError { line, reason });
        let content = raw.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            goes_on &= !content.is_empty();
            continue;
        }
        if raw.starts_with(char::is_whitespace) {
            match entries.last_mut() {
                Some(entry) if goes_on => {
                    entry.value.push('\n');
                    entry.value.push_str(content);
                }
                _ => return fail("a line that begins with a blank continues nothing"),
            }
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']').filter(|name| !name.is_empty()) else {
                return fail("a section is written [name]");
            };
            name.clone_into(&mut section);
            goes_on = false;
            continue;
        }
        let Some((name, value)) = content.split_once(['=', ':']) else {
            return fail("this is neither a section, nor name = value, nor a comment");
        };
        let name = name.trim_end();
        if name.is_empty() {
            return fail("a name is missing before the =");
        }
        entries.push(Entry {
            section: section.clone(),
            name: name.to_owned(),
            value: unquoted(value.trim_start()).to_owned(),
            line,
        });
        goes_on = true;
    }
    Ok(entries)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|v| v.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

/// `file:line`, as editors and terminals understand it.
pub(crate) fn place(file: &Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn oslos_form_is_read() {
        let text = "early = 1\n# comment\n; comment\n[api]\nmax_limit: 10\n\n[database]\nconnection = \"mysql://a:b=c@h/d\"\n\
                    [list]\nmany = one\n   two\n# in between\n\tthree\n";
        let found: Vec<_> = parse(text)
            .unwrap()
            .into_iter()
            .map(|entry| (entry.section, entry.name, entry.value, entry.line))
            .collect();
        let expected = [
            ("DEFAULT", "early", "1", 1),
            ("api", "max_limit", "10", 5),
            ("database", "connection", "mysql://a:b=c@h/d", 8),
            ("list", "many", "one\ntwo\nthree", 10),
        ]
        .map(|(section, name, value, line)| {
            (section.to_owned(), name.to_owned(), value.to_owned(), line)
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_configuration_is_named_by_its_line() {
        for (text, line) in [
            ("a = 1\nnonsense\n", 2),
            ("[api\n", 1),
            ("[]\n", 1),
            ("\n = 1\n", 2),
            ("  a = 1\n", 1),
            ("a = 1\n\n  b\n", 3),
            ("[api]\n  b\n", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
    }
}
