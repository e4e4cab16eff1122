//! A network for a project that asks for any (`auto-allocated-topology`): with subnets from the default pools, behind a
//! router to the default external network. It is made once; whoever asks again gets the same.

use crate::api::listing::Query;
use crate::api::services::demand_room;
use crate::api::{networks, routers, subnets};
use crate::bootstrap::request;
use crate::db::{self, topologies};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::Work;
use policy::Target;
use serde_json::{Value, json};

fn failure(reason: &str) -> Fault {
    Fault::conflict(
        "AutoAllocationFailure",
        format!("Deployment error: {reason}."),
    )
}

/// The project that a path means, if the caller may do this with its topology.
fn project_of(work: &mut Work<'_, '_>, rule: &str, named: &str) -> Result<String, Fault> {
    // `None` is what clients send that know no project.
    let project = match named {
        "None" => work.cx.project(),
        named => named,
    };
    let target = Target::new()
        .with("project_id", project)
        .with("tenant_id", project);
    work.cx.demand(rule, &target)?;
    if project.is_empty() {
        return Err(Fault::request("A project must be named."));
    }
    Ok(project.to_owned())
}

/// What a topology is made from: the external network, and a pool for each IP version that has a default one.
fn ingredients(work: &mut Work<'_, '_>, project: &str) -> Result<(Doc, Vec<Doc>), Fault> {
    let external = db::find(work.tx, Kind::Network, &[db::is("external", true)])?;
    let external = external
        .into_iter()
        .find(|network| network.flag("is_default"));
    let external = external.ok_or_else(|| failure("No default router:external network"))?;
    let visible = db::Match::Visible(project.to_owned());
    let mut pools = db::find(work.tx, Kind::SubnetPool, &[visible])?;
    pools.retain(|pool| pool.flag("is_default"));
    pools.sort_by_key(|pool| pool.int("ip_version"));
    if pools.is_empty() {
        return Err(failure("No default subnetpools defined"));
    }
    Ok((external, pools))
}

/// `GET /v2.0/auto-allocated-topology/{project}`: makes it when it is not there yet; with `fields=dry-run` only says
/// whether it could.
pub fn show(work: &mut Work<'_, '_>, project: &str, query: &Query) -> Result<Value, Fault> {
    let project = project_of(work, "get_auto_allocated_topology", project)?;
    let id = if query.fields.iter().any(|field| field == "dry-run") {
        ingredients(work, &project)?;
        "dry-run=pass".to_owned()
    } else {
        match topologies::of(work.tx, &project)? {
            Some((network, _)) => network,
            None => make(work, &project)?,
        }
    };
    Ok(json!({"auto_allocated_topology": {"id": id, "tenant_id": project, "project_id": project}}))
}

fn make(work: &mut Work<'_, '_>, project: &str) -> Result<String, Fault> {
    let (external, pools) = ingredients(work, project)?;
    for (kind, count) in [
        (Kind::Network, 1),
        (Kind::Subnet, pools.len()),
        (Kind::Router, 1),
    ] {
        demand_room(work, kind, project, count)?;
    }
    let given = json!({"name": "auto_allocated_network"});
    let network = networks::create(work, request(Kind::Network, project, given))?;
    let given = json!({"name": "auto_allocated_router", "external_gateway_info": {"network_id": external.id()}});
    let router = routers::create(work, request(Kind::Router, project, given))?;
    topologies::insert(work.tx, project, network.id(), router.id())?;
    for pool in &pools {
        let version = pool.int("ip_version").unwrap_or(4);
        let given = json!({"name": format!("auto_allocated_subnet_v{version}"), "network_id": network.id(),
            "ip_version": version, "subnetpool_id": pool.id()});
        let subnet = subnets::create(work, request(Kind::Subnet, project, given))?;
        routers::add_own_interface(work, &router, subnet.id())?;
    }
    Ok(network.id().to_owned())
}

/// `DELETE /v2.0/auto-allocated-topology/{project}`
pub fn remove(work: &mut Work<'_, '_>, project: &str) -> Result<(), Fault> {
    let project = project_of(work, "delete_auto_allocated_topology", project)?;
    let Some((network, router)) = topologies::of(work.tx, &project)? else {
        return Ok(());
    };
    if let Some(router) = db::get(work.tx, Kind::Router, &router)? {
        routers::remove_whole(work, &router)?;
    }
    if let Some(network) = db::get(work.tx, Kind::Network, &network)? {
        networks::remove(work, &network)?;
    }
    topologies::forget_network(work.tx, &network)
}
