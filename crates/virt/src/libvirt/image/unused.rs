//! Base images that no guest needs any more (Nova's image cache manager).

use super::{BaseImages, notes};
use crate::libvirt::qcow2;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The specification in a guest's folder.
const SPEC: &str = "guest.json";

/// The disks of a guest that stand on bases.
const DISKS: [&str; 2] = ["disk", "disk.rescue"];
/// How often the folders are looked at anew when they change meanwhile.
const TRIES: usize = 10;

impl BaseImages {
    /// Notes that a base is used now, so that it stays although no specification names it yet.
    pub(super) fn touch(path: &Path) {
        let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "a base image cannot be marked as used");
        }
    }

    /// Removes what is [unused](Self::unused). Returns what was removed.
    ///
    /// # Errors
    /// A folder or a guest's specification cannot be read: nothing is removed then.
    pub fn remove_unused(&self, age: Duration) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for path in self.unused(age)? {
            // Another look may have removed it, or a guest that comes now have asked for it.
            if is_old(&path, age).or_else(nothing)? {
                notes::forget(&path)?;
                std::fs::remove_file(&path).or_else(nothing)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Bases, and what broken fetches have left, that no guest here names and that were not asked for within `age`.
    ///
    /// # Errors
    /// A folder or a guest's specification cannot be read.
    pub fn unused(&self, age: Duration) -> io::Result<Vec<PathBuf>> {
        let instances = self.folder.parent().unwrap_or(&self.folder);
        let used = used(instances)?;
        let mut unused = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let metadata = match entry.metadata() {
                // It went with its base.
                Err(error) if is_nothing(&error) => continue,
                other => other?,
            };
            // A note stays as long as its base.
            if notes::base_of(&path).is_some_and(|base| base.exists()) {
                continue;
            }
            if metadata.is_file()
                && is_old(&path, age).or_else(nothing)?
                && !used.contains(&entry.file_name())
            {
                unused.push(path);
            }
        }
        Ok(unused)
    }
}

/// Whether nobody has asked for a base within `age`. One of the future was asked for before the clock went back.
fn is_old(path: &Path, age: Duration) -> io::Result<bool> {
    let asked = std::fs::metadata(path)?.modified()?;
    Ok(asked.elapsed().unwrap_or_default() >= age)
}

/// What is not there any more is no failure.
fn nothing<T: Default>(error: io::Error) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(T::default()),
        _ => Err(error),
    }
}

/// The names of the bases that guests are made of, those that are put aside included: what specifications and headers of
/// disks say.
fn used(instances: &Path) -> io::Result<BTreeSet<OsString>> {
    // A folder that gets another name under the look may be missed under both.
    for _ in 0..TRIES {
        if let Some(names) = look(instances)? {
            return Ok(names);
        }
    }
    Err(io::Error::other("the folders of guests do not stand still"))
}

/// None: a folder was there and is not any more.
fn look(instances: &Path) -> io::Result<Option<BTreeSet<OsString>>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(instances)? {
        let folder = entry?.path();
        for disk in DISKS {
            match qcow2::backing_name(&folder.join(disk)) {
                Ok(name) => names.extend(name.as_deref().and_then(file_of)),
                Err(error) if is_nothing(&error) || is_half(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match std::fs::read(folder.join(SPEC)) {
            Ok(text) => {
                let spec: Value = serde_json::from_slice(&text).map_err(io::Error::other)?;
                collect(&spec, &mut names);
            }
            Err(error) if is_nothing(&error) && folder.exists() => {}
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(names))
}

fn file_of(base: &str) -> Option<OsString> {
    Path::new(base).file_name().map(OsString::from)
}

/// A disk that is being made: what it is made of is marked as used.
fn is_half(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Every base that a specification names, wherever that is in it.
fn collect(spec: &Value, names: &mut BTreeSet<OsString>) {
    match spec {
        Value::Object(fields) => {
            let base = fields.get("base").and_then(Value::as_str);
            names.extend(base.and_then(file_of));
            fields.values().for_each(|field| collect(field, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn base(bases: &BaseImages, name: &str, unused_for: Duration) {
        let file = File::create(bases.folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - unused_for).unwrap();
    }

    fn guest(instances: &Path, folder: &str, spec: &crate::spec::GuestSpec) {
        fs::create_dir(instances.join(folder)).unwrap();
        let text = serde_json::to_vec(spec).unwrap();
        fs::write(instances.join(folder).join(SPEC), text).unwrap();
    }

    fn left(bases: &BaseImages) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&bases.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_no_guest_needs_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let instances = folder.path();
        let bases = BaseImages::open(instances).unwrap();
        for name in [
            "root", "aside", "headed", "rescue", "kernel", "old", "x.y.part",
        ] {
            base(&bases, name, 2 * DAY);
        }
        base(&bases, "new", DAY / 2);
        for name in ["root", "old", "nobody"] {
            base(&bases, &format!("{name}.note"), 2 * DAY);
        }
        bases.set_note("new", "noted").unwrap();
        let on = |name: &str| crate::spec::RootDisk::Image {
            base: bases.folder.join(name),
            format: crate::spec::DiskFormat::Raw,
            size_gib: 1,
        };
        let spec = crate::sim::tests::spec(1);
        let with_root = |name: &str| crate::spec::GuestSpec {
            root: on(name),
            ..spec.clone()
        };
        guest(instances, "a.aside", &with_root("aside"));
        // What its disk stands on is not what its specification says.
        let backing = qcow2::Backing {
            name: "../_base/headed",
            format: crate::spec::DiskFormat::Raw,
        };
        qcow2::create(&instances.join("a.aside").join("disk"), 512, Some(backing)).unwrap();
        let rescued = crate::spec::GuestSpec {
            rescue: Some(crate::spec::RescueDisk {
                root: on("rescue"),
                stable: None,
            }),
            kernel: Some(crate::spec::Kernel {
                image: crate::spec::BootFile {
                    base: bases.folder.join("kernel"),
                },
                ramdisk: None,
            }),
            ..with_root("root")
        };
        guest(instances, "a", &rescued);
        fs::write(instances.join("node-id"), "x").unwrap();
        let mut listed = bases.unused(DAY).unwrap();
        let mut removed = bases.remove_unused(DAY).unwrap();
        listed.sort();
        removed.sort();
        let names = ["nobody.note", "old", "x.y.part"];
        assert_eq!(listed, names.map(|name| bases.folder.join(name)));
        assert_eq!(removed, listed, "it removes what it names");
        assert_eq!(bases.unused(DAY).unwrap(), <[PathBuf; 0]>::default());
        let noted = [
            "headed",
            "kernel",
            "new",
            "new.note",
            "rescue",
            "root",
            "root.note",
        ];
        assert_eq!(left(&bases), [&["aside"][..], &noted].concat());
        assert_eq!(bases.note("new").unwrap(), "noted");
        // One that is asked for stays for a while, whoever needs it.
        fs::remove_dir_all(instances.join("a")).unwrap();
        assert!(bases.cached("root").is_some());
        bases.remove_unused(DAY).unwrap();
        assert_eq!(
            left(&bases),
            ["aside", "headed", "new", "new.note", "root", "root.note"]
        );
        // A specification that cannot be read may name any of them.
        fs::write(instances.join("a.aside").join(SPEC), "{").unwrap();
        assert!(bases.remove_unused(Duration::ZERO).is_err());
        assert_eq!(
            left(&bases),
            ["aside", "headed", "new", "new.note", "root", "root.note"]
        );
    }
}
