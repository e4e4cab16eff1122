//! `/v3/credentials`: secrets of users, sealed while they are stored.

use super::call::Call;
use super::crud::text;
use crate::db::records::Record;
use crate::fault::Fault;
use crate::keys::Keyring;
use policy::Target;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// Unseals the blob of a stored credential.
pub fn open(keys: &Keyring, record: &mut Record) {
    let blob = keys
        .unseal(text(record, "blob"))
        .and_then(|bytes| String::from_utf8(bytes).ok());
    record.insert("blob".to_owned(), blob.map_or(Json::Null, Json::String));
}

/// Seals the blob of a record that is about to be stored, if it has one.
pub fn seal(call: &Call, record: &mut Record) {
    if let Some(Json::String(blob)) = record.get("blob") {
        let sealed = call.service.inner.credential_keys.seal(blob.as_bytes());
        record.insert("blob".to_owned(), Json::String(sealed));
    }
}

/// Completes a new credential: its owner, the id that EC2 credentials have, the sealed blob.
pub fn prepare(call: &Call, record: &mut Record) -> Result<(), Fault> {
    if text(record, "user_id").is_empty() {
        record.insert(
            "user_id".to_owned(),
            Json::String(call.held()?.caller.user_id.clone()),
        );
    }
    if text(record, "type") == "ec2" {
        let mut blob: Json = serde_json::from_str(text(record, "blob"))
            .map_err(|_| Fault::BadRequest("Invalid blob in credential".to_owned()))?;
        let access = blob["access"]
            .as_str()
            .ok_or_else(|| Fault::BadRequest("Invalid blob in credential".to_owned()))?;
        if text(record, "project_id").is_empty() {
            return Err(Fault::required("project_id"));
        }
        record.insert("id".to_owned(), Json::String(ec2_id(access)));
        // What is made with an application credential has no more rights than that.
        blob["app_cred_id"] = call
            .held()?
            .app_credential
            .as_ref()
            .map_or(Json::Null, |(id, _, _)| id.clone().into());
        record.insert("blob".to_owned(), Json::String(blob.to_string()));
    }
    seal(call, record);
    Ok(())
}

/// The id of EC2 credentials is the hash of their access key, so that they are found by it.
pub fn ec2_id(access: &str) -> String {
    hex::encode(Sha256::digest(access.as_bytes()))
}

/// Those that the caller may look at.
pub fn visible(call: &Call, found: Vec<Record>) -> Result<Vec<Record>, Fault> {
    let mut visible = Vec::new();
    for record in found {
        let target = Target::new().with("target.credential.user_id", text(&record, "user_id"));
        if call.allowed("identity:get_credential", &target)? {
            visible.push(record);
        }
    }
    Ok(visible)
}

/// Refuses changes of a secret by a program that has only an application credential: they could widen its rights.
pub fn check_change(call: &Call, changes: &Record) -> Result<(), Fault> {
    if changes.contains_key("blob") && call.held()?.app_credential.is_some() {
        return Err(Fault::denied("identity:update_credential"));
    }
    Ok(())
}
