//! What creating, updating and rebuilding a server have in common.

use crate::call::Call;
use crate::faults::Fault;
use std::net::IpAddr;
use types::image_properties::says_yes;
use types::server::ImageRef;

/// The image property that says how a disk is divided for the guest.
const DISK_CONFIG: &str = "auto_disk_config";

/// An address of the body, in the form in which addresses are shown.
pub fn address(call: &Call, of: &str, name: &str) -> Option<String> {
    let text = call.text(of, name)?;
    let shown = text.parse::<IpAddr>().map(|address| address.to_string());
    Some(shown.unwrap_or_else(|_| text.to_owned()))
}

/// `OS-DCF:diskConfig`: true for `AUTO`.
pub fn auto_disk_config(call: &Call, of: &str) -> Option<bool> {
    let text = call.text(of, "OS-DCF:diskConfig")?;
    Some(text == "AUTO")
}

/// What the image says where the request says nothing.
pub fn disk_config_of(image: &ImageRef) -> bool {
    let wish = image.properties.get(DISK_CONFIG);
    wish.is_some_and(|wish| says_yes(wish))
}

/// Refuses `AUTO` for an image that forbids it.
pub fn check_disk_config(image: Option<&ImageRef>, wanted: Option<bool>) -> Result<(), Fault> {
    let Some(image) = image.filter(|_| wanted == Some(true)) else {
        return Ok(());
    };
    let wish = image.properties.get(DISK_CONFIG);
    if wish.is_some_and(|wish| wish.trim().eq_ignore_ascii_case("disabled")) {
        return Err(Fault::bad_request(format!(
            "Requested image {} has automatic disk resize disabled.",
            image.id
        )));
    }
    Ok(())
}

/// How `OS-DCF:diskConfig` is shown.
pub fn disk_config(auto: bool) -> &'static str {
    if auto { "AUTO" } else { "MANUAL" }
}
