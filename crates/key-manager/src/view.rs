//! What clients see.

use crate::model::{Acl, Consumer, Secret};
use crate::query::Page;
use crate::version::Version;
use serde_json::{Value, json};
use types::Timestamp;

/// The reference of a secret.
pub fn secret_ref(base: &str, id: &str) -> String {
    format!("{base}/v1/secrets/{id}")
}

/// A secret without its payload.
pub fn secret(base: &str, version: Version, secret: &Secret, consumers: &[Consumer]) -> Value {
    let mut shown = json!({
        "created": secret.created_at.iso_micros(),
        "updated": secret.updated_at.iso_micros(),
        "status": "ACTIVE",
        "name": secret.name,
        "secret_type": secret.kind,
        "expiration": secret.expires_at.map(Timestamp::iso_micros),
        "algorithm": secret.algorithm,
        "bit_length": secret.bit_length,
        "mode": secret.mode,
        "creator_id": secret.creator_id,
        "secret_ref": secret_ref(base, &secret.id),
    });
    if let Some(content_type) = secret.content_type {
        shown["content_types"] = json!({"default": content_type.name()});
    }
    if version.shows_consumers() {
        shown["consumers"] = consumers.iter().map(using).collect();
    }
    shown
}

fn using(consumer: &Consumer) -> Value {
    json!({
        "service": consumer.service,
        "resource_type": consumer.resource_type,
        "resource_id": consumer.resource_id,
    })
}

/// Who uses a secret, in a list.
pub fn consumer(consumer: &Consumer) -> Value {
    let mut shown = using(consumer);
    let at = consumer.created_at.iso_micros();
    shown["created"] = at.clone().into();
    shown["updated"] = at.into();
    shown["status"] = "ACTIVE".into();
    shown
}

/// An access control list; that of a secret without one lets the project in.
pub fn acl(acl: Option<&Acl>) -> Value {
    let Some(acl) = acl else {
        return json!({"read": {"project-access": true}});
    };
    json!({"read": {
        "project-access": acl.project_access,
        "users": acl.users,
        "created": acl.created_at.iso_micros(),
        "updated": acl.updated_at.iso_micros(),
    }})
}

/// A page of a list, with links to the ones beside it. `url` is that of the list.
pub fn page(
    name: &str,
    items: Vec<Value>,
    total: usize,
    page: Page,
    url: &str,
    filters: &str,
) -> Value {
    let mut body = json!({name: items, "total": total});
    let link = |offset: usize| {
        let more = match filters {
            "" => String::new(),
            filters => format!("&{filters}"),
        };
        format!("{url}?limit={}&offset={offset}{more}", page.limit)
    };
    // Barbican links nothing from an empty page.
    let empty = body[name].as_array().is_none_or(Vec::is_empty);
    if !empty && page.offset > 0 {
        body["previous"] = link(page.offset.saturating_sub(page.limit)).into();
    }
    let next = page.offset.saturating_add(page.limit);
    if !empty && total > next {
        body["next"] = link(next).into();
    }
    body
}

/// What `/` and `/v1` say of the API. At the lowest version it is told as before there were others.
pub fn version(base: &str, asked: Version) -> Value {
    let links = json!([
        {"rel": "self", "href": format!("{base}/v1/")},
        {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
    ]);
    if asked == Version::LEAST {
        return json!({
            "id": "v1",
            "status": "stable",
            "links": links,
            "media-types": [
                {"base": "application/json", "type": "application/vnd.openstack.key-manager-v1+json"},
            ],
        });
    }
    json!({
        "id": "v1",
        "status": "CURRENT",
        "min_version": Version::LEAST.text(),
        "max_version": Version::MOST.text(),
        "links": links,
    })
}
