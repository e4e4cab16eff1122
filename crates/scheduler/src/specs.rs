//! The small language of extra specs that are compared with a host's capabilities or an aggregate's metadata
//! (Nova administrator guide, ComputeCapabilitiesFilter).

use serde_json::Value;

/// A capability as text, as extra specs compare it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether what a host has satisfies what an extra spec asks for.
///
/// `= n` (or `>= n`) at least, `<= n`, `== n`, `!= n` as numbers; `s== s!= s>= s> s<= s<` as texts; `<in> x` contains;
/// `<all-in> x y` contains all; `<or> a <or> b` is one of; `<range-in> [ a b ]` between; without operator: the same text.
pub(crate) fn satisfies(has: &Value, wanted: &str) -> bool {
    let words: Vec<&str> = wanted.split_whitespace().collect();
    let Some((operator, rest)) = words.split_first() else {
        return text(has).is_empty();
    };
    match *operator {
        "<or>" => rest
            .split(|word| *word == "<or>")
            .any(|choice| choice.join(" ") == text(has)),
        "<in>" => rest
            .split(|word| *word == "<in>")
            .all(|part| contains(has, &part.join(" "))),
        "<all-in>" => rest.iter().all(|part| contains(has, part)),
        "<range-in>" => in_range(has, rest),
        "=" | ">=" | "<=" | "==" | "!=" => compare_numbers(has, operator, rest),
        "s==" | "s!=" | "s>=" | "s>" | "s<=" | "s<" => {
            compare_texts(&text(has), operator, &rest.join(" "))
        }
        _ => text(has) == wanted,
    }
}

fn contains(has: &Value, part: &str) -> bool {
    match has {
        Value::Array(items) => items.iter().any(|item| text(item) == part),
        Value::Object(members) => members.contains_key(part),
        other => text(other).contains(part),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn compare_numbers(has: &Value, operator: &str, wanted: &[&str]) -> bool {
    let (Some(has), [wanted]) = (number(has), wanted) else {
        return false;
    };
    let Ok(wanted) = wanted.parse::<f64>() else {
        return false;
    };
    match operator {
        "==" => has == wanted,
        "!=" => has != wanted,
        "<=" => has <= wanted,
        _ => has >= wanted,
    }
}

fn compare_texts(has: &str, operator: &str, wanted: &str) -> bool {
    match operator {
        "s==" => has == wanted,
        "s!=" => has != wanted,
        "s>=" => has >= wanted,
        "s>" => has > wanted,
        "s<=" => has <= wanted,
        _ => has < wanted,
    }
}

/// `[ 10 20 ]`; a round bracket leaves the end out.
fn in_range(has: &Value, range: &[&str]) -> bool {
    let (Some(has), [open, low, high, close]) = (number(has), range) else {
        return false;
    };
    let (Ok(low), Ok(high)) = (low.parse::<f64>(), high.parse::<f64>()) else {
        return false;
    };
    let above = if *open == "(" { has > low } else { has >= low };
    let below = if *close == ")" {
        has < high
    } else {
        has <= high
    };
    above && below
}

/// Whether a version such as 7002000 (7.2.0) satisfies predicates such as `>=6.0,<8`.
pub(crate) fn version_satisfies(version: u64, wanted: &str) -> bool {
    wanted.split(',').all(|predicate| {
        let predicate = predicate.trim();
        let at = predicate
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(predicate.len());
        let (operator, number) = predicate.split_at(at);
        let Some(wanted) = version_number(number) else {
            return false;
        };
        match operator.trim() {
            ">=" => version >= wanted,
            ">" => version > wanted,
            "<=" => version <= wanted,
            "<" => version < wanted,
            "!=" => version != wanted,
            "=" | "==" | "" => version == wanted,
            _ => false,
        }
    })
}

fn version_number(text: &str) -> Option<u64> {
    let mut parts = text.trim().split('.').map(str::parse::<u64>);
    let major = parts.next()?.ok()?;
    let minor = parts.next().unwrap_or(Ok(0)).ok()?;
    let micro = parts.next().unwrap_or(Ok(0)).ok()?;
    Some(major * 1_000_000 + minor * 1_000 + micro)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operators() {
        for (has, wanted, expected) in [
            (json!(5), "5", true),
            (json!("x"), "x", true),
            (json!("x"), "y", false),
            (json!(""), "", true),
            (json!(5), "= 4", true),
            (json!(3), "= 4", false),
            (json!(3), "<= 4", true),
            (json!(4), "== 4.0", true),
            (json!("4"), "!= 5", true),
            (json!("x"), ">= 4", false),
            (json!(4), ">=", false),
            (json!("b"), "s== b", true),
            (json!("b"), "s!= b", false),
            (json!("b"), "s> a", true),
            (json!("b"), "s>= b", true),
            (json!("b"), "s< c", true),
            (json!("b"), "s<= a", false),
            (json!("one two"), "<in> two", true),
            (json!(["aes", "vmx"]), "<in> vmx", true),
            (json!(["aes", "vmx"]), "<in> vm", false),
            (json!({"1g": {}}), "<in> 1g", true),
            (json!(["aes", "vmx"]), "<in> aes <in> vmx", true),
            (json!(["aes", "vmx"]), "<all-in> aes sse", false),
            (json!(["aes", "vmx"]), "<all-in> aes vmx", true),
            (json!("hpet"), "<or> tsc <or> hpet", true),
            (json!("pit"), "<or> tsc <or> hpet", false),
            (json!(10), "<range-in> [ 10 20 ]", true),
            (json!(10), "<range-in> ( 10 20 ]", false),
            (json!(20), "<range-in> [ 10 20 )", false),
            (json!(true), "true", true),
        ] {
            assert_eq!(satisfies(&has, wanted), expected, "{has} against {wanted}");
        }
    }

    #[test]
    fn versions() {
        for (wanted, expected) in [
            (">=6.0,<8", true),
            ("7.2", true),
            ("==7.2.0", true),
            ("!=7.2.0", false),
            (">7.2", false),
            ("<=7.1.9", false),
            ("~7", false),
            ("x", false),
        ] {
            assert_eq!(version_satisfies(7_002_000, wanted), expected, "{wanted}");
        }
    }
}
