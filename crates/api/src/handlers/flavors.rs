//! `/flavors` and who may use the private ones.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::idempotency;
use crate::mv;
use crate::schemas::{formats, is_true, number};
use crate::views::flavor::{FlavorName, FlavorView};
use crate::views::{All, At};
use db::flavors::{InsertError, Record};
use http::StatusCode;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use types::{FlavorId, Timestamp, server};

const SPECS: &str = "os_compute_api:os-flavor-extra-specs:index";

fn view(call: &Call, record: Record) -> FlavorView {
    let links = call.links.pair("flavors", record.flavor.id.as_str());
    FlavorView {
        record,
        links,
        with_specs: call.may(SPECS),
    }
}

fn unknown(id: &str) -> Fault {
    Fault::not_found(format!("Flavor {id} could not be found."))
}

impl From<InsertError> for Fault {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Database(error) => error.into(),
            taken => Self::conflict(taken.to_string()),
        }
    }
}

/// Which flavors a list shows.
struct Wanted {
    public: Option<bool>,
    min_ram: i64,
    min_disk: i64,
    name: Option<regex::Regex>,
    sort: String,
    descending: bool,
}

impl Wanted {
    fn of(call: &Call) -> Result<Self, Fault> {
        let least = |key: &str, what: &str| match call.query.get(key) {
            None => Ok(0),
            Some(text) => text
                .parse::<i64>()
                .map_err(|_| Fault::bad_request(format!("Invalid {what} filter [{text}]"))),
        };
        let public = if call.is_admin() {
            is_public(call.query.get("is_public"))?
        } else {
            Some(true)
        };
        let name = match call.query.get("name") {
            Some(text) => Some(
                formats::compiled(text)
                    .ok_or_else(|| Fault::bad_request(format!("Invalid name filter [{text}]")))?,
            ),
            None => None,
        };
        Ok(Self {
            public,
            min_ram: least("minRam", "min_ram")?,
            min_disk: least("minDisk", "min_disk")?,
            name,
            sort: call.query.get("sort_key").unwrap_or("flavorid").to_owned(),
            descending: call.query.get("sort_dir") == Some("desc"),
        })
    }

    fn fits(&self, record: &Record, accessible: &HashSet<i64>) -> bool {
        // The public ones go with those that the project has access to, an administrator's project too.
        let visible = match self.public {
            None => true,
            Some(true) => record.is_public || accessible.contains(&record.row),
            Some(false) => !record.is_public,
        };
        visible
            && i64::from(record.flavor.memory_mb) >= self.min_ram
            && i64::from(record.flavor.root_gb) >= self.min_disk
            && self
                .name
                .as_ref()
                .is_none_or(|name| name.is_match(&record.flavor.name))
    }

    fn order(&self, a: &Record, b: &Record) -> Ordering {
        let by = match self.sort.as_str() {
            "name" => a.flavor.name.cmp(&b.flavor.name),
            "memory_mb" => a.flavor.memory_mb.cmp(&b.flavor.memory_mb),
            "vcpus" => a.flavor.vcpus.cmp(&b.flavor.vcpus),
            "root_gb" => a.flavor.root_gb.cmp(&b.flavor.root_gb),
            "ephemeral_gb" => a.flavor.ephemeral_gb.cmp(&b.flavor.ephemeral_gb),
            "swap" => a.flavor.swap_mb.cmp(&b.flavor.swap_mb),
            "is_public" => a.is_public.cmp(&b.is_public),
            "description" => a.description.cmp(&b.description),
            "rxtx_factor" => a.flavor.rxtx_factor.total_cmp(&b.flavor.rxtx_factor),
            "created_at" => a.created_at.cmp(&b.created_at),
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            "id" => a.row.cmp(&b.row),
            _ => a.flavor.id.cmp(&b.flavor.id),
        };
        let by = by.then(a.row.cmp(&b.row));
        if self.descending { by.reverse() } else { by }
    }
}

/// An administrator's `is_public`: true unless said otherwise, `none` for all.
fn is_public(text: Option<&str>) -> Result<Option<bool>, Fault> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(Some(true)),
        Some("none") => Ok(None),
        Some("1" | "t" | "true" | "on" | "y" | "yes") => Ok(Some(true)),
        Some("0" | "f" | "false" | "off" | "n" | "no") => Ok(Some(false)),
        Some(_) => Err(Fault::bad_request(format!(
            "Invalid is_public filter [{}]",
            text.unwrap_or_default()
        ))),
    }
}

/// The page and whether another follows.
async fn page(call: &Call) -> Result<(Vec<FlavorView>, Option<String>), Fault> {
    let wanted = Wanted::of(call)?;
    let limit = call.limit()?;
    let project = call.project().to_owned();
    let (all, accessible) = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            Ok((
                db::flavors::all(tx)?,
                db::flavors::accessible(tx, &project)?,
            ))
        })
        .await?;
    let accessible: HashSet<i64> = accessible.into_iter().collect();
    let mut records: Vec<Record> = all
        .into_iter()
        .filter(|record| wanted.fits(record, &accessible))
        .collect();
    records.sort_by(|a, b| wanted.order(a, b));
    if let Some(marker) = call.query.get("marker") {
        let at = records
            .iter()
            .position(|record| record.flavor.id.as_str() == marker);
        let at = at.ok_or_else(|| Fault::bad_request(format!("marker [{marker}] not found")))?;
        records.drain(..=at);
    }
    records.truncate(limit);
    let next = records
        .last()
        .filter(|_| limit > 0 && records.len() == limit)
        .map(|record| record.flavor.id.0.clone());
    Ok((
        records
            .into_iter()
            .map(|record| view(call, record))
            .collect(),
        next,
    ))
}

/// `GET /flavors`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let (views, next) = page(&call).await?;
    let views: Vec<FlavorName> = views.into_iter().map(FlavorName).collect();
    let mut document = json!({ "flavors": All(&views, call.version) });
    if let Some(marker) = next {
        document["flavors_links"] = json!(call.links.next("/flavors", call.query.pairs(), &marker));
    }
    Reply::ok(&document)
}

/// `GET /flavors/detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    let (views, next) = page(&call).await?;
    let mut document = json!({ "flavors": All(&views, call.version) });
    if let Some(marker) = next {
        document["flavors_links"] = json!(call.links.next(
            "/flavors/detail",
            call.query.pairs(),
            &marker
        ));
    }
    Reply::ok(&document)
}

/// The flavor in the path, as far as the caller may see it.
pub async fn in_path(call: &Call) -> Result<Record, Fault> {
    let named = Named::of(call);
    let store = &call.api.deps.store;
    store.read(move |tx| named.find(tx)).await
}

/// A flavor as a path names it.
pub struct Named {
    id: FlavorId,
    /// Whose flavors; none is an administrator, who sees all.
    project: Option<String>,
}

impl Named {
    /// The flavor in the path.
    pub fn of(call: &Call) -> Self {
        Self {
            id: call.param(0).into(),
            project: (!call.is_admin()).then(|| call.project().to_owned()),
        }
    }

    /// Reads it, as far as the caller may see it.
    pub fn find(&self, tx: &mut sql::Tx<'_>) -> Result<Record, Fault> {
        let found = db::flavors::visible(tx, &self.id, self.project.as_deref())?;
        found.ok_or_else(|| unknown(self.id.as_str()))
    }
}

/// `GET /flavors/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let view = view(&call, in_path(&call).await?);
    Reply::ok(&json!({ "flavor": At(&view, call.version) }))
}

/// A number of the body, as wide as the column it goes to.
fn amount(call: &Call, name: &str) -> Result<u32, Fault> {
    let Some(value) = call.field("flavor", name) else {
        return Ok(0);
    };
    let number = number(value)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number <= 2_147_483_647);
    number.ok_or_else(|| {
        Fault::bad_request(format!(
            "Invalid input for field/attribute {name}. Value: {value}. Out of range."
        ))
    })
}

fn factor(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Number(number)) => number.as_f64().unwrap_or(1.0),
        Some(Value::String(text)) => text.parse().unwrap_or(1.0),
        _ => 1.0,
    }
}

/// `POST /flavors`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let field = |name: &str| call.field("flavor", name);
    let id = match field("id") {
        Some(Value::String(text)) if text != "auto" => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => uuid::Uuid::new_v4().to_string(),
    };
    for name in ["ram", "vcpus"] {
        if amount(&call, name)? == 0 {
            return Err(Fault::bad_request(format!(
                "Invalid input received: {name} must be at least 1"
            )));
        }
    }
    let record = Record {
        row: 0,
        flavor: server::Flavor {
            id: id.into(),
            name: call
                .text("flavor", "name")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            memory_mb: amount(&call, "ram")?,
            vcpus: amount(&call, "vcpus")?,
            root_gb: amount(&call, "disk")?,
            ephemeral_gb: amount(&call, "OS-FLV-EXT-DATA:ephemeral")?,
            swap_mb: amount(&call, "swap")?,
            rxtx_factor: factor(field("rxtx_factor")),
            extra_specs: BTreeMap::new(),
        },
        description: call.text("flavor", "description").map(str::to_owned),
        is_public: field("os-flavor-access:is_public").is_none_or(is_true),
        disabled: false,
        created_at: Timestamp::now(),
        updated_at: None,
    };
    let stored = record.clone();
    // A private flavor is usable by nobody until projects are given access, not even by the one that made it.
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            db::flavors::insert(tx, &stored)?;
            Ok(())
        })
        .await?;
    let view = view(&call, record);
    Reply::ok(&json!({ "flavor": At(&view, call.version) }))
}

/// `PUT /flavors/{id}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let mut record = in_path(&call).await?;
    record.description = call.text("flavor", "description").map(str::to_owned);
    let (row, description) = (record.row, record.description.clone());
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::describe(tx, row, description.as_deref(), now))
        .await?;
    let view = view(&call, record);
    Reply::ok(&json!({ "flavor": At(&view, call.version) }))
}

/// `DELETE /flavors/{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let row = in_path(&call).await?.row;
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::delete(tx, row))
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Who may use a private flavor.
fn access_document(tx: &mut sql::Tx<'_>, flavor: &str, row: i64) -> Result<Reply, Fault> {
    let projects = db::flavors::access(tx, row)?;
    let list: Vec<Value> = projects
        .iter()
        .map(|project| json!({ "flavor_id": flavor, "tenant_id": project }))
        .collect();
    Reply::ok(&json!({ "flavor_access": list }))
}

/// `GET /flavors/{id}/os-flavor-access`.
pub async fn access(call: Call) -> Result<Reply, Fault> {
    let record = in_path(&call).await?;
    if record.is_public {
        return Err(Fault::not_found(
            "Access list not available for public flavors.",
        ));
    }
    let store = call.api.deps.store.clone();
    let reading = store.read(move |tx| access_document(tx, call.param(0), record.row));
    reading.await
}

/// Changes who may use the flavor in one transaction, with the answer where that is kept under a key. `how` says whether it
/// did anything; if not, the request is refused.
async fn change_access<F>(call: Call, row: i64, refusal: Fault, how: F) -> Result<Reply, Fault>
where
    F: Fn(&mut sql::Tx<'_>) -> Result<bool, sql::Error> + Send + 'static,
{
    let flavor = call.param(0).to_owned();
    let changing = move |tx: &mut sql::Tx<'_>| match how(tx)? {
        true => access_document(tx, &flavor, row),
        false => Err(refusal.clone()),
    };
    idempotency::keeping(&call, changing).await
}

/// The project that an action names.
fn tenant(call: &Call, action: &str) -> String {
    call.text(action, "tenant").unwrap_or_default().to_owned()
}

/// `addTenantAccess`.
pub async fn add_access(call: Call) -> Result<Reply, Fault> {
    let tenant = tenant(&call, "addTenantAccess");
    call.demand_project(&tenant).await?;
    let record = in_path(&call).await?;
    if record.is_public && call.at_least(mv::NO_ACCESS_TO_PUBLIC_FLAVOR) {
        return Err(Fault::conflict("Can not add access to a public flavor."));
    }
    let refusal = Fault::conflict(format!(
        "Flavor access already exists for flavor {} and project {tenant} combination.",
        call.param(0)
    ));
    let row = record.row;
    let add = move |tx: &mut sql::Tx<'_>| db::flavors::add_access(tx, row, &tenant);
    change_access(call, row, refusal, add).await
}

/// `removeTenantAccess`; the project need not exist any more.
pub async fn remove_access(call: Call) -> Result<Reply, Fault> {
    let tenant = tenant(&call, "removeTenantAccess");
    let record = in_path(&call).await?;
    let refusal = Fault::not_found(format!(
        "Flavor access not found for {} / {tenant} combination.",
        call.param(0)
    ));
    let row = record.row;
    let remove = move |tx: &mut sql::Tx<'_>| db::flavors::remove_access(tx, row, &tenant);
    change_access(call, row, refusal, remove).await
}
