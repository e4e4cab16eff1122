//! libvirt's secrets, of the usage `vtpm`: passphrases of emulated TPMs ("Secret XML format" in libvirt's documentation).
//! Each is named by its id, and found by the server that it is for.

use super::{Decoder, Encoder, LONG, Link, RpcError, SHORT, error_code, procedure};
use serde::Serialize;
use types::ServerId;
use types::tpm::{Passphrase, Tpm};
use uuid::Uuid;

/// `VIR_SECRET_USAGE_TYPE_VTPM`.
const VTPM: i32 = 5;

/// A secret as every call names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    id: Uuid,
    usage: String,
}

impl SecretRef {
    fn encode(&self, encoder: Encoder) -> Encoder {
        let named = encoder.fixed(self.id.as_bytes()).i32(VTPM);
        named.string(&self.usage)
    }

    fn decode(body: &[u8]) -> Result<Self, RpcError> {
        let mut decoder = Decoder::new(body);
        let id = Uuid::from_bytes(decoder.fixed()?);
        decoder.i32()?;
        let usage = decoder.string()?;
        Ok(Self { id, usage })
    }
}

#[derive(Serialize)]
struct Secret {
    #[serde(rename = "@ephemeral")]
    ephemeral: &'static str,
    #[serde(rename = "@private")]
    private: &'static str,
    uuid: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: String,
}

/// The XML of the secret of a server's TPM. What the host does not keep is in memory only, and nobody can read it.
fn secret_xml(server: ServerId, tpm: &Tpm) -> Result<String, quick_xml::SeError> {
    let hidden = if tpm.is_kept_by_host() { "no" } else { "yes" };
    let secret = Secret {
        ephemeral: hidden,
        private: hidden,
        uuid: tpm.secret.to_string(),
        usage: Usage {
            kind: "vtpm",
            name: server.to_string(),
        },
    };
    quick_xml::se::to_string_with_root("secret", &secret)
}

impl Link {
    /// What a domain of this machine may have (XML).
    pub async fn domain_capabilities(&self, kvm: bool) -> Result<String, RpcError> {
        let kind = if kvm { "kvm" } else { "qemu" };
        let request = || {
            let any = Encoder::default().none().none().none();
            any.some_string(kind).u32(0)
        };
        let procedure = procedure::GET_DOMAIN_CAPABILITIES;
        let body = self.call(procedure, request, LONG).await?;
        Ok(Decoder::new(&body).string()?)
    }

    /// The secret of a server's TPM, if there is one.
    pub async fn secret_of(&self, server: ServerId) -> Result<Option<SecretRef>, RpcError> {
        let usage = server.to_string();
        let request = || Encoder::default().i32(VTPM).string(&usage);
        let procedure = procedure::SECRET_LOOKUP_BY_USAGE;
        match self.call(procedure, request, SHORT).await {
            Ok(body) => SecretRef::decode(&body).map(Some),
            Err(RpcError::Refused {
                code: error_code::NO_SECRET,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the secret of a server's TPM, in place of one that is there.
    pub async fn put_secret(
        &self,
        server: ServerId,
        tpm: &Tpm,
        passphrase: &Passphrase,
    ) -> Result<(), RpcError> {
        if let Some(old) = self.secret_of(server).await? {
            // One that is private, or kept, does not become another kind.
            self.forget_secret(&old).await?;
        }
        let xml = secret_xml(server, tpm).map_err(|error| RpcError::Refused {
            code: 0,
            message: error.to_string(),
        })?;
        let define = || Encoder::default().string(&xml).u32(0);
        let body = self.call(procedure::SECRET_DEFINE, define, SHORT).await?;
        let secret = SecretRef::decode(&body)?;
        let set = || {
            let named = secret.encode(Encoder::default());
            named.string(&passphrase.0).u32(0)
        };
        let procedure = procedure::SECRET_SET_VALUE;
        self.call(procedure, set, SHORT).await.map(drop)
    }

    /// What a secret that is not private holds.
    pub async fn secret_value(&self, secret: &SecretRef) -> Result<Passphrase, RpcError> {
        let request = || secret.encode(Encoder::default()).u32(0);
        let procedure = procedure::SECRET_GET_VALUE;
        let body = self.call(procedure, request, SHORT).await?;
        Ok(Passphrase(Decoder::new(&body).string()?))
    }

    /// Forgets a secret; one that is gone is fine.
    pub async fn forget_secret(&self, secret: &SecretRef) -> Result<(), RpcError> {
        let request = || secret.encode(Encoder::default());
        let procedure = procedure::SECRET_UNDEFINE;
        match self.call(procedure, request, SHORT).await {
            Ok(_)
            | Err(RpcError::Refused {
                code: error_code::NO_SECRET,
                ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::tpm::{Model, Security, Version, Wanted};

    #[test]
    fn only_what_the_host_keeps_can_be_read_and_lasts() {
        let server = ServerId::from(Uuid::from_u128(7));
        let secret = Uuid::from_u128(8);
        for (security, hidden) in [
            (Security::User, "yes"),
            (Security::Host, "no"),
            (Security::Deployment, "yes"),
        ] {
            let wanted = Wanted {
                version: Version::V2_0,
                model: Model::Crb,
                security,
            };
            assert_eq!(
                secret_xml(server, &Tpm { wanted, secret }).unwrap(),
                format!(
                    "<secret ephemeral=\"{hidden}\" private=\"{hidden}\">\
                     <uuid>00000000-0000-0000-0000-000000000008</uuid>\
                     <usage type=\"vtpm\"><name>00000000-0000-0000-0000-000000000007</name></usage></secret>"
                )
            );
        }
    }

    #[test]
    fn secrets_are_named_as_they_were_given() {
        let secret = SecretRef {
            id: Uuid::from_u128(9),
            usage: "a server".into(),
        };
        let body = secret.encode(Encoder::default()).finish();
        assert_eq!(SecretRef::decode(&body).unwrap(), secret);
        assert!(SecretRef::decode(&body[..20]).is_err());
    }
}
