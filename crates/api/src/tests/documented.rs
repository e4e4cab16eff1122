//! Every answer that a test of this crate gets, next to what the OpenAPI document says of its row: the status is told, the
//! body is as its schema says and has nothing that the schema has not.
//!
//! `KILONOVA_TEST_RECORD_ANSWERS=FILE` records instead: `recorded.rs` makes the table of the file, of which the documents are
//! made.

use super::answer_schemas::version;
use super::shape::FREE;
use crate::openapi::{name_of, of_answer, refuses};
use crate::route::{Route, Served, Table, Verb};
use crate::routes::ROUTES;
use crate::schemas;
use http::{HeaderMap, Method, StatusCode};
use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use types::Microversion;

thread_local! {
    static SWEEPS: Cell<bool> = const { Cell::new(false) };
}

/// What this thread asks from now on it asks at every version alike.
pub fn sweep() {
    SWEEPS.set(true);
}

/// The file into which answers are recorded.
pub fn record() -> Option<std::path::PathBuf> {
    std::env::var_os("KILONOVA_TEST_RECORD_ANSWERS").map(Into::into)
}

/// What is recorded of an answer.
#[derive(Default, Deserialize, Serialize)]
pub struct Record {
    pub row: String,
    pub version: u16,
    pub status: u16,
    /// Asked at every version alike.
    pub swept: bool,
    /// There was no body.
    pub empty: bool,
    /// The kinds of values at each place of the document.
    pub kinds: BTreeMap<String, BTreeSet<String>>,
    /// The names that objects have at each place.
    pub objects: BTreeMap<String, BTreeSet<Vec<String>>>,
}

/// Documents whose keys are data.
fn is_free_itself(row: &Route, version: u16) -> bool {
    match row.path {
        "/flavors/{flavor_id}/os-extra_specs/{id}" | "/servers/{server_id}/ips/{id}" => true,
        "/servers/{server_id}/diagnostics" => version < 48,
        _ => false,
    }
}

/// Whether the keys of the object at this place are data.
fn is_free(place: &str) -> bool {
    let (parent, last) = place.rsplit_once('.').unwrap_or_default();
    FREE.contains(&last) || last == "log" || last == "*" && parent.ends_with(".hosts")
}

impl Record {
    pub fn see(&mut self, place: &str, value: &Value, free: bool) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !place.is_empty() {
            let kinds = self.kinds.entry(place.to_owned()).or_default();
            kinds.insert(kind.to_owned());
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let name = if free { "*" } else { name };
                    let place = format!("{place}.{name}");
                    self.see(&place, inner, is_free(&place));
                }
                if !free {
                    let names = map.keys().cloned().collect();
                    let objects = self.objects.entry(place.to_owned()).or_default();
                    objects.insert(names);
                }
            }
            Value::Array(list) => {
                let place = format!("{place}[]");
                list.iter().for_each(|inner| self.see(&place, inner, false));
            }
            _ => {}
        }
    }
}

/// Appends what is new.
fn write(record: &Record, file: &std::path::Path) {
    static WRITTEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let line = serde_json::to_string(record).unwrap();
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if written.insert(line.clone()) {
        let opened = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file);
        // At once: another process may record into the same file.
        let line = format!("{line}\n");
        opened.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The row that a request leads to.
fn row(method: &str, below: &str, sent: &str) -> Option<&'static Route> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(ROUTES));
    let verb = Verb::of(&method.parse::<Method>().ok()?)?;
    let found = TABLE.find(verb, below)?;
    let body: Value = serde_json::from_str(sent).unwrap_or_default();
    let only = body.as_object().filter(|map| map.len() == 1);
    let named = only.and_then(|map| map.keys().next().cloned());
    let rows = found.rows.iter();
    let mut fits = rows.filter(|row| row.action.is_none() || row.action == named.as_deref());
    fits.next().copied()
}

/// Panics unless the answer is as documented.
pub fn hold(
    method: &str,
    path: &str,
    sent: &str,
    status: StatusCode,
    headers: &HeaderMap,
    bytes: &[u8],
) {
    let other = path.contains("dry_run=") || headers.contains_key("content-encoding");
    let Some((version, below)) = version(path, headers).filter(|_| !other) else {
        return;
    };
    let Some(row) = row(method, below, sent) else {
        return;
    };
    let code = status.as_u16();
    if matches!(row.served, Served::Gone) || !row.exists_at(Microversion(version)) {
        return;
    }
    if let Some(file) = record() {
        let mut record = Record {
            row: name_of(row),
            status: code,
            ..Record::default()
        };
        if status.is_success() {
            record.version = version;
            record.swept = SWEEPS.get();
            record.empty = bytes.is_empty();
            let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
            record.see("", &answer, is_free_itself(row, version));
        }
        write(&record, &file);
        return;
    }
    let at = format!("{method} {path} at 2.{version} ({code})");
    if !status.is_success() {
        let text = String::from_utf8_lossy(bytes);
        assert!(refuses(row, code), "{at} is not documented: {text}");
        return;
    }
    let mut told = row.successes(Microversion(version));
    assert!(told.any(|one| one == code), "{at} is no status of its row");
    fits(row, code, version, bytes, &at);
}

/// What a body must be like: whether it may be missing, and its schema.
type Wanted = Option<(bool, Option<Arc<Validator>>)>;

fn fits(row: &'static Route, code: u16, version: u16, bytes: &[u8], at: &str) {
    type Compiled = Mutex<HashMap<(String, u16, u16), Wanted>>;
    static COMPILED: LazyLock<Compiled> = LazyLock::new(Compiled::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = compiled
        .entry((name_of(row), code, version))
        .or_insert_with(|| {
            let answer = of_answer(row, code, Microversion(version), true)?;
            let validator = answer
                .schema
                .map(|schema| schemas::compile(&schema).unwrap());
            Some((answer.empty, validator.map(Arc::new)))
        });
    let wanted = wanted.clone();
    drop(compiled);
    let Some((empty, validator)) = wanted else {
        panic!("{at} is not documented");
    };
    if bytes.is_empty() {
        assert!(empty, "{at} has no body, which is not documented");
        return;
    }
    let answer: Value = serde_json::from_slice(bytes).unwrap();
    let Some(validator) = validator else {
        panic!("{at} has a body, which is not documented: {answer}");
    };
    let wrong: Vec<String> = validator
        .iter_errors(&answer)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(
        wrong.is_empty(),
        "{at} is not as documented: {}\n{answer}",
        wrong.join("; ")
    );
}
