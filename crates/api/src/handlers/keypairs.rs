//! `/os-keypairs`: imported and generated SSH keys and certificates.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::schemas::python;
use db::keypairs::KeyPair;
use http::StatusCode;
use md5::{Digest, Md5};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::traits::PublicKeyParts;
use serde_json::{Map, Value, json};
use sha1::Sha1;
use ssh_key::{Mpint, PublicKey};
use types::Timestamp;

const BITS: usize = 2048;

/// The user whose keys are meant, if the row's rule lets the caller act for them; no name or an empty one is one's own.
fn user(call: &Call, named: Option<&str>) -> Result<String, Fault> {
    let named = named.filter(|user| !user.is_empty());
    let user = named.unwrap_or(&call.caller.user_id).to_owned();
    if let Some(rule) = call.route.policy {
        call.require_for(rule, call.project(), &user)?;
    }
    Ok(user)
}

fn unknown(name: &str, user: &str) -> Fault {
    Fault::not_found(format!("Keypair {name} not found for user {user}"))
}

fn entry(call: &Call, key: &KeyPair) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("name".to_owned(), key.name.clone().into());
    map.insert("public_key".to_owned(), key.public_key.clone().into());
    map.insert("fingerprint".to_owned(), key.fingerprint.clone().into());
    if call.at_least(mv::KEYPAIR_TYPE) {
        map.insert("type".to_owned(), key.kind.clone().into());
    }
    map
}

/// `GET /os-keypairs`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let user = user(&call, call.query.get("user_id"))?;
    let mut keys = call
        .api
        .deps
        .store
        .read(move |tx| db::keypairs::of_user(tx, &user))
        .await?;
    let mut next = None;
    if call.at_least(mv::KEYPAIR_PAGES) {
        if let Some(marker) = call.query.get("marker") {
            let at = keys.iter().position(|key| key.name == marker);
            let at = at.ok_or_else(|| {
                Fault::bad_request(format!("Marker {marker} could not be found."))
            })?;
            keys.drain(..=at);
        }
        let limit = call.limit()?;
        keys.truncate(limit);
        next = keys
            .last()
            .filter(|_| limit > 0 && keys.len() == limit)
            .map(|key| key.name.clone());
    }
    let list: Vec<Value> = keys
        .iter()
        .map(|key| json!({ "keypair": entry(&call, key) }))
        .collect();
    let mut document = json!({ "keypairs": list });
    if let Some(marker) = next {
        document["keypairs_links"] =
            json!(call.links.next("/os-keypairs", call.query.pairs(), &marker));
    }
    Reply::ok(&document)
}

/// `GET /os-keypairs/{name}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let user = user(&call, call.query.get("user_id"))?;
    let (owner, name) = (user.clone(), call.param(0).to_owned());
    let key = call
        .api
        .deps
        .store
        .read(move |tx| db::keypairs::get(tx, &owner, &name))
        .await?;
    let key = key.ok_or_else(|| unknown(call.param(0), &user))?;
    let mut map = entry(&call, &key);
    map.insert("user_id".to_owned(), key.user_id.into());
    map.insert("id".to_owned(), key.id.into());
    map.insert("created_at".to_owned(), key.created_at.iso_micros().into());
    map.insert("deleted".to_owned(), false.into());
    map.insert("deleted_at".to_owned(), Value::Null);
    map.insert("updated_at".to_owned(), Value::Null);
    Reply::ok(&json!({ "keypair": map }))
}

/// `DELETE /os-keypairs/{name}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let user = user(&call, call.query.get("user_id"))?;
    let (owner, name) = (user.clone(), call.param(0).to_owned());
    if !call
        .api
        .deps
        .store
        .write(move |tx| db::keypairs::delete(tx, &owner, &name))
        .await?
    {
        return Err(unknown(call.param(0), &user));
    }
    let status = if call.at_least(mv::KEYPAIR_TYPE) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::ACCEPTED
    };
    Ok(Reply::empty(status))
}

/// Both halves of a new key; the private one is answered once and kept nowhere.
struct Made {
    public: String,
    fingerprint: String,
    private: Option<String>,
}

/// `POST /os-keypairs`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let field = |name: &str| call.text("keypair", name);
    let user = user(&call, field("user_id"))?;
    let name = field("name").unwrap_or_default().trim().to_owned();
    let kind = field("type").unwrap_or("ssh").to_owned();
    let x509 = kind == "x509";
    let made = match field("public_key").map(str::to_owned) {
        Some(public) if x509 => import_x509(public)?,
        Some(public) => import_ssh(public)?,
        None => {
            let generating = tokio::task::spawn_blocking(move || {
                if x509 {
                    generate_x509()
                } else {
                    generate_ssh()
                }
            });
            generating.await.map_err(Fault::internal)??
        }
    };
    let key = KeyPair {
        id: 0,
        user_id: user.clone(),
        name: name.clone(),
        kind,
        fingerprint: made.fingerprint,
        public_key: made.public,
        created_at: Timestamp::now(),
    };
    let (stored, project) = (key.clone(), call.project().to_owned());
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let most = db::quotas::of_user(tx, &project, &stored.user_id)?
                .get("key_pairs")
                .copied()
                .unwrap_or(-1);
            if most >= 0 && db::keypairs::count(tx, &stored.user_id)? >= most {
                return Err(Fault::forbidden("Quota exceeded, too many key pairs."));
            }
            if !db::keypairs::insert(tx, &stored)? {
                return Err(Fault::conflict(format!(
                    "Key pair {} already exists.",
                    python::quoted(&stored.name)
                )));
            }
            Ok(())
        })
        .await?;
    let mut map = entry(&call, &key);
    map.insert("user_id".to_owned(), user.into());
    if let Some(private) = made.private {
        map.insert("private_key".to_owned(), private.into());
    }
    let status = if call.at_least(mv::KEYPAIR_TYPE) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Reply::json(status, &json!({ "keypair": map }))
}

fn invalid() -> Fault {
    Fault::bad_request("Keypair data is invalid: failed to generate fingerprint")
}

fn colons(digest: &[u8]) -> String {
    digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn fingerprint(key: &PublicKey) -> Result<String, Fault> {
    Ok(colons(&Md5::digest(key.to_bytes().map_err(|_| invalid())?)))
}

fn import_ssh(public: String) -> Result<Made, Fault> {
    let key = PublicKey::from_openssh(public.trim()).map_err(|_| invalid())?;
    Ok(Made {
        fingerprint: fingerprint(&key)?,
        public,
        private: None,
    })
}

fn import_x509(public: String) -> Result<Made, Fault> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(public.as_bytes()).map_err(|_| invalid())?;
    pem.parse_x509().map_err(|_| invalid())?;
    Ok(Made {
        fingerprint: colons(&Sha1::digest(&pem.contents)),
        public,
        private: None,
    })
}

fn generate_ssh() -> Result<Made, Fault> {
    let private =
        rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, BITS).map_err(Fault::internal)?;
    let number = |bytes: Vec<u8>| Mpint::from_positive_bytes(&bytes).map_err(Fault::internal);
    let data = ssh_key::public::RsaPublicKey {
        e: number(private.e().to_bytes_be())?,
        n: number(private.n().to_bytes_be())?,
    };
    let key = PublicKey::new(data.into(), "Generated-by-Nova");
    let public = key.to_openssh().map_err(Fault::internal)?;
    let pem = private
        .to_pkcs1_pem(rsa::pkcs1::LineEnding::LF)
        .map_err(Fault::internal)?;
    Ok(Made {
        fingerprint: fingerprint(&key)?,
        public,
        private: Some(pem.to_string()),
    })
}

/// A certificate for WinRM, self-signed for ten years.
fn generate_x509() -> Result<Made, Fault> {
    let private =
        rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, BITS).map_err(Fault::internal)?;
    let pem = private
        .to_pkcs8_pem(rsa::pkcs8::LineEnding::LF)
        .map_err(Fault::internal)?;
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA256)
        .map_err(Fault::internal)?;
    let mut params = rcgen::CertificateParams::new(Vec::new()).map_err(Fault::internal)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kilonova");
    params
        .extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let certificate = params.self_signed(&pair).map_err(Fault::internal)?;
    Ok(Made {
        fingerprint: colons(&Sha1::digest(certificate.der())),
        public: certificate.pem(),
        private: Some(pem.to_string()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn imported_keys() {
        let line =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";
        let made = import_ssh(line.to_owned()).unwrap();
        assert_eq!(made.fingerprint.len(), 16 * 3 - 1);
        assert_eq!(made.public, line);
        assert_eq!(
            import_ssh("junk".to_owned()).map(|_| ()).unwrap_err(),
            invalid()
        );
    }

    #[test]
    fn generated_certificates_are_imported_with_the_same_fingerprint() {
        let made = generate_x509().unwrap();
        assert_eq!(
            import_x509(made.public).unwrap().fingerprint,
            made.fingerprint
        );
        assert!(made.private.unwrap().contains("PRIVATE KEY"));
    }
}
