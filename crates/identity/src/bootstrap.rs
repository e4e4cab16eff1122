//! What a fresh cloud holds, and what it takes to change it.

use crate::db::grants::{self, Grant};
use crate::db::kinds::{DOMAINS, ENDPOINTS, Kind, PROJECTS, REGIONS, ROLES, SERVICES, USERS};
use crate::db::{access as rows, records};
use crate::fault::Fault;
use crate::service::{Error, Service};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use sql::Tx;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use types::Timestamp;

/// The id of the first domain, in every OpenStack cloud.
pub const DEFAULT_DOMAIN: &str = "default";
/// Each implies the next.
const ROLE_CHAIN: [&str; 4] = ["admin", "manager", "member", "reader"];

/// An entry of the catalog.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// For example `compute`.
    pub service_type: String,
    /// For example `nova`.
    pub service_name: String,
    /// Where clients find it; may hold `$(project_id)s`.
    pub public: String,
    /// Where services find it.
    pub internal: String,
    /// Where administrators find it; none for most services.
    pub admin: Option<String>,
}

/// A user of the project `service`, as which a service acts.
#[derive(Clone, Debug)]
pub struct ServiceUser {
    /// For example `nova`.
    pub name: String,
    /// `None` for a service in this process, which uses [`Service::issue_service_token`].
    pub password: Option<String>,
    /// Roles on the project `service`: `service`, and `admin` for those that change what belongs to others.
    pub roles: Vec<String>,
}

/// The contents of a fresh cloud.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Password of the user `admin`.
    pub admin_password: String,
    /// Password of the user `demo`; without it there is no such user.
    pub demo_password: Option<String>,
    /// Usually `RegionOne`.
    pub region: String,
    /// The catalog.
    pub endpoints: Vec<Endpoint>,
    /// Services that act as users.
    pub service_users: Vec<ServiceUser>,
}

/// Ids that the rest of a fresh cloud is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// The project `admin`.
    pub admin_project_id: String,
    /// The project `service`.
    pub service_project_id: String,
    /// The project `demo`.
    pub demo_project_id: String,
    /// The user `admin`.
    pub admin_user_id: String,
}

impl Service {
    /// Makes what is missing of a fresh cloud; what is there stays, except that passwords and endpoint addresses are
    /// set to what is asked. Safe to repeat at every start.
    pub async fn bootstrap(&self, wanted: &Bootstrap) -> Result<Bootstrapped, Error> {
        let service_users = wanted
            .service_users
            .iter()
            .filter_map(|user| user.password.clone().map(|p| (user.name.clone(), p)));
        let people = [("admin".to_owned(), wanted.admin_password.clone())]
            .into_iter()
            .chain(
                wanted
                    .demo_password
                    .clone()
                    .map(|password| ("demo".to_owned(), password)),
            )
            .chain(service_users);
        // bcrypt is slow on purpose, and a start should not be: all at once.
        let hashing = people.map(|(name, password)| async move {
            let hash = self.changed_password(&name, &password).await?;
            Ok::<_, Error>(hash.map(|hash| (name, hash)))
        });
        let hashes: HashMap<String, String> = futures_util::future::try_join_all(hashing)
            .await?
            .into_iter()
            .flatten()
            .collect();
        let wanted = wanted.clone();
        Ok(self.change(move |tx| fill(tx, &wanted, &hashes)).await?)
    }

    /// The hash to store, unless the user has this password already (then its tokens stay good).
    async fn changed_password(&self, name: &str, password: &str) -> Result<Option<String>, Error> {
        let user = name.to_owned();
        let domain = rows::Named::Id(DEFAULT_DOMAIN.to_owned());
        let person = self
            .read(move |tx| Ok(rows::person_by_name(tx, &user, &domain)?))
            .await?;
        let mark = self.mark_file(name);
        if let Some(hash) = person.and_then(|person| person.password_hash) {
            let expected = mark_of(&hash, password);
            if std::fs::read_to_string(&mark).is_ok_and(|known| known == expected) {
                return Ok(None);
            }
            if self.inner.passwords.verify(password, Some(hash)).await? {
                remember(&mark, &expected);
                return Ok(None);
            }
        }
        let hash = self.inner.passwords.hash(password).await?;
        remember(&mark, &mark_of(&hash, password));
        Ok(Some(hash))
    }

    /// Beside the keys, which are worth more than what it holds.
    fn mark_file(&self, name: &str) -> PathBuf {
        let name = hex::encode(Sha256::digest(name));
        let name = format!("known-{}", &name[..16]);
        self.inner.config.key_folder.join(name)
    }
}

/// Says that this password fits this hash, so that the next start need not ask bcrypt.
fn mark_of(hash: &str, password: &str) -> String {
    hex::encode(Sha256::digest(format!("{hash}\n{password}")))
}

/// Without it the next start takes a moment longer, no more.
fn remember(file: &Path, mark: &str) {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(mark.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%error, "that a password is known cannot be written");
    }
}

fn fill(
    tx: &mut Tx<'_>,
    wanted: &Bootstrap,
    hashes: &HashMap<String, String>,
) -> Result<Bootstrapped, Fault> {
    if records::find(tx, &DOMAINS, DEFAULT_DOMAIN)?.is_none() {
        let domain = json!({"id": DEFAULT_DOMAIN, "name": "Default", "description": "The default domain", "enabled": true});
        insert(tx, &DOMAINS, domain)?;
    }
    let mut roles = HashMap::new();
    for name in ROLE_CHAIN.into_iter().chain(["service"]) {
        roles.insert(name.to_owned(), role(tx, name)?);
    }
    for pair in ROLE_CHAIN.windows(2) {
        grants::imply(tx, &roles[pair[0]], &roles[pair[1]])?;
    }
    let admin_project_id = project(tx, "admin", "Bootstrap project for initializing the cloud.")?;
    let service_project_id = project(tx, "service", "Users of the services")?;
    let demo_project_id = project(tx, "demo", "An ordinary project")?;
    let admin_user_id = user(tx, "admin", Some(&admin_project_id), hashes)?;
    give(
        tx,
        &admin_user_id,
        "project",
        &admin_project_id,
        &roles["admin"],
    )?;
    give(tx, &admin_user_id, "system", "system", &roles["admin"])?;
    give(
        tx,
        &admin_user_id,
        "domain",
        DEFAULT_DOMAIN,
        &roles["admin"],
    )?;
    if wanted.demo_password.is_some() {
        let demo = user(tx, "demo", Some(&demo_project_id), hashes)?;
        give(tx, &demo, "project", &demo_project_id, &roles["member"])?;
        give(tx, &demo, "project", &demo_project_id, &roles["reader"])?;
    }
    for service in &wanted.service_users {
        let id = user(tx, &service.name, None, hashes)?;
        for name in &service.roles {
            let role = role(tx, name)?;
            give(tx, &id, "project", &service_project_id, &role)?;
        }
    }
    if records::find(tx, &REGIONS, &wanted.region)?.is_none() {
        insert(
            tx,
            &REGIONS,
            json!({"id": wanted.region, "description": "", "parent_region_id": null}),
        )?;
    }
    for endpoint in &wanted.endpoints {
        offer(tx, endpoint, &wanted.region)?;
    }
    Ok(Bootstrapped {
        admin_project_id,
        service_project_id,
        demo_project_id,
        admin_user_id,
    })
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn insert(tx: &mut Tx<'_>, kind: &Kind, record: Json) -> Result<(), Fault> {
    let Json::Object(record) = record else {
        return Err(Fault::Internal);
    };
    Ok(records::insert(tx, kind, &record)?)
}

fn id(record: &records::Record) -> String {
    record
        .get("id")
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn role(tx: &mut Tx<'_>, name: &str) -> Result<String, Fault> {
    if let Some(found) = records::list(
        tx,
        &ROLES,
        &[("domain_id", Json::Null), ("name", name.into())],
    )?
    .first()
    {
        return Ok(id(found));
    }
    let new = new_id();
    insert(
        tx,
        &ROLES,
        json!({"id": new, "name": name, "domain_id": null, "description": null}),
    )?;
    Ok(new)
}

fn project(tx: &mut Tx<'_>, name: &str, description: &str) -> Result<String, Fault> {
    if let Some(found) = records::by_name(tx, &PROJECTS, DEFAULT_DOMAIN, name)? {
        return Ok(id(&found));
    }
    let new = new_id();
    let record = json!({
        "id": new, "name": name, "domain_id": DEFAULT_DOMAIN, "parent_id": DEFAULT_DOMAIN, "description": description,
        "enabled": true,
    });
    insert(tx, &PROJECTS, record)?;
    Ok(new)
}

fn user(
    tx: &mut Tx<'_>,
    name: &str,
    home: Option<&str>,
    hashes: &HashMap<String, String>,
) -> Result<String, Fault> {
    let user_id = match records::by_name(tx, &USERS, DEFAULT_DOMAIN, name)? {
        Some(found) => id(&found),
        None => {
            let new = new_id();
            let record = json!({
                "id": new, "name": name, "domain_id": DEFAULT_DOMAIN, "enabled": true, "default_project_id": home,
            });
            insert(tx, &USERS, record)?;
            new
        }
    };
    if let Some(hash) = hashes.get(name) {
        rows::set_password(tx, &user_id, hash, Timestamp::now())?;
    }
    Ok(user_id)
}

fn give(
    tx: &mut Tx<'_>,
    user_id: &str,
    scope_kind: &str,
    scope_id: &str,
    role_id: &str,
) -> Result<(), Fault> {
    let grant = Grant {
        actor_kind: "user".to_owned(),
        actor_id: user_id.to_owned(),
        scope_kind: scope_kind.to_owned(),
        scope_id: scope_id.to_owned(),
        role_id: role_id.to_owned(),
        inherited: false,
    };
    Ok(grants::add(tx, &grant)?)
}

fn offer(tx: &mut Tx<'_>, endpoint: &Endpoint, region: &str) -> Result<(), Fault> {
    let found = records::list(
        tx,
        &SERVICES,
        &[("type", Json::from(endpoint.service_type.as_str()))],
    )?;
    let service_id = match found
        .iter()
        .find(|service| service["name"] == endpoint.service_name.as_str())
    {
        Some(service) => id(service),
        None => {
            let new = new_id();
            let record = json!({
                "id": new, "name": endpoint.service_name, "type": endpoint.service_type, "enabled": true,
            });
            insert(tx, &SERVICES, record)?;
            new
        }
    };
    let urls = [
        ("public", Some(&endpoint.public)),
        ("internal", Some(&endpoint.internal)),
        ("admin", endpoint.admin.as_ref()),
    ];
    for (interface, url) in urls
        .into_iter()
        .filter_map(|(interface, url)| url.map(|url| (interface, url)))
    {
        let filters = [
            ("service_id", Json::from(service_id.as_str())),
            ("interface", Json::from(interface)),
            ("region_id", Json::from(region)),
        ];
        match records::list(tx, &ENDPOINTS, &filters)?.into_iter().next() {
            Some(mut record) => {
                record.insert("url".to_owned(), Json::from(url.as_str()));
                records::replace(tx, &ENDPOINTS, &record)?;
            }
            None => {
                let record = json!({
                    "id": new_id(), "interface": interface, "region_id": region, "service_id": service_id, "url": url,
                    "enabled": true,
                });
                insert(tx, &ENDPOINTS, record)?;
            }
        }
    }
    Ok(())
}
