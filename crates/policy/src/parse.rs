//! The grammar of checks.

use winnow::ascii::multispace0;
use winnow::combinator::{alt, delimited, eof, not, opt, peek, preceded, separated, terminated};
use winnow::error::ContextError;
use winnow::prelude::*;
use winnow::token::{one_of, take_while};

type Parsed<T> = winnow::Result<T, ContextError>;

/// A parsed check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Always,
    Never,
    Not(Box<Check>),
    And(Vec<Check>),
    Or(Vec<Check>),
    Rule(String),
    Role(String),
    Generic { kind: String, wanted: String },
}

impl Check {
    /// The names of the rules it refers to.
    pub(crate) fn rules(&self) -> Vec<&str> {
        match self {
            Self::Rule(name) => vec![name],
            Self::Not(inner) => inner.rules(),
            Self::And(all) | Self::Or(all) => all.iter().flat_map(Self::rules).collect(),
            _ => Vec::new(),
        }
    }
}

/// Reads a check; an empty one always holds.
pub(crate) fn check(text: &str) -> Result<Check, String> {
    if text.trim().is_empty() {
        return Ok(Check::Always);
    }
    terminated(any_of, (multispace0, eof))
        .parse(text)
        .map_err(|error| format!("stopped at character {}", error.offset()))
}

fn any_of(input: &mut &str) -> Parsed<Check> {
    let mut parts: Vec<Check> = separated(1.., all_of, keyword("or")).parse_next(input)?;
    Ok(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Check::Or(parts)
    })
}

fn all_of(input: &mut &str) -> Parsed<Check> {
    let mut parts: Vec<Check> = separated(1.., negation, keyword("and")).parse_next(input)?;
    Ok(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Check::And(parts)
    })
}

fn negation(input: &mut &str) -> Parsed<Check> {
    let negated = opt(keyword("not")).parse_next(input)?;
    let inner = preceded(multispace0, alt((parenthesised, atom))).parse_next(input)?;
    Ok(if negated.is_some() {
        Check::Not(Box::new(inner))
    } else {
        inner
    })
}

fn parenthesised(input: &mut &str) -> Parsed<Check> {
    delimited(('(', multispace0), any_of, (multispace0, ')')).parse_next(input)
}

fn keyword<'i>(word: &'static str) -> impl Parser<&'i str, (), ContextError> {
    move |input: &mut &'i str| {
        let text = preceded(
            multispace0,
            take_while(1.., |c: char| c.is_ascii_alphabetic()),
        );
        let boundary = peek(not(one_of([':', '_', '.'])));
        terminated(
            text.verify(move |found: &str| found.eq_ignore_ascii_case(word)),
            boundary,
        )
        .void()
        .parse_next(input)
    }
}

fn atom(input: &mut &str) -> Parsed<Check> {
    let word = atom_text.parse_next(input)?;
    match word {
        "@" => return Ok(Check::Always),
        "!" => return Ok(Check::Never),
        _ => {}
    }
    let Some((kind, wanted)) = split_kind(word) else {
        return Err(ContextError::new());
    };
    Ok(match kind {
        "rule" => Check::Rule(wanted.to_owned()),
        "role" => Check::Role(wanted.to_owned()),
        _ => Check::Generic {
            kind: kind.to_owned(),
            wanted: wanted.to_owned(),
        },
    })
}

/// A run without blanks in which `%(name)s` keeps its parentheses.
fn atom_text<'i>(input: &mut &'i str) -> Parsed<&'i str> {
    let text = *input;
    let mut inside = false;
    let mut previous = ' ';
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        if c == '(' && previous == '%' {
            inside = true;
        } else if c == ')' && inside {
            inside = false;
        } else if c.is_whitespace() || ((c == ')' || c == '(') && !inside) {
            end = at;
            break;
        }
        previous = c;
    }
    if end == 0 {
        return Err(ContextError::new());
    }
    *input = &text[end..];
    Ok(&text[..end])
}

/// Splits `kind:wanted`; a quoted kind may hold a colon.
fn split_kind(word: &str) -> Option<(&str, &str)> {
    let from = match word.strip_prefix('\'') {
        Some(quoted) => quoted.find('\'')? + 2,
        None => 0,
    };
    let at = from + word[from..].find(':')?;
    let (kind, wanted) = (&word[..at], &word[at + 1..]);
    (!kind.is_empty() && !wanted.is_empty()).then_some((kind, wanted))
}
