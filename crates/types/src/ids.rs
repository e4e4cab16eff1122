//! One newtype per kind of id, so that a port can never be passed where a server is wanted.
//!
//! UUID ids print in their canonical lower-case form. Ids that other services choose freely (flavors,
//! projects, users, hosts) are short texts.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }
    };
}

uuid_id!(
    /// A server (Nova's instance UUID).
    ServerId
);
uuid_id!(
    /// An image of the image service.
    ImageId
);
uuid_id!(
    /// A network of the network service.
    NetworkId
);
uuid_id!(
    /// A port of the network service.
    PortId
);
uuid_id!(
    /// A journal task: one run of one flow.
    TaskId
);
uuid_id!(
    /// A compute node, which is also its resource provider in Placement.
    NodeId
);
uuid_id!(
    /// A service record (`os-services` from microversion 2.53).
    ServiceId
);
uuid_id!(
    /// A migration record.
    MigrationId
);
uuid_id!(
    /// A server group.
    GroupId
);
uuid_id!(
    /// A block device mapping row.
    BlockDeviceId
);
text_id!(
    /// A flavor's public id (`flavorid`): any text the administrator chose, often a number.
    FlavorId
);
text_id!(
    /// A project (tenant) of the identity service; lower-case hex.
    ProjectId
);
text_id!(
    /// A user of the identity service; lower-case hex.
    UserId
);
text_id!(
    /// The name under which a compute agent registers (Nova's `host`).
    HostName
);

/// The id of one API request, `req-` and a UUID, as in `X-Openstack-Request-Id`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl RequestId {
    /// A fresh id.
    pub fn random() -> Self {
        Self(format!("req-{}", Uuid::new_v4()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
