//! The standard resource classes and traits (os-resource-classes, os-traits), and what custom names look like.

pub(crate) use types::standard::{CLASSES, traits};

/// Whether there is such a class. Custom ones cannot be made yet.
pub(crate) fn is_class(name: &str) -> bool {
    CLASSES.contains(&name)
}

/// Whether there is such a trait.
pub(crate) fn is_trait(name: &str) -> bool {
    traits().any(|known| known == name)
}
