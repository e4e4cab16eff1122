//! `/os-migrations`: moves of servers between hosts and flavors. `/servers/{id}/migrations`: live ones in progress.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::views::{All, At, Fields, View};
use crate::{links::Link, links::Links};
use db::migrations::{Filter, Kind, Migration, Page, Status};
use serde::ser::SerializeMap;
use serde_json::json;
use types::{MigrationId, Timestamp};

const ALL_PROJECTS: &str = "os_compute_api:os-migrations:index:all_projects";
const HOSTS: &str = "os_compute_api:os-migrations:index:host";
const HOSTS_OF_SERVER: &str = "os_compute_api:servers:migrations:index:host";

/// A move in the list of all.
struct Listed<'a> {
    migration: &'a Migration,
    /// Whether the hosts are shown.
    hosts: bool,
    links: &'a Links,
}

/// A live migration below its server.
struct Live<'a> {
    migration: &'a Migration,
    hosts: bool,
}

fn is_live_in_progress(migration: &Migration) -> bool {
    migration.kind == Kind::LiveMigration && Status::LIVE_IN_PROGRESS.contains(&migration.status)
}

/// Where from and where to; null where the caller may not know.
fn ends<M: SerializeMap>(
    migration: &Migration,
    shown: bool,
    out: &mut Fields<M>,
) -> Result<(), M::Error> {
    let (source, dest) = (&migration.source, &migration.dest);
    let fields = [
        (
            "source_compute",
            source.compute.as_ref().map(|host| host.as_str()),
        ),
        ("source_node", source.node.as_deref()),
        (
            "dest_compute",
            dest.compute.as_ref().map(|host| host.as_str()),
        ),
        ("dest_node", dest.node.as_deref()),
        ("dest_host", migration.dest_address.as_deref()),
    ];
    for (name, value) in fields {
        out.always(name, &value.filter(|_| shown))?;
    }
    Ok(())
}

/// What both kinds of view begin with.
fn common<M: SerializeMap>(
    migration: &Migration,
    hosts: bool,
    out: &mut Fields<M>,
) -> Result<(), M::Error> {
    out.always("id", &migration.number)?;
    out.always("status", migration.status.as_str())?;
    out.always("created_at", &migration.created_at.iso_micros())?;
    // The first change of a live migration is here its beginning.
    let begun = (migration.kind == Kind::LiveMigration).then_some(migration.created_at);
    let updated = migration.updated_at.or(begun);
    out.always("updated_at", &updated.map(Timestamp::iso_micros))?;
    ends(migration, hosts, out)?;
    out.since(mv::MIGRATION_PAGES, "uuid", &migration.id)?;
    out.since(mv::MIGRATION_OWNER, "project_id", &migration.project_id)?;
    out.since(mv::MIGRATION_OWNER, "user_id", &migration.user_id)
}

impl View for Listed<'_> {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let migration = self.migration;
        common(migration, self.hosts, out)?;
        out.always("instance_uuid", &migration.server)?;
        out.always("old_instance_type_id", &migration.old_flavor)?;
        out.always("new_instance_type_id", &migration.new_flavor)?;
        out.since(
            mv::MIGRATION_TYPE,
            "migration_type",
            migration.kind.as_str(),
        )?;
        let links: Option<[Link; 2]> = is_live_in_progress(migration).then(|| {
            let collection = format!("servers/{}/migrations", migration.server);
            self.links.pair(&collection, &migration.number.to_string())
        });
        out.maybe(mv::MIGRATION_TYPE, "links", links.as_ref())
    }
}

impl View for Live<'_> {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let migration = self.migration;
        common(migration, self.hosts, out)?;
        out.always("server_uuid", &migration.server)?;
        for (what, bytes) in [("memory", migration.memory), ("disk", migration.disk)] {
            out.always(&format!("{what}_total_bytes"), &bytes.total)?;
            out.always(&format!("{what}_processed_bytes"), &bytes.processed)?;
            out.always(&format!("{what}_remaining_bytes"), &bytes.remaining)?;
        }
        Ok(())
    }
}

/// The conditions of the query.
fn filter(call: &Call) -> Result<Filter, Fault> {
    let text = |name: &str| call.query.get(name).map(str::to_owned);
    let time = |name: &str| call.query.get(name).and_then(Timestamp::parse);
    let filter = Filter {
        host: text("host"),
        source: text("source_compute").filter(|_| call.query.get("host").is_none()),
        server: text("instance_uuid"),
        status: text("status"),
        kind: text("migration_type"),
        project_id: text("project_id"),
        user_id: text("user_id"),
        changed_since: time("changes-since"),
        changed_before: time("changes-before"),
    };
    if let (Some(since), Some(before)) = (filter.changed_since, filter.changed_before)
        && since > before
    {
        return Err(Fault::bad_request(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    Ok(filter)
}

/// Whether the query wants hidden moves, which are never shown.
fn wants_hidden(call: &Call) -> bool {
    let hidden = call.query.get("hidden");
    hidden.is_some_and(|text| ["1", "true", "True"].contains(&text))
}

fn page(call: &Call) -> Result<Option<Page>, Fault> {
    if !call.at_least(mv::MIGRATION_PAGES) {
        return Ok(None);
    }
    let marker = call.query.get("marker");
    let after = match marker.map(str::parse::<MigrationId>) {
        Some(Ok(id)) => Some(id),
        None => None,
        Some(Err(_)) => return Err(no_marker(marker)),
    };
    let limit = u64::try_from(call.limit()?).unwrap_or(u64::MAX);
    Ok(Some(Page { after, limit }))
}

fn no_marker(marker: Option<&str>) -> Fault {
    let marker = marker.unwrap_or_default();
    Fault::bad_request(format!("Marker {marker} could not be found."))
}

/// `GET /os-migrations`. Who may not see those of all projects must name the own one (2.80).
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let project = call.query.get("project_id");
    if project.is_none_or(|project| project != call.project()) {
        call.require(ALL_PROJECTS)?;
    }
    let (filter, page) = (filter(&call)?, page(&call)?);
    let empty = page.is_some_and(|page| page.limit == 0) || wants_hidden(&call);
    let found = if empty {
        Some(Vec::new())
    } else {
        let store = &call.api.deps.store;
        store
            .read(move |tx| db::migrations::list(tx, &filter, page))
            .await?
    };
    let found = found.ok_or_else(|| no_marker(call.query.get("marker")))?;
    let hosts = call.may(HOSTS);
    let shown: Vec<Listed<'_>> = found
        .iter()
        .map(|migration| Listed {
            migration,
            hosts,
            links: &call.links,
        })
        .collect();
    let mut document = json!({ "migrations": All(&shown, call.version) });
    let full = page.is_some_and(|page| page.limit == found.len() as u64);
    if let Some(last) = found.last().filter(|_| full) {
        let marker = last.id.to_string();
        let links = call
            .links
            .next("/os-migrations", call.query.pairs(), &marker);
        document["migrations_links"] = json!(links);
    }
    Reply::ok(&document)
}

/// `GET /servers/{id}/migrations`.
pub async fn of_server(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let id = server.id;
    let store = &call.api.deps.store;
    let found = store
        .read(move |tx| db::migrations::live_in_progress(tx, id))
        .await?;
    let (project, user) = (server.project_id.as_str(), server.user_id.as_str());
    let hosts = call.may_for(HOSTS_OF_SERVER, project, user);
    let shown: Vec<Live<'_>> = found
        .iter()
        .map(|migration| Live { migration, hosts })
        .collect();
    Reply::ok(&json!({ "migrations": All(&shown, call.version) }))
}

/// `GET /servers/{id}/migrations/{number}`.
pub async fn show_of_server(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?.id;
    let asked = call.param(1).to_owned();
    let missing = || {
        Fault::not_found(format!(
            "In-progress live migration {asked} is not found for server {server}."
        ))
    };
    let number: i64 = asked.parse().map_err(|_| missing())?;
    let store = &call.api.deps.store;
    let found = store
        .read(move |tx| db::migrations::of_server_by_number(tx, server, number))
        .await?
        .ok_or_else(missing)?;
    if found.kind != Kind::LiveMigration {
        return Err(Fault::not_found(format!(
            "Migration {asked} for server {server} is not live-migration."
        )));
    }
    if !is_live_in_progress(&found) {
        return Err(Fault::not_found(format!(
            "Live migration {asked} for server {server} is not in progress."
        )));
    }
    let view = Live {
        migration: &found,
        hosts: true,
    };
    Reply::ok(&json!({ "migration": At(&view, call.version) }))
}
