//! Formats of texts beyond JSON Schema's own. What passes is what passes Nova's checks of the same name.

use base64::Engine;
use regex::Regex;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

/// A check of a text.
pub type Check = fn(&str) -> bool;

/// Every format by name.
pub const ALL: &[(&str, Check)] = &[
    ("uuid", uuid),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("date-time", |text| types::Timestamp::parse(text).is_some()),
    ("base64", |text| base64(text).is_some()),
    ("regex", pattern),
    ("name", name),
    ("az_name", az_name),
    ("name_with_leading_trailing_spaces", |text| {
        printable(text) && !blank(text)
    }),
    ("az_name_with_leading_trailing_spaces", |text| {
        printable(text) && !blank(text) && !text.contains(':')
    }),
    ("printable", printable),
    ("keypair_name_20", keypair_name_20),
    ("keypair_name_292", keypair_name_292),
];

/// The message that stands alone for a format, without the usual prefix.
pub fn whole_message(format: &str) -> Option<&'static str> {
    match format {
        "name" => Some(
            "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace.",
        ),
        "name_with_leading_trailing_spaces" => Some(
            "An invalid 'name' value was provided. The name must be: printable characters with at least one non space character",
        ),
        "az_name_with_leading_trailing_spaces" => Some(
            "An invalid 'name' value was provided. The name must be: printable characters except :, with at least one non space \
             character",
        ),
        "az_name" => Some(
            "An invalid 'name' value was provided. The name must be: printable characters except :.Can not start or end with \
             whitespace.",
        ),
        "keypair_name_20" => Some(
            "An invalid 'name' value was provided. The name must be: Only expected characters: [a-zA-Z0-9-_ ]. Can not start or end \
             with whitespace.",
        ),
        "keypair_name_292" => Some(
            "An invalid 'name' value was provided. The name must be: Only expected characters: [a-zA-Z0-9-_@. ]. Can not start or end \
             with whitespace.",
        ),
        _ => None,
    }
}

/// 32 hex digits in either case; dashes anywhere, braces around and `urn:uuid:` before do not matter.
pub fn uuid(text: &str) -> bool {
    let plain = text.replace("urn:", "").replace("uuid:", "");
    let plain = plain.trim_matches(['{', '}']).replace('-', "");
    plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What base 64 says, read as leniently as Nova reads it: what is not of the alphabet is skipped, and nothing after the
/// padding counts.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held, mut pads) = (Vec::new(), 0_u32, 0_usize, 0_usize);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                if held >= 2 {
                    pads += 1;
                    if held + pads >= 4 {
                        return Some(out);
                    }
                }
                continue;
            }
            _ => continue,
        };
        pads = 0;
        bits = (bits << 6) | u32::from(digit);
        held += 1;
        match held {
            2 => out.push((bits >> 4).to_le_bytes()[0]),
            3 => out.push((bits >> 2).to_le_bytes()[0]),
            4 => {
                out.push(bits.to_le_bytes()[0]);
                (bits, held) = (0, 0);
            }
            _ => {}
        }
    }
    (held == 0).then_some(out)
}

/// A checked text that strict readers understand too: as it is, or what it says encoded anew.
pub fn strict_base64(text: String) -> String {
    let engine = base64::engine::general_purpose::STANDARD;
    let plain: String = text.split_ascii_whitespace().collect();
    if engine.decode(plain).is_ok() {
        return text;
    }
    base64(&text).map_or(text, |bytes| engine.encode(bytes))
}

/// How large a compiled pattern may be, in bytes: more than any honest filter needs.
const PATTERN_BYTES: usize = 1 << 18;

/// A regular expression, compiled within bounds; matching takes time linear in the text.
pub fn compiled(text: &str) -> Option<Regex> {
    regex::RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES)
        .build()
        .ok()
}

/// A regular expression that says something.
pub fn pattern(text: &str) -> bool {
    !text.is_empty() && compiled(text).is_some()
}

fn is_match(cell: &'static OnceLock<Option<Regex>>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| Regex::new(pattern).ok())
        .as_ref()
        .is_some_and(|regex| regex.is_match(text))
}

/// Neither of a control category nor a separator other than a space; the basic plane only, as Nova has it.
fn printable(text: &str) -> bool {
    static CELL: OnceLock<Option<Regex>> = OnceLock::new();
    is_match(&CELL, r"^[[^\p{C}\p{Zl}\p{Zp}]&&[\x00-\u{FFFE}]]*$", text)
}

/// Whether a space stands at an end, of whatever kind.
fn has_outer_space(text: &str) -> bool {
    static CELL: OnceLock<Option<Regex>> = OnceLock::new();
    is_match(&CELL, r"^\p{Zs}|\p{Zs}$", text)
}

/// Whether there is nothing but spaces.
fn blank(text: &str) -> bool {
    static CELL: OnceLock<Option<Regex>> = OnceLock::new();
    is_match(&CELL, r"^\p{Zs}*$", text)
}

fn name(text: &str) -> bool {
    printable(text) && !has_outer_space(text)
}

fn az_name(text: &str) -> bool {
    name(text) && !text.contains(':')
}

fn keypair_name_20(text: &str) -> bool {
    name(text)
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_ ".contains(&b))
}

fn keypair_name_292(text: &str) -> bool {
    name(text)
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_@. ".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["", "a b", "a:b", "ü", "a\u{a0}b", "e\u{301}"] {
            assert!(name(good), "{good:?}");
        }
        for bad in [
            " a",
            "a ",
            " ",
            "\u{a0}a",
            "a\u{7}",
            "a\tb",
            "\u{1f600}",
            "a\u{200b}b",
            "a\u{2028}b",
            "\u{e000}",
        ] {
            assert!(!name(bad), "{bad:?}");
        }
        assert!(!az_name("a:b") && az_name("a b"));
        assert!(keypair_name_292("a@b.c") && !keypair_name_20("a@b.c"));
    }

    #[test]
    fn uuids() {
        for good in [
            "70a599e0-31e7-49b7-b260-868f441e862b",
            "70A599E031E749B7B260868F441E862B",
            "{70a599e0-31e7-49b7-b260-868f441e862b}",
            "urn:uuid:70a599e0-31e7-49b7-b260-868f441e862b",
            "7-0a599e031e749b7b260868f441e862b",
        ] {
            assert!(uuid(good), "{good}");
        }
        for bad in [
            "",
            "xyz",
            "70a599e0-31e7-49b7-b260-868f441e862",
            "70a599e0-31e7-49b7-b260-868f441e862z",
        ] {
            assert!(!uuid(bad), "{bad}");
        }
    }

    #[test]
    fn base_64_as_leniently_as_python() {
        // What Python's base64.b64decode answers.
        let table: [(&str, Option<&[u8]>); 13] = [
            ("aGFsbG8=", Some(b"hallo")),
            ("aGFs\nbG8=", Some(b"hallo")),
            ("aGFsbG8", None),
            ("not base64!", None),
            ("", Some(b"")),
            ("====", Some(b"")),
            ("a", None),
            ("aa", None),
            ("aa==", Some(b"i")),
            ("aa=", None),
            ("aaaa!!", Some(b"i\xa6\x9a")),
            ("aGFsbG8=extra", Some(b"hallo")),
            ("ü", Some(b"")),
        ];
        for (text, wanted) in table {
            assert_eq!(base64(text).as_deref(), wanted, "{text:?}");
        }
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(pattern("a.*b") && pattern("\\d+"));
        assert!(!pattern("") && !pattern("(") && !pattern("*"));
        // Compiled, it would be a hundred megabytes.
        assert!(!pattern("((a{1,100}){1,100}){1,100}"));
    }
}
