//! The kernel and the RAM disk that an image wants its servers to be booted with (`kernel_id`, `ramdisk_id`). They are images
//! themselves, which are looked up while a request is taken in.

use crate::call::Call;
use crate::faults::Fault;
use crate::neighbours::unavailable;
use db::instances::Kept;
use std::collections::BTreeMap;
use types::agent::GuestImage;

/// As a kernel's id: the image boots from its own disk.
const NO_KERNEL: &str = "nokernel";

/// What a server is booted with beside its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernels {
    kernel: Option<GuestImage>,
    ramdisk: Option<GuestImage>,
}

impl Kernels {
    /// What an image with these properties wants, for a server that keeps these certificates as trusted. One that is not
    /// there is refused in the words `missing`.
    pub async fn of(
        call: &Call,
        properties: &BTreeMap<String, String>,
        trusted: Option<&[String]>,
        missing: &'static str,
    ) -> Result<Self, Fault> {
        let named = |name: &str| {
            let id = properties.get(name).map(String::as_str);
            id.filter(|id| !id.is_empty())
        };
        let (kernel, ramdisk) = (named("kernel_id"), named("ramdisk_id"));
        if kernel == Some(NO_KERNEL) {
            return Ok(Self::default());
        }
        let of = async |id: Option<&str>| match id {
            Some(id) => boot_image(call, id, trusted, missing).await.map(Some),
            None => Ok(None),
        };
        Ok(Self {
            kernel: of(kernel).await?,
            ramdisk: of(ramdisk).await?,
        })
    }

    /// Notes them with a server, in place of others.
    pub fn keep(&self, kept: &mut Kept) {
        kept.kernel.clone_from(&self.kernel);
        kept.ramdisk.clone_from(&self.ramdisk);
    }
}

async fn boot_image(
    call: &Call,
    id: &str,
    trusted: Option<&[String]>,
    missing: &'static str,
) -> Result<GuestImage, Fault> {
    let found = call.api.deps.images.get(&call.token, id).await;
    let found = found
        .map_err(unavailable)?
        .ok_or_else(|| Fault::bad_request(missing))?;
    if found.status != "active" {
        return Err(Fault::bad_request(format!("Image {id} is not active.")));
    }
    let mut image = found.image;
    if !call.dry_run {
        image.check = call.check_of(&image, trusted).await;
    }
    Ok(GuestImage::from(&image))
}
