//! Rules about the text of files.

use super::{Finding, Source};
use std::path::{Component, Path, PathBuf};

/// A file longer than this wants splitting.
const MAX_LINES: usize = 1000;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "manager", "helper", "helpers", "misc",
];

/// Crates that may speak of microversions: the words, the HTTP edges, and what wires or tests them.
const KNOW_MICROVERSIONS: &[&str] = &["types", "web", "api", "placement", "kilonova", "testkit"];

/// Crates whose every file may hold SQL. A companion's SQL stands in its `db` module.
const SQL_CRATES: &[&str] = &["db", "sql", "testkit", "xtask"];
const COMPANIONS: &[&str] = &["identity", "image", "network", "volume", "key-manager"];

/// Checks one file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine_paths(source, &mut findings);
    if !source.path.ends_with(".rs") {
        return findings;
    }
    length(source, &mut findings);
    names(source, &mut findings);
    if !is_test(&source.path) {
        sql(source, &mut findings);
        microversion(source, &mut findings);
    }
    findings
}

fn crate_of(path: &str) -> &str {
    path.strip_prefix("crates/")
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default()
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        findings.push(Finding::at(
            &source.path,
            None,
            format!("{lines} lines; split it, a file has at most {MAX_LINES}"),
        ));
    }
}

fn names(source: &Source, findings: &mut Vec<Finding>) {
    for part in Path::new(&source.path).components() {
        let name = Path::new(part.as_os_str())
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if EMPTY_NAMES.contains(&name) {
            findings.push(Finding::at(
                &source.path,
                None,
                format!("`{name}` says nothing: name the file after what is in it"),
            ));
        }
    }
    for (number, line) in numbered(source) {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| word.starts_with("pub"));
        let inline = words.next() == Some("mod")
            && words.next().is_some_and(|name| EMPTY_NAMES.contains(&name));
        if inline && line.contains('{') {
            findings.push(Finding::at(
                &source.path,
                Some(number),
                "name the module after what is in it",
            ));
        }
    }
}

fn sql(source: &Source, findings: &mut Vec<Finding>) {
    let room = crate_of(&source.path);
    let in_db_module = COMPANIONS.contains(&room)
        && (source.path.contains("/src/db/") || source.path.ends_with("/src/db.rs"));
    if SQL_CRATES.contains(&room) || in_db_module {
        return;
    }
    for (number, line) in numbered(source) {
        if holds_statement(line) {
            findings.push(Finding::at(
                &source.path,
                Some(number),
                "SQL stands only in the crates db and sql and in a companion's db module",
            ));
        }
    }
}

/// Whether a string literal that begins on this line, or a line of one that goes on, begins with a statement.
fn holds_statement(line: &str) -> bool {
    const STATEMENTS: &[&str] = &[
        "SELECT ",
        "INSERT INTO ",
        "DELETE FROM ",
        "CREATE TABLE ",
        "CREATE INDEX ",
        "ALTER TABLE ",
        "DROP TABLE ",
    ];
    let is_update = |text: &str| text.starts_with("UPDATE ") && text.contains(" SET ");
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        return false;
    }
    std::iter::once(trimmed)
        .chain(line.split('"').skip(1).map(str::trim_start))
        .any(|text| STATEMENTS.iter().any(|word| text.starts_with(word)) || is_update(text))
}

fn microversion(source: &Source, findings: &mut Vec<Finding>) {
    let room = crate_of(&source.path);
    if room.is_empty() || room == "xtask" || KNOW_MICROVERSIONS.contains(&room) {
        return;
    }
    for (number, line) in numbered(source) {
        let comment = line.trim_start().starts_with("//");
        if !comment && line.contains("Microversion") {
            findings.push(Finding::at(
                &source.path,
                Some(number),
                "nothing below the HTTP edge knows a microversion",
            ));
        }
    }
}

/// Paths that exist on one person's machine only.
fn machine_paths(source: &Source, findings: &mut Vec<Finding>) {
    // Put together here, so that this file does not find itself.
    let forbidden = [
        ["/wo", "rk/"].concat(),
        ["/Use", "rs/"].concat(),
        ["/tmp/bash", "_jobs"].concat(),
        ["/home/ru", "nner"].concat(),
    ];
    for (number, line) in numbered(source) {
        for path in &forbidden {
            if starts_path(line, path) {
                findings.push(Finding::at(
                    &source.path,
                    Some(number),
                    format!("`{path}` is a path of one machine"),
                ));
            }
        }
    }
}

/// Whether `path` occurs in the line as the beginning of an absolute path, not inside a longer one or a URL.
fn starts_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|before| {
            before.is_alphanumeric() || matches!(before, '/' | '.' | '}' | '_' | '-')
        })
    })
}

/// Checks that relative links of Markdown files lead somewhere.
pub fn check_links(sources: &[Source], exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in numbered(source) {
            for target in links(line) {
                if !exists(&resolve(&source.path, target)) {
                    findings.push(Finding::at(
                        &source.path,
                        Some(number),
                        format!("the link to {target} leads nowhere"),
                    ));
                }
            }
        }
    }
    findings
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        let outside = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !outside).then_some(target)
    })
}

fn resolve(file: &str, target: &str) -> PathBuf {
    let mut path = Path::new(file).parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

fn numbered(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&source)
            .into_iter()
            .map(|finding| finding.place)
            .collect()
    }

    #[test]
    fn sql_has_its_places() {
        let query = "fn f() {\n    tx.query(\"SELECT id FROM servers\", &[])\n}\n";
        let cases = [
            ("crates/api/src/servers.rs", true),
            ("crates/journal/src/lib.rs", true),
            ("crates/identity/src/tokens.rs", true),
            ("crates/identity/src/db.rs", false),
            ("crates/network/src/db/ports.rs", false),
            ("crates/db/src/servers.rs", false),
            ("crates/api/src/servers/tests.rs", false),
        ];
        for (path, found) in cases {
            assert_eq!(
                places(path, query) == [format!("{path}:2")],
                found,
                "{path}"
            );
        }
    }

    #[test]
    fn statements_are_told_from_words() {
        let cases = [
            ("let q = \"UPDATE servers SET host = ?\";", true),
            ("    SELECT id FROM servers", true),
            ("sql.push_str(\"DELETE FROM ports\")", true),
            ("// SELECT id FROM servers", false),
            ("let title = \"UPDATE of a port\";", false),
            ("let word = \"Select a host\";", false),
        ];
        for (line, found) in cases {
            assert_eq!(holds_statement(line), found, "{line}");
        }
    }

    #[test]
    fn names_say_something() {
        assert_eq!(places("crates/api/src/utils.rs", "").len(), 1);
        assert_eq!(places("crates/api/src/common/mod.rs", "").len(), 1);
        assert_eq!(
            places("crates/api/src/faults.rs", "pub mod helpers {}\n").len(),
            1
        );
        assert!(places("crates/api/src/faults.rs", "mod faults {}\n").is_empty());
    }

    #[test]
    fn long_files_are_named() {
        assert!(places("crates/api/src/a.rs", &"\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(
            places("crates/api/src/a.rs", &"\n".repeat(MAX_LINES + 1)).len(),
            1
        );
    }

    #[test]
    fn microversions_stay_at_the_edge() {
        let text = "use types::Microversion;\n";
        assert_eq!(places("crates/conductor/src/lib.rs", text).len(), 1);
        assert!(places("crates/api/src/lib.rs", text).is_empty());
    }

    #[test]
    fn machine_paths_are_found() {
        let path = ["/wo", "rk/main"].concat();
        assert_eq!(places("README.md", &format!("see {path}")).len(), 1);
        assert!(places("README.md", "a frame/work/around").is_empty());
        assert!(places("README.md", "https://example.org/work/").is_empty());
    }

    #[test]
    fn links_lead_somewhere() {
        let sources = [Source {
            path: "docs/a.md".to_owned(),
            text: "[b](b.md#part) [root](../README.md) [web](https://example.org/x) [gone](c.md)\n"
                .to_owned(),
        }];
        let there = ["docs/b.md", "README.md"];
        let findings = check_links(&sources, |path| {
            there.iter().any(|known| Path::new(known) == path)
        });
        assert_eq!(
            findings,
            [Finding::at(
                "docs/a.md",
                Some(1),
                "the link to c.md leads nowhere"
            )]
        );
    }
}
