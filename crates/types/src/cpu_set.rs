//! Sets of CPUs as texts such as `0-3,^1,7`.

use std::collections::BTreeSet;

/// CPUs of a guest at most: a larger number in a set is nobody's CPU, and would only cost memory.
pub const MOST_CPUS: u32 = 65_536;

/// A text that is no set. The words are Nova's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid {kind} expression '{rule}'")]
pub struct NoCpuSet {
    kind: &'static str,
    rule: String,
}

/// The CPUs of a text: numbers, ranges, and what is left out of them behind a caret.
///
/// # Errors
/// The first part that cannot be understood.
pub fn parse(text: &str) -> Result<BTreeSet<u32>, NoCpuSet> {
    let (mut taken, mut left_out) = (BTreeSet::new(), BTreeSet::new());
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST_CPUS);
    for rule in text
        .split(',')
        .map(str::trim)
        .filter(|rule| !rule.is_empty())
    {
        let (without, list, kind) = match rule.strip_prefix('^') {
            Some(rest) => (rest, &mut left_out, "exclusion"),
            None => (rule, &mut taken, "inclusion"),
        };
        let wrong = |kind| NoCpuSet {
            kind,
            rule: rule.to_owned(),
        };
        match without.split_once('-') {
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => list.extend(first..=last),
                _ => return Err(wrong("range")),
            },
            None => drop(list.insert(number(without).ok_or_else(|| wrong(kind))?)),
        }
    }
    Ok(&taken - &left_out)
}
