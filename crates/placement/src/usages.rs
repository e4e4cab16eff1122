//! What is used, by provider and by project; resource classes and traits.

use crate::dispatch::{Answer, Call};
use crate::fault::Fault;
use crate::query::invalid;
use crate::{names, view};
use db::placement_api;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(crate) async fn of_provider(call: Call) -> Result<Answer, Fault> {
    let view = view::read_one(call.store(), call.capture(0)).await?;
    let used: BTreeMap<&String, u64> = view
        .inventories
        .iter()
        .map(|(class, inventory)| (class, inventory.used))
        .collect();
    Ok(Answer::json(
        json!({"usages": used, "resource_provider_generation": view.provider.generation}),
    ))
}

pub(crate) async fn of_project(call: Call) -> Result<Answer, Fault> {
    let query = &call.query;
    query.only(|name| {
        matches!(name, "project_id" | "user_id") || name == "consumer_type" && call.version >= 38
    })?;
    let project = query
        .get("project_id")
        .ok_or_else(|| invalid("'project_id' is a required property"))?
        .to_owned();
    let user = query.get("user_id").map(str::to_owned);
    for value in [Some(&project), user.as_ref()].into_iter().flatten() {
        if !(1..=255).contains(&value.chars().count()) {
            return Err(invalid(&format!("'{value}' must have 1 to 255 characters")));
        }
    }
    let read = call.store().read(move |tx| {
        let amounts = placement_api::usages_by_type(tx, &project, user.as_deref())?;
        Ok::<_, sql::Error>((
            amounts,
            placement_api::consumers_by_type(tx, &project, user.as_deref())?,
        ))
    });
    let (amounts, counts) = read.await?;
    if call.version < 38 {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (_, class, amount) in amounts {
            *sums.entry(class).or_default() += amount;
        }
        return Ok(Answer::json(json!({"usages": sums})));
    }
    let asked = query.get("consumer_type");
    let mut shown: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let group = |consumer_type: String| match asked {
        None => Some(consumer_type),
        Some("all") => Some("all".to_owned()),
        Some(wanted) => (wanted == consumer_type).then_some(consumer_type),
    };
    let counts = counts
        .into_iter()
        .map(|(kind, count)| (kind, "consumer_count".to_owned(), count));
    for (consumer_type, what, amount) in counts.chain(amounts) {
        if let Some(group) = group(consumer_type) {
            *shown.entry(group).or_default().entry(what).or_default() += amount;
        }
    }
    Ok(Answer::json(json!({"usages": shown})))
}

fn show_class(name: &str) -> Value {
    json!({"name": name, "links": [{"rel": "self", "href": format!("/resource_classes/{name}")}]})
}

pub(crate) async fn classes(_: Call) -> Result<Answer, Fault> {
    let classes: Vec<Value> = names::CLASSES.iter().map(|name| show_class(name)).collect();
    Ok(Answer::json(json!({"resource_classes": classes})))
}

pub(crate) async fn class(call: Call) -> Result<Answer, Fault> {
    let name = call.capture(0);
    if names::is_class(name) {
        return Ok(Answer::json(show_class(name)));
    }
    Err(Fault::not_found(format!("No such resource class {name}.")))
}

pub(crate) async fn traits(call: Call) -> Result<Answer, Fault> {
    call.query
        .only(|name| matches!(name, "name" | "associated"))?;
    let named: Box<dyn Fn(&str) -> bool + Send> = match call
        .query
        .get("name")
        .map(|name| name.split_once(':'))
    {
        None => Box::new(|_| true),
        Some(Some(("in", list))) => {
            let list: Vec<String> = list.split(',').map(str::to_owned).collect();
            Box::new(move |name| list.iter().any(|wanted| wanted == name))
        }
        Some(Some(("startswith", prefix))) => {
            let prefix = prefix.to_owned();
            Box::new(move |name| name.starts_with(&prefix))
        }
        Some(_) => {
            return Err(Fault::bad_request(
                "Badly formatted name parameter. Expected name query string parameter in form: ?name=[in|startswith]:[name1,name2|prefix].",
            ));
        }
    };
    let associated = match call
        .query
        .get("associated")
        .map(str::to_lowercase)
        .as_deref()
    {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => {
            return Err(Fault::bad_request(
                "The query parameter \"associated\" only accepts \"true\" or \"false\"",
            ));
        }
    };
    let mut found: Vec<&str> = names::traits().filter(|name| named(name)).collect();
    if let Some(wanted) = associated {
        let views = view::read(call.store()).await?;
        found.retain(|name| views.iter().any(|view| view.traits.contains(*name)) == wanted);
    }
    Ok(Answer::json(json!({"traits": found})))
}

pub(crate) async fn one_trait(call: Call) -> Result<Answer, Fault> {
    let name = call.capture(0);
    if names::is_trait(name) {
        return Ok(Answer::empty(StatusCode::NO_CONTENT));
    }
    Err(Fault::not_found(format!("No such trait(s): {name}.")))
}

/// Capacity and use by class, as allocation candidates summarise a provider.
pub(crate) fn summary(
    view: &view::ProviderView,
    shown: impl Fn(&str) -> bool,
) -> Map<String, Value> {
    let inventories = view.inventories.iter().filter(|(class, _)| shown(class));
    inventories
        .map(|(class, inventory)| {
            (
                class.clone(),
                json!({"capacity": inventory.capacity(), "used": inventory.used}),
            )
        })
        .collect()
}
