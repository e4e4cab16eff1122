//! Names of disks as requests say them, and the faults of those that cannot be.

use crate::faults::Fault;
use types::device_names;

pub use types::device_names::ROOT;

/// The name of a new disk: as wished, on the bus of the root disk, or the first that is free.
pub fn name<'a>(
    root: Option<&str>,
    taken: impl IntoIterator<Item = &'a str>,
    wish: Option<&str>,
) -> Result<String, Fault> {
    device_names::name(root, taken, wish).map_err(|reason| Fault::bad_request(reason.to_string()))
}

/// A name as the request says it, with `/dev/` before it.
pub fn with_folder(name: &str) -> String {
    format!("/dev/{}", name.strip_prefix("/dev/").unwrap_or(name))
}
