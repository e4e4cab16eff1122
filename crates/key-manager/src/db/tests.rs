//! The statements on every database that the environment names.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{Acl, Consumer, ContentType, Secret};
use sql::{Error, Store};
use types::Timestamp;
use uuid::Uuid;

/// SQLite always; PostgreSQL and MySQL or MariaDB where `KILONOVA_TEST_POSTGRES` and `KILONOVA_TEST_MYSQL` name a
/// database. Those may be shared with other tests, so every test uses ids and projects of its own.
async fn stores() -> Vec<Store> {
    let mut stores = vec![Store::temporary().await.unwrap()];
    for name in ["KILONOVA_TEST_POSTGRES", "KILONOVA_TEST_MYSQL"] {
        if let Ok(url) = std::env::var(name) {
            stores.push(Store::open(&url).await.unwrap());
        }
    }
    for store in &stores {
        store.migrate("key-manager", MIGRATIONS).await.unwrap();
    }
    stores
}

fn random() -> String {
    Uuid::new_v4().to_string()
}

fn secret(project: &str, second: i64) -> Secret {
    Secret {
        id: random(),
        project_id: project.to_owned(),
        creator_id: "u".to_owned(),
        name: None,
        kind: "opaque".to_owned(),
        expires_at: None,
        algorithm: None,
        bit_length: None,
        mode: None,
        content_type: None,
        created_at: Timestamp::from_seconds(second),
        updated_at: Timestamp::from_seconds(second),
    }
}

fn full(project: &str) -> Secret {
    Secret {
        name: Some("Ünïcode 名 name".to_owned()),
        kind: "symmetric".to_owned(),
        expires_at: Some(Timestamp(i64::MAX)),
        algorithm: Some("aes".to_owned()),
        bit_length: Some(256),
        mode: Some("cbc".to_owned()),
        content_type: Some(ContentType::Pkcs8),
        ..secret(project, 7)
    }
}

fn consumer(resource: &str) -> Consumer {
    Consumer {
        service: "s".repeat(255),
        resource_type: "t".repeat(255),
        resource_id: resource.to_owned(),
        project_id: "p".to_owned(),
        created_at: Timestamp(1),
    }
}

#[tokio::test]
async fn a_secret_comes_back_as_it_went_in_and_leaves_nothing() {
    for store in stores().await {
        let wanted = full(&random());
        let sealed_text = "x".repeat(80_000);
        let (now, id) = (Timestamp::now(), wanted.id.clone());
        let checked = store.write(move |tx| -> Result<(), Error> {
            insert(tx, &wanted, Some(&sealed_text))?;
            assert_eq!(get(tx, &id, now)?.as_ref(), Some(&wanted));
            assert_eq!(sealed(tx, &id)?.as_ref(), Some(&sealed_text));
            assert!(newest_sealed(tx)?.is_some());
            let again = fill(tx, &id, ContentType::Text, "other", now)?;
            assert!(!again, "a payload is given once");
            assert_eq!(sealed(tx, &id)?.as_ref(), Some(&sealed_text));
            let mut list = Acl {
                project_access: false,
                users: vec!["a".to_owned(), "A".to_owned()],
                created_at: Timestamp(1),
                updated_at: Timestamp(2),
            };
            assert_eq!(acl(tx, &id)?, None);
            set_acl(tx, &id, &list)?;
            list.users = vec!["b".to_owned()];
            set_acl(tx, &id, &list)?;
            assert_eq!(acl(tx, &id)?.as_ref(), Some(&list));
            for resource in ["1", "2"] {
                add_consumer(tx, &id, &consumer(resource))?;
            }
            remove_consumer(tx, &id, &consumer("1"))?;
            assert_eq!(consumers(tx, &id)?, [consumer("2")]);
            assert_eq!(
                consumers_of(tx, std::slice::from_ref(&id))?[&id],
                [consumer("2")]
            );
            assert!(consumers_of(tx, &[])?.is_empty());
            set_metadatum(tx, &id, "a", "1")?;
            set_metadatum(tx, &id, "a", "2")?;
            assert_eq!(metadata(tx, &id)?["a"], "2");
            set_metadata(tx, &id, &[("b".to_owned(), String::new())].into())?;
            assert_eq!(metadata(tx, &id)?.len(), 1);
            assert!(!remove_metadatum(tx, &id, "a")?);
            assert!(remove_metadatum(tx, &id, "b")?);
            set_metadatum(tx, &id, "c", "3")?;
            delete(tx, &id)?;
            assert_eq!(get(tx, &id, now)?, None);
            assert_eq!(sealed(tx, &id)?, None);
            assert_eq!(acl(tx, &id)?, None);
            assert!(consumers(tx, &id)?.is_empty());
            assert!(metadata(tx, &id)?.is_empty());
            Ok(())
        });
        checked.await.unwrap();
    }
}

#[tokio::test]
async fn a_payload_comes_later() {
    for store in stores().await {
        let bare = secret(&random(), 1);
        let (now, id) = (Timestamp::now(), bare.id.clone());
        let checked = store.write(move |tx| -> Result<(), Error> {
            insert(tx, &bare, None)?;
            assert_eq!(get(tx, &id, now)?.as_ref(), Some(&bare));
            assert_eq!(sealed(tx, &id)?, None);
            assert!(fill(tx, &id, ContentType::Text, "sealed", now)?);
            let filled = get(tx, &id, now)?.unwrap();
            assert_eq!(filled.content_type, Some(ContentType::Text));
            assert_eq!(filled.updated_at, now);
            assert_eq!(sealed(tx, &id)?.as_deref(), Some("sealed"));
            Ok(())
        });
        checked.await.unwrap();
    }
}

#[tokio::test]
async fn what_has_expired_is_not_there_and_goes() {
    for store in stores().await {
        let project = random();
        let mut ends = secret(&project, 1);
        ends.expires_at = Some(Timestamp(100));
        let id = ends.id.clone();
        let checked = store.write(move |tx| -> Result<(), Error> {
            insert(tx, &ends, Some("sealed"))?;
            set_metadatum(tx, &id, "a", "1")?;
            assert!(get(tx, &id, Timestamp(99))?.is_some());
            assert!(get(tx, &id, Timestamp(100))?.is_none());
            let query = |now| ListQuery {
                project_id: project.clone(),
                limit: 10,
                now: Timestamp(now),
                ..ListQuery::default()
            };
            assert_eq!(list(tx, &query(99))?.1, 1);
            assert_eq!(list(tx, &query(100))?, (vec![], 0));
            remove_expired(tx, Timestamp(100))?;
            assert!(sealed(tx, &id)?.is_some(), "it is kept for a while");
            remove_expired(tx, Timestamp(101))?;
            assert_eq!(sealed(tx, &id)?, None);
            assert!(metadata(tx, &id)?.is_empty());
            Ok(())
        });
        checked.await.unwrap();
    }
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_cut() {
    for store in stores().await {
        let (project, user) = (random(), random());
        let first = secret(&project, 1);
        let mut second = full(&project);
        second.created_at = Timestamp::from_seconds(2);
        let third = secret(&project, 3);
        let foreign = secret(&random(), 4);
        let checked = store.write(move |tx| -> Result<(), Error> {
            for one in [&first, &second, &third, &foreign] {
                insert(tx, one, None)?;
            }
            for one in [&first, &foreign] {
                let open = Acl {
                    project_access: true,
                    users: vec![user.clone()],
                    created_at: Timestamp(1),
                    updated_at: Timestamp(1),
                };
                set_acl(tx, &one.id, &open)?;
            }
            let all = ListQuery {
                project_id: project.clone(),
                limit: 10,
                now: Timestamp::now(),
                ..ListQuery::default()
            };
            let bound = |column, operator, second| Bound {
                column,
                operator,
                time: Timestamp::from_seconds(second),
            };
            let sort = |column, descending| Sort { column, descending };
            let text = |text: &str| Some(text.to_owned());
            for (query, wanted, total) in [
                (all.clone(), vec![&first, &second, &third], 3),
                (
                    ListQuery {
                        limit: 1,
                        ..all.clone()
                    },
                    vec![&first],
                    3,
                ),
                (
                    ListQuery {
                        offset: 2,
                        ..all.clone()
                    },
                    vec![&third],
                    3,
                ),
                (
                    ListQuery {
                        name: text("Ünïcode 名 name"),
                        ..all.clone()
                    },
                    vec![&second],
                    1,
                ),
                (
                    ListQuery {
                        name: text("ünïcode 名 name"),
                        ..all.clone()
                    },
                    vec![],
                    0,
                ),
                (
                    ListQuery {
                        algorithm: text("aes"),
                        ..all.clone()
                    },
                    vec![&second],
                    1,
                ),
                (
                    ListQuery {
                        mode: text("cbc"),
                        ..all.clone()
                    },
                    vec![&second],
                    1,
                ),
                (
                    ListQuery {
                        bit_length: Some(256),
                        ..all.clone()
                    },
                    vec![&second],
                    1,
                ),
                (
                    ListQuery {
                        kind: text("opaque"),
                        ..all.clone()
                    },
                    vec![&first, &third],
                    2,
                ),
                (
                    ListQuery {
                        acl_user: Some(user.clone()),
                        ..all.clone()
                    },
                    vec![&first, &foreign],
                    2,
                ),
                (
                    ListQuery {
                        bounds: vec![bound("created_at", ">", 1), bound("created_at", "<=", 2)],
                        ..all.clone()
                    },
                    vec![&second],
                    1,
                ),
                (
                    ListQuery {
                        order: vec![sort("created_at", true)],
                        ..all.clone()
                    },
                    vec![&third, &second, &first],
                    3,
                ),
                (
                    ListQuery {
                        order: vec![sort("kind", true), sort("id", false)],
                        limit: 1,
                        ..all.clone()
                    },
                    vec![&second],
                    3,
                ),
            ] {
                let (found, count) = list(tx, &query)?;
                let names = |secrets: &[&Secret]| -> Vec<String> {
                    secrets.iter().map(|secret| secret.id.clone()).collect()
                };
                let found: Vec<&Secret> = found.iter().collect();
                assert_eq!(names(&found), names(&wanted), "{query:?}");
                assert_eq!(count, total, "{query:?}");
            }
            Ok(())
        });
        checked.await.unwrap();
    }
}
