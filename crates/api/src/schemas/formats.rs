//! Formats of texts beyond JSON Schema's own.

use base64::Engine;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A check of a text.
pub type Check = fn(&str) -> bool;

/// Every format by name.
pub const ALL: &[(&str, Check)] = &[
    ("uuid", uuid),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("date-time", |text| types::Timestamp::parse(text).is_some()),
    ("base64", base64_text),
    ("name", name),
    ("az_name", name),
    ("keypair_name_20", keypair_name_20),
    ("keypair_name_292", keypair_name_292),
    ("integer", integer),
    ("image_ref", |text| text.is_empty() || uuid(text)),
];

/// The message that stands alone for a format, without the usual prefix.
pub fn whole_message(format: &str) -> Option<&'static str> {
    match format {
        "name" => Some(
            "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace.",
        ),
        "az_name" => Some(
            "An invalid 'availability_zone' value was provided. The name must be: printable characters. Can not start or end with \
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

/// Hex digits with or without dashes, in either case, as Nova compares them.
pub fn uuid(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Digits that fit into 64 bits.
fn integer(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

fn base64_text(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD
        .decode(plain)
        .is_ok()
}

fn name(text: &str) -> bool {
    let trimmed = text.trim();
    !text.is_empty() && trimmed == text && text.chars().all(|c| !c.is_control())
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
    fn checks() {
        assert!(name("a b") && !name(" a") && !name("a\u{7}") && !name(""));
        assert!(
            uuid("70a599e0-31e7-49b7-b260-868f441e862b")
                && uuid("70A599E031E749B7B260868F441E862B")
                && !uuid("xyz")
        );
        assert!(
            base64_text("aGFsbG8=") && base64_text("aGFs\nbG8=") && !base64_text("not base64!")
        );
        assert!(keypair_name_292("a@b.c") && !keypair_name_20("a@b.c"));
    }
}
