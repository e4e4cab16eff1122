//! Names of disks as the API calls them: `/dev/vda`. Guests choose names of their own. Pure.

/// The root disk of a server that names none.
pub const ROOT: &str = "/dev/vda";

/// It is no name of a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The supplied device path ({0}) is invalid.")]
pub struct Invalid(String);

/// A name taken apart: `/dev/`, the bus's letters up to `d`, and the disk's own letters; a partition's number at the end
/// does not count.
fn parts(device: &str) -> Option<(&str, &str)> {
    let short = device.strip_prefix("/dev/")?;
    let named = short.trim_end_matches(|c: char| c.is_ascii_digit());
    if named.is_empty() || !named.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    let mut bus = 0;
    for expected in ["xvd", "vd", "sd", "hd"] {
        if named.len() > expected.len() && named.starts_with(expected) {
            bus = expected.len();
            break;
        }
    }
    Some((&device[.."/dev/".len() + bus], &named[bus..]))
}

/// The disk's own letters.
fn letters(device: &str) -> &str {
    parts(device).map_or("", |(_, letters)| letters)
}

/// `a`, `b`, ..., `z`, `aa`, ...
fn numbered(mut index: usize) -> String {
    let mut text = Vec::new();
    loop {
        text.push(b'a' + u8::try_from(index % 26).unwrap_or(0));
        match (index / 26).checked_sub(1) {
            Some(rest) => index = rest,
            None => break,
        }
    }
    text.iter().rev().map(|byte| char::from(*byte)).collect()
}

/// The name of a new disk: as wished, on the bus of the root disk, or the first that is free. A wish for one that is taken is
/// passed over: Nova's libvirt driver passes over all of them, and clients that name `/dev/vdb` count on that.
pub fn name<'a>(
    root: Option<&str>,
    taken: impl IntoIterator<Item = &'a str>,
    wish: Option<&str>,
) -> Result<String, Invalid> {
    let root = root.unwrap_or(ROOT);
    let invalid = |path: &str| Invalid(path.to_owned());
    let (bus, root_letters) = parts(root).ok_or_else(|| invalid(root))?;
    let mut used: Vec<&str> = taken.into_iter().map(letters).collect();
    used.push(root_letters);
    let wished = match wish {
        Some(wish) => Some(parts(wish).ok_or_else(|| invalid(wish))?.1),
        None => None,
    };
    if let Some(wished) = wished.filter(|one| !used.contains(one)) {
        return Ok(format!("{bus}{wished}"));
    }
    let free = (0..).map(numbered).find(|one| !used.contains(&&one[..]));
    Ok(format!("{bus}{}", free.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_follow_each_other() {
        let taken = ["/dev/vda", "/dev/vdb", "/dev/vdd1"];
        let given = |wish| name(Some("/dev/vda"), taken, wish);
        assert_eq!(given(None).unwrap(), "/dev/vdc");
        assert_eq!(given(Some("/dev/vdk")).unwrap(), "/dev/vdk");
        // Another bus's name is this bus's.
        assert_eq!(given(Some("/dev/sdc")).unwrap(), "/dev/vdc");
        // One that is taken is passed over.
        assert_eq!(given(Some("/dev/xvdd")).unwrap(), "/dev/vdc");
        for wrong in ["vdc", "/dev/"] {
            let invalid = Invalid(wrong.to_owned());
            assert_eq!(given(Some(wrong)), Err(invalid));
        }
        let all: Vec<String> = (0..26).map(|n| format!("/dev/sd{}", numbered(n))).collect();
        let next = name(Some("/dev/sda"), all.iter().map(|name| &name[..]), None);
        assert_eq!(next.unwrap(), "/dev/sdaa");
        assert_eq!(numbered(701), "zz");
        assert_eq!(numbered(702), "aaa");
        assert_eq!(name(None, [], None).unwrap(), "/dev/vdb");
    }
}
