//! Storage on every database there is (`sql::testing`).
#![allow(clippy::unwrap_used)]

use super::access::{self, Named};
use super::grants::{self, Grant};
use super::kinds::{DOMAINS, PROJECTS, ROLES, USERS};
use super::records::{self, Record};
use super::{MIGRATIONS, app_credentials};
use serde_json::{Value as Json, json};
use sql::testing::{TestStore, databases};
use sql::{Error, Tx};
use types::Timestamp;

async fn stores() -> Vec<TestStore> {
    let stores = databases().await;
    for TestStore { store, .. } in &stores {
        store.migrate("identity", MIGRATIONS).await.unwrap();
    }
    stores
}

fn record(value: Json) -> Record {
    value.as_object().unwrap().clone()
}

/// A name that no other run on the same database uses.
fn fresh(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

fn domain(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    records::insert(
        tx,
        &DOMAINS,
        &record(json!({"id": id, "name": id, "enabled": true, "color": "blue"})),
    )
}

fn user(tx: &mut Tx<'_>, domain: &str, id: &str) -> Result<(), Error> {
    records::insert(
        tx,
        &USERS,
        &record(json!({"id": id, "name": "bob", "domain_id": domain, "enabled": true})),
    )
}

#[tokio::test]
async fn records_round_trip() {
    for TestStore { store, .. } in &stores().await {
        let (d, p) = (fresh("d"), fresh("p"));
        let found = store
            .write(move |tx| -> Result<_, Error> {
                domain(tx, &d)?;
                let project = json!({"id": p, "name": "Änne", "domain_id": d, "parent_id": d, "enabled": false, "x": [1]});
                records::insert(tx, &PROJECTS, &record(project))?;
                records::set_tags(tx, &p, &["b".to_owned(), "a".to_owned(), "b".to_owned()])?;
                let mut found = records::by_name(tx, &PROJECTS, &d, "Änne")?.unwrap();
                found.insert("description".to_owned(), json!("new"));
                records::replace(tx, &PROJECTS, &found)?;
                let again = records::find(tx, &PROJECTS, &p)?.unwrap();
                let domain = records::find(tx, &DOMAINS, &d)?.unwrap();
                let unknown = records::list(tx, &PROJECTS, &[("x", json!(1))])?;
                let tags = records::tags(tx, &p)?;
                let gone = records::delete(tx, &PROJECTS, &p)? && !records::delete(tx, &PROJECTS, &p)?;
                Ok((again, domain, unknown, tags, gone))
            })
            .await;
        let (project, domain, unknown, tags, gone) = found.unwrap();
        assert_eq!(project["description"], "new");
        assert_eq!(
            (&project["enabled"], &project["x"]),
            (&json!(false), &json!([1]))
        );
        assert_eq!(
            (&domain["color"], &domain["description"]),
            (&json!("blue"), &Json::Null)
        );
        assert!(unknown.is_empty() && gone);
        assert_eq!(tags, ["a", "b"]);
    }
}

#[tokio::test]
async fn names_are_unique_in_a_domain_and_differ_by_case() {
    for TestStore { store, .. } in &stores().await {
        let d = fresh("d");
        let role =
            |id: String, name: &str| record(json!({"id": id, "name": name, "domain_id": null}));
        let name = fresh("Role");
        let (one, other) = (
            role(fresh("r"), &name),
            role(fresh("r"), &name.to_lowercase()),
        );
        let twice = role(fresh("r"), &name);
        store
            .write(move |tx| -> Result<(), Error> {
                domain(tx, &d)?;
                records::insert(tx, &ROLES, &one)?;
                records::insert(tx, &ROLES, &other)
            })
            .await
            .unwrap();
        let refused = store
            .write(move |tx| records::insert(tx, &ROLES, &twice))
            .await;
        assert!(refused.unwrap_err().is_unique_violation());
    }
}

#[tokio::test]
async fn grants_and_groups() {
    for TestStore { store, .. } in &stores().await {
        let (d, u, g, p) = (fresh("d"), fresh("u"), fresh("g"), fresh("p"));
        let grant = move |kind: &str, actor: &str, scope: &str, role: &str| Grant {
            actor_kind: kind.to_owned(),
            actor_id: actor.to_owned(),
            scope_kind: "project".to_owned(),
            scope_id: scope.to_owned(),
            role_id: role.to_owned(),
            inherited: false,
        };
        let checked = store.write(move |tx| -> Result<(), Error> {
            domain(tx, &d)?;
            user(tx, &d, &u)?;
            grants::join(tx, &g, &u)?;
            grants::join(tx, &g, &u)?;
            let (own, by_group) = (grant("user", &u, &p, "r1"), grant("group", &g, &p, "r2"));
            for one in [&own, &own, &by_group] {
                grants::add(tx, one)?;
            }
            let mut roles: Vec<String> = grants::of_user(tx, &u)?
                .into_iter()
                .map(|grant| grant.role_id)
                .collect();
            roles.sort();
            assert_eq!(roles, ["r1", "r2"]);
            assert_eq!(
                grants::list(tx, &[("scope_id", &p), ("actor_kind", "group")])?,
                std::slice::from_ref(&by_group)
            );
            assert!(
                grants::exists(tx, &own)?
                    && grants::remove(tx, &own)?
                    && !grants::remove(tx, &own)?
            );
            assert!(grants::leave(tx, &g, &u)? && !grants::leave(tx, &g, &u)?);
            assert!(grants::of_user(tx, &u)?.is_empty());
            grants::forget(tx, "project", &p)?;
            assert!(grants::list(tx, &[("scope_id", &p)])?.is_empty());
            Ok(())
        });
        checked.await.unwrap();
    }
}

#[tokio::test]
async fn people_and_their_credentials() {
    for TestStore { store, .. } in &stores().await {
        let (d, u, p, c) = (fresh("d"), fresh("u"), fresh("p"), fresh("c"));
        let checked = store.write(move |tx| -> Result<(), Error> {
            domain(tx, &d)?;
            user(tx, &d, &u)?;
            access::set_password(tx, &u, "hash", Timestamp(7))?;
            let person = access::person_by_name(tx, "bob", &Named::Name(d.clone()))?.unwrap();
            assert_eq!(person.password_hash.as_deref(), Some("hash"));
            assert_eq!((person.tokens_from, person.enabled), (Timestamp(7), true));
            // The clock was set back: what was made by then ends all the same.
            access::end_tokens(tx, &u, Timestamp(3))?;
            let person = access::person_by_id(tx, &u)?.unwrap();
            assert_eq!(person.tokens_from, Timestamp(8));
            assert_eq!(
                access::person_by_name(tx, "Bob", &Named::Id(d.clone()))?,
                None,
                "names differ by case"
            );
            let credential = app_credentials::AppCredential {
                id: c.clone(),
                user_id: u.clone(),
                project_id: p.clone(),
                name: "robot".to_owned(),
                description: None,
                secret_hash: "hash".to_owned(),
                expires_at: Some(Timestamp(9)),
                unrestricted: true,
                roles: vec!["r1".to_owned(), "r2".to_owned()],
            };
            app_credentials::insert(tx, &credential)?;
            assert_eq!(app_credentials::of_user(tx, &u)?, [credential]);
            grants::forget(tx, "user", &u)?;
            assert_eq!(app_credentials::find(tx, &c)?, None);
            let end = Timestamp::now();
            access::revoke(tx, &c, end, Timestamp(0))?;
            assert!(access::is_revoked(tx, &c)?);
            access::revoke(
                tx,
                &fresh("t"),
                end,
                end.plus(std::time::Duration::from_secs(1)),
            )?;
            assert!(
                !access::is_revoked(tx, &c)?,
                "an expired token needs no entry"
            );
            Ok(())
        });
        checked.await.unwrap();
    }
}
