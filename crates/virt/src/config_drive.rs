//! Builds a config drive: an ISO 9660 image labelled `config-2` with Joliet and Rock Ridge names, as guests look for
//! it (Nova's "Config drives" user guide).

use crate::spec::ConfigFile;
use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{InputEntry, InputMetadata, InputTree, IsoImageWriter};
use std::collections::BTreeMap;
use std::io::Cursor;

/// The label guests search for.
pub const LABEL: &str = "config-2";
/// Nova's limit for a config drive (64 MiB).
pub const MAX_BYTES: usize = 64 << 20;
const SECTOR: usize = 2048;

/// Why no config drive was built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// A path is empty, absolute, climbs, or is both a file and a folder.
    #[error("config drive path '{0}' cannot be used")]
    BadPath(String),
    /// More than [`MAX_BYTES`].
    #[error("config drive of {0} bytes is larger than {MAX_BYTES}")]
    TooLarge(usize),
    /// The ISO writer failed.
    #[error("config drive: {0}")]
    Write(String),
}

enum Node<'a> {
    File(&'a [u8]),
    Folder(BTreeMap<&'a str, Node<'a>>),
}

/// The bytes of a config drive with these files; folders are made as needed.
///
/// # Errors
/// Bad paths, too much content.
pub fn build(files: &[ConfigFile]) -> Result<Vec<u8>, ConfigDriveError> {
    let total = files.iter().map(|file| file.content.len()).sum::<usize>();
    if total > MAX_BYTES {
        return Err(ConfigDriveError::TooLarge(total));
    }
    let mut root = BTreeMap::new();
    for file in files {
        insert(&mut root, file)?;
    }
    let tree = InputTree::new(PathSeparator::ForwardSlash, entries(&root));
    let image = IsoImageWriter::create(Cursor::new(Vec::new()), tree, options())
        .map_err(|error| ConfigDriveError::Write(error.to_string()))?
        .into_inner();
    Ok(cut_to_volume(image))
}

fn insert<'a>(
    root: &mut BTreeMap<&'a str, Node<'a>>,
    file: &'a ConfigFile,
) -> Result<(), ConfigDriveError> {
    let bad = || ConfigDriveError::BadPath(file.path.clone());
    let mut parts: Vec<&str> = file.path.split('/').collect();
    if parts
        .iter()
        .any(|part| part.is_empty() || *part == "." || *part == ".." || part.contains('\0'))
    {
        return Err(bad());
    }
    let name = parts.pop().ok_or_else(bad)?;
    let mut folder = root;
    for part in parts {
        let Node::Folder(inner) = folder
            .entry(part)
            .or_insert_with(|| Node::Folder(BTreeMap::new()))
        else {
            return Err(bad());
        };
        folder = inner;
    }
    if folder.insert(name, Node::File(&file.content)).is_some() {
        return Err(bad());
    }
    Ok(())
}

fn entries(folder: &BTreeMap<&str, Node<'_>>) -> Vec<InputEntry> {
    let mode = |mode| InputMetadata {
        mode: Some(mode),
        uid: Some(0),
        gid: Some(0),
        ..InputMetadata::default()
    };
    folder
        .iter()
        .map(|(name, node)| match node {
            Node::File(content) => {
                InputEntry::file(*name, content.to_vec()).with_metadata(mode(0o444))
            }
            Node::Folder(inner) => {
                InputEntry::directory(*name, entries(inner)).with_metadata(mode(0o555))
            }
        })
        .collect()
}

fn options() -> IsoFormatOptions {
    IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: Some("OpenStack Kilonova".to_owned()),
        preparer_id: None,
        application_id: None,
        sector_size: SECTOR,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures {
            filenames: BaseIsoLevel::Level1 {
                supports_lowercase: false,
                supports_rrip: true,
            },
            joliet: Some(JolietLevel::Level3),
            rock_ridge: Some(RripOptions::default()),
            ..CreationFeatures::default()
        },
        strict_charset: false,
    }
}

/// The primary volume descriptor (sector 16) holds the number of sectors at offset 80; the writer may leave the
/// buffer shorter (last sector not padded) or longer.
fn cut_to_volume(mut image: Vec<u8>) -> Vec<u8> {
    let at = 16 * SECTOR + 80;
    let sectors = image
        .get(at..at + 4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    if let Some(sectors) = sectors {
        image.resize(sectors as usize * SECTOR, 0);
    }
    image
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn file(path: &str, content: &[u8]) -> ConfigFile {
        ConfigFile {
            path: path.into(),
            content: content.to_vec(),
        }
    }

    fn sample() -> Vec<ConfigFile> {
        vec![
            file("openstack/latest/meta_data.json", br#"{"uuid": "x"}"#),
            file("openstack/latest/user_data", &vec![b'u'; 5000]),
            file("openstack/latest/network_data.json", b"{}"),
            file("openstack/latest/vendor_data.json", b"{}"),
            file("openstack/latest/vendor_data2.json", b"{\"a\":1}"),
            file("openstack/2020-10-14/meta_data.json", b"{}"),
            file("openstack/content/0000", b"\x00\xff"),
            file("ec2/2009-04-04/meta-data.json", b"{}"),
            file("ec2/latest/meta-data.json", b"{}"),
            file("empty", b""),
        ]
    }

    #[test]
    fn a_second_implementation_reads_every_file_back() {
        if Command::new("xorriso").arg("-version").output().is_err() {
            eprintln!("skipped: xorriso is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let iso = folder.path().join("drive.iso");
        std::fs::write(&iso, build(&sample()).unwrap()).unwrap();
        for (tree, ignore) in [("rockridge", "nojoliet"), ("joliet", "norock")] {
            let out = folder.path().join(tree);
            let mut command = Command::new("xorriso");
            command.args(["-read_fs", ignore]);
            command
                .args(["-osirrox", "on", "-indev"])
                .arg(&iso)
                .args(["-extract", "/"])
                .arg(&out);
            let result = command.output().unwrap();
            let log = String::from_utf8_lossy(&result.stderr).into_owned();
            assert!(result.status.success(), "{log}");
            assert!(log.contains("Volume id    : 'config-2'"), "{log}");
            for wanted in sample() {
                assert_eq!(
                    std::fs::read(out.join(&wanted.path)).unwrap(),
                    wanted.content,
                    "{}",
                    wanted.path
                );
            }
        }
    }

    #[test]
    fn the_image_is_labelled_whole_and_has_both_name_systems() {
        let image = build(&sample()).unwrap();
        assert_eq!(image.len() % SECTOR, 0);
        let primary = &image[16 * SECTOR..17 * SECTOR];
        assert_eq!(&primary[1..6], b"CD001");
        assert_eq!(&primary[40..48], b"config-2");
        let joliet = &image[17 * SECTOR..18 * SECTOR];
        assert_eq!((joliet[0], &joliet[88..91]), (2, b"%/E".as_slice()));
        assert!(
            image.windows(4).any(|bytes| bytes == b"RRIP"),
            "Rock Ridge is announced"
        );
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in ["", "/etc/passwd", "a//b", "../up", "a/./b", "a/"] {
            assert!(
                matches!(build(&[file(path, b"")]), Err(ConfigDriveError::BadPath(_))),
                "{path}"
            );
        }
        assert!(
            build(&[file("a", b""), file("a/b", b"")]).is_err(),
            "file and folder"
        );
        assert!(build(&[file("a", b""), file("a", b"")]).is_err(), "twice");
        assert!(matches!(
            build(&[file("a", &vec![0; MAX_BYTES + 1])]),
            Err(ConfigDriveError::TooLarge(_))
        ));
    }
}
