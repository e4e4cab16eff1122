//! The layout check. Each rule looks at the workspace and returns what breaks it; the rules and their reasons are
//! described in `ARCHITECTURE.md` and `CONTRIBUTING.md`.

mod features;
mod layers;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Something that breaks a rule: where, and what to do about it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File relative to the workspace root, with a line number where there is one.
    pub place: String,
    /// What is wrong, in words for the person who has to fix it.
    pub what: String,
}

impl Finding {
    /// A finding at a file, or at a line of it (counted from 1).
    pub fn at(file: &str, line: Option<usize>, what: impl Into<String>) -> Self {
        let place = match line {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        };
        Self {
            place,
            what: what.into(),
        }
    }
}

/// A text file that git knows or would know.
pub struct Source {
    /// Path relative to the workspace root, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// Runs every rule and prints the findings; the exit code says whether there were any.
pub fn run() -> ExitCode {
    match check(&workspace_root()) {
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::from(2)
        }
        Ok((files, findings)) if findings.is_empty() => {
            println!("tidy: {files} files, nothing to complain about");
            ExitCode::SUCCESS
        }
        Ok((files, findings)) => {
            for finding in &findings {
                println!("{}: {}", finding.place, finding.what);
            }
            println!("tidy: {files} files, {} findings", findings.len());
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> Result<(usize, Vec<Finding>), String> {
    let sources = sources(root)?;
    let metadata = metadata(root)?;
    let mut findings = layers::check(&metadata)?;
    findings.extend(features::check(&metadata)?);
    for source in &sources {
        findings.extend(text::check(source));
    }
    findings.extend(text::check_links(&sources, |path| root.join(path).exists()));
    findings.sort();
    Ok((sources.len(), findings))
}

fn workspace_root() -> PathBuf {
    // crates/xtask lies two levels below the root.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = output_of(
        Command::new(cargo)
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
            ])
            .current_dir(root),
    )?;
    serde_json::from_slice(&output)
        .map_err(|error| format!("cargo metadata gave no valid JSON: {error}"))
}

/// Every file that is tracked or new and not ignored, as far as it is text.
fn sources(root: &Path) -> Result<Vec<Source>, String> {
    let listing = output_of(
        Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root),
    )?;
    let mut paths: Vec<&str> = std::str::from_utf8(&listing)
        .map_err(|error| format!("a file name is not UTF-8: {error}"))?
        .split('\0')
        .filter(|path| !path.is_empty())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    Ok(paths
        .into_iter()
        .filter_map(|path| read(root, path))
        .collect())
}

/// A binary file, or one that is deleted in the work tree, is nothing to check.
fn read(root: &Path, path: &str) -> Option<Source> {
    let text = fs::read_to_string(root.join(path)).ok()?;
    Some(Source {
        path: path.to_owned(),
        text,
    })
}

fn output_of(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
