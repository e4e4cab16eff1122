//! Values made from a JSON schema: most of them valid, many of them broken in one place.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

const UUIDS: &[&str] = &[
    "70a599e0-31e7-49b7-b260-868f441e862b",
    "70A599E031E749B7B260868F441E862B",
    "{70a599e0-31e7-49b7-b260-868f441e862b}",
    "urn:uuid:70a599e0-31e7-49b7-b260-868f441e862b",
    "70a599e0-31e7-49b7-b260-868f441e862",
    "70a599e0-31e7-49b7-b260-868f441e862z",
    "7-0a599e031e749b7b260868f441e862b",
    "",
];
const NAMES: &[&str] = &[
    "a",
    "a b",
    " a",
    "a ",
    " ",
    "a:b",
    "ü",
    "a\u{a0}b",
    "\u{a0}a",
    "a\u{7}",
    "a\tb",
    "\u{1f600}",
    "a\u{200b}b",
    "a\u{2028}b",
    "\u{e000}",
    "e\u{301}",
    "a@b.c",
    "a_b-c",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "5",
    "007",
    "2147483647",
    "2147483648",
    "9223372036854775808",
    "1.5",
    "+1",
    "1e3",
    "0x1",
    "",
    "abc",
    "-0",
    "0.0",
    "3.5e38",
];
const TIMES: &[&str] = &[
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00",
    "2026-01-01 00:00:00",
    "2026-01-01T00:00:00.123456+02:00",
    "2026-01-01T00:00:00-0530",
    "2026-01-01",
    "20260101T000000Z",
    "2026-01",
    "2026",
    "202601",
    "2026-13-01",
    "2026-02-30T00:00:00Z",
    "2026-01-01T25:00:00Z",
    "2026-01-01T00:60",
    "2026-01-01T10",
    "2026-01-01T10:00+01",
    "2026-1-1",
    "yesterday",
    "",
    " 2026-01-01",
];
const REGEXES: &[&str] = &[
    "a", "^a.*b$", "", "*", "(", "[a-", "a{2}", "\\d+", "a|b", "(?i)a",
];
const BASE64: &[&str] = &[
    "aGFsbG8=",
    "aGFs\nbG8=",
    "aGFsbG8",
    "not base64!",
    "",
    "====",
    "a",
    "aa",
    "aa==",
    "aa=",
    "aaaa!!",
    "ü",
    "aGFsbG8=extra",
    "ab==cd",
];
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.0.0.256",
    "10.0.0",
    "010.0.0.1",
    "fe80::1",
    "::",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "",
    "localhost",
    "1.2.3.4 ",
    "2001:db8::g",
];
const WORDS: &[&str] = &[
    "",
    "a",
    "none",
    "auto",
    "True",
    "no",
    "10.0.0.1",
    "/24",
    "/x",
    "/dev/vda",
    "/dev/xvda1",
    "vda",
    "a/b",
    "a,b",
    "host.name",
    "host_name",
    "-",
    "a-b",
    "ab",
    "a b",
    "é",
    "default",
    "key:with.dots",
    "property-x",
    "_x",
    "active",
    "ERROR",
    "HARD",
];

/// Any value at all.
pub fn any(rng: &mut StdRng) -> Value {
    match rng.random_range(0..12) {
        0 => Value::Null,
        1 => rng.random_bool(0.5).into(),
        2 => json!([0, 1, -1, 2, 2_147_483_648_i64].choose(rng).unwrap()),
        3 => json!([1.0, 1.5, 0.0, -0.5].choose(rng).unwrap()),
        4 => json!([]),
        5 => json!({}),
        6 => json!([WORDS.choose(rng).unwrap()]),
        7 => json!({ *WORDS.choose(rng).unwrap(): WORDS.choose(rng).unwrap() }),
        8 => text(NUMBERS, rng),
        9 => text(NAMES, rng),
        10 => "x"
            .repeat([60, 61, 63, 64, 255, 256][rng.random_range(0..6)])
            .into(),
        _ => text(WORDS, rng),
    }
}

fn text(pool: &[&str], rng: &mut StdRng) -> Value {
    (*pool.choose(rng).unwrap()).into()
}

fn length(schema: &Value, name: &str) -> Option<usize> {
    usize::try_from(schema.get(name)?.as_u64()?).ok()
}

fn string(schema: &Value, rng: &mut StdRng) -> Value {
    if rng.random_bool(0.2) {
        let least = length(schema, "minLength").unwrap_or(0);
        let most = length(schema, "maxLength").unwrap_or(300).min(70_000);
        let edges = [least.saturating_sub(1), least, most, most + 1];
        return "a".repeat(*edges.choose(rng).unwrap()).into();
    }
    let pool = match schema.get("format").and_then(Value::as_str) {
        Some("uuid" | "image_ref") => UUIDS,
        Some("ipv4" | "ipv6") => ADDRESSES,
        Some("date-time") => TIMES,
        Some("regex") => REGEXES,
        Some("base64") => BASE64,
        Some(_) => NAMES,
        None => match schema.get("pattern").and_then(Value::as_str) {
            Some(pattern) if pattern.contains("0-9]") && !pattern.contains("a-z") => NUMBERS,
            Some(_) => [WORDS, NAMES, NUMBERS].choose(rng).unwrap(),
            None => [WORDS, WORDS, WORDS, UUIDS, NUMBERS, ADDRESSES]
                .choose(rng)
                .unwrap(),
        },
    };
    text(pool, rng)
}

fn number(schema: &Value, rng: &mut StdRng) -> Value {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64);
    let mut pool = vec![1, 2, 10];
    for (edge, beyond) in [("minimum", -1), ("maximum", 1)] {
        pool.extend(
            bound(edge)
                .into_iter()
                .flat_map(|edge| [edge, edge + beyond]),
        );
    }
    let one = *pool.choose(rng).unwrap();
    match rng.random_range(0..6) {
        0 => json!(one.to_string()),
        1 if rng.random_bool(0.3) => json!(one as f64),
        _ => json!(one),
    }
}

/// A value that is meant for this schema; it hits edges, so that not all are valid.
pub fn value(schema: &Value, rng: &mut StdRng) -> Value {
    if rng.random_bool(0.02) {
        return any(rng);
    }
    for choice in ["oneOf", "anyOf"] {
        let Some(branches) = schema.get(choice).and_then(Value::as_array) else {
            continue;
        };
        let mut merged = schema.clone();
        merged.as_object_mut().unwrap().remove(choice);
        let branch = branches.choose(rng).unwrap().as_object().unwrap();
        for (name, inner) in branch {
            if name != "required" {
                merged[name] = inner.clone();
            }
        }
        return value(&merged, rng);
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        return value(parts.choose(rng).unwrap(), rng);
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return options.choose(rng).unwrap().clone();
    }
    let kind = match schema.get("type") {
        Some(Value::String(one)) => one.as_str(),
        Some(Value::Array(several)) => several.choose(rng).unwrap().as_str().unwrap(),
        _ => "any",
    };
    match kind {
        "object" => object(schema, rng),
        "array" => array(schema, rng),
        "string" => string(schema, rng),
        "integer" | "number" => number(schema, rng),
        "boolean" => rng.random_bool(0.5).into(),
        "null" => Value::Null,
        _ => any(rng),
    }
}

fn object(schema: &Value, rng: &mut StdRng) -> Value {
    let mut made = Map::new();
    let empty = Map::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let share = [0.1, 0.3, 0.6][rng.random_range(0..3)];
    for (name, inner) in properties {
        let wanted = if required.contains(&name.as_str()) {
            0.98
        } else {
            share
        };
        if rng.random_bool(wanted) {
            made.insert(name.clone(), value(inner, rng));
        }
    }
    let patterns = schema.get("patternProperties").and_then(Value::as_object);
    for inner in patterns.into_iter().flat_map(Map::values) {
        for _ in 0..rng.random_range(0..3) {
            let name = if rng.random_bool(0.1) {
                "k".repeat(255 + rng.random_range(0..2))
            } else {
                (*WORDS.choose(rng).unwrap()).to_owned()
            };
            made.insert(name, value(inner, rng));
        }
    }
    if rng.random_bool(0.04) {
        made.insert(
            (*["bogus", "_x", "description", "tag"].choose(rng).unwrap()).to_owned(),
            any(rng),
        );
    }
    made.into()
}

fn array(schema: &Value, rng: &mut StdRng) -> Value {
    let least = length(schema, "minItems").unwrap_or(0);
    let count = match rng.random_range(0..10) {
        0 => least.saturating_sub(1),
        1 => length(schema, "maxItems").unwrap_or(2).min(60) + 1,
        2 => length(schema, "maxItems").unwrap_or(2).min(60),
        _ => least.max(1),
    };
    let items = schema.get("items").cloned().unwrap_or_else(|| json!({}));
    let many = count > 3;
    (0..count)
        .map(|index| match value(&items, rng) {
            Value::String(text) if many && rng.random_bool(0.9) => format!("{text}{index}").into(),
            made => made,
        })
        .collect()
}

/// Breaks a value in one place.
pub fn mutate(value: &mut Value, rng: &mut StdRng) {
    let deeper = rng.random_bool(0.7);
    match value {
        Value::Object(map) if !map.is_empty() && deeper => {
            let name = map
                .keys()
                .nth(rng.random_range(0..map.len()))
                .unwrap()
                .clone();
            mutate(&mut map[&name], rng);
        }
        Value::Array(list) if !list.is_empty() && deeper => {
            let index = rng.random_range(0..list.len());
            mutate(&mut list[index], rng);
        }
        Value::Object(map) if !map.is_empty() && rng.random_bool(0.5) => {
            let name = map
                .keys()
                .nth(rng.random_range(0..map.len()))
                .unwrap()
                .clone();
            map.remove(&name);
        }
        Value::Object(map) if rng.random_bool(0.5) => {
            map.insert((*WORDS.choose(rng).unwrap()).to_owned(), any(rng));
        }
        Value::Array(list) if !list.is_empty() && rng.random_bool(0.5) => {
            list.push(list[0].clone());
        }
        other => *other = any(rng),
    }
}

/// The smallest value found by leaving out parts that is still interesting.
pub fn shrink(value: &Value, interesting: &dyn Fn(&Value) -> bool) -> Value {
    let mut best = value.clone();
    loop {
        let smaller = parts(&best).into_iter().find(|one| interesting(one));
        let Some(smaller) = smaller else { return best };
        best = smaller;
    }
}

/// The value with one part left out or made plain, in every way.
fn parts(value: &Value) -> Vec<Value> {
    let mut made = Vec::new();
    match value {
        Value::Object(map) => {
            for name in map.keys() {
                let mut less = map.clone();
                less.remove(name);
                made.push(less.into());
            }
            for (name, inner) in map {
                for inner in parts(inner) {
                    let mut other = map.clone();
                    other.insert(name.clone(), inner);
                    made.push(other.into());
                }
            }
        }
        Value::Array(list) => {
            for index in 0..list.len() {
                let mut less = list.clone();
                less.remove(index);
                made.push(less.into());
            }
            for (index, inner) in list.iter().enumerate() {
                for inner in parts(inner) {
                    let mut other = list.clone();
                    other[index] = inner;
                    made.push(other.into());
                }
            }
        }
        Value::String(text) if text != "a" && !text.is_empty() => made.push("a".into()),
        _ => {}
    }
    made
}
