//! The statements on every database that the environment names.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{Image, Member, Status, Task, Visibility, Written};
use sql::{Error, Store};
use types::Timestamp;
use uuid::Uuid;

/// SQLite always; PostgreSQL and MySQL or MariaDB where `KILONOVA_TEST_POSTGRES` and `KILONOVA_TEST_MYSQL` name a
/// database. Those may be shared with other tests, so every test uses ids and names of its own.
async fn stores() -> Vec<Store> {
    let mut stores = vec![Store::temporary().await.unwrap()];
    for name in ["KILONOVA_TEST_POSTGRES", "KILONOVA_TEST_MYSQL"] {
        if let Ok(url) = std::env::var(name) {
            stores.push(Store::open(&url).await.unwrap());
        }
    }
    for store in &stores {
        store.migrate("image", MIGRATIONS).await.unwrap();
    }
    stores
}

fn image(owner: &str, name: Option<&str>) -> Image {
    let mut image = Image::queued(Uuid::new_v4().to_string(), Some(owner.to_owned()));
    image.name = name.map(str::to_owned);
    image
}

fn written() -> Written {
    Written {
        size: 1 << 40,
        virtual_size: 1 << 41,
        md5: "m".repeat(32),
        sha512: "s".repeat(128),
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_went_in() {
    for store in stores().await {
        let mut wanted = image("p", Some("Ünïcode 名 name"));
        wanted.visibility = Visibility::Community;
        wanted.disk_format = Some("qcow2".into());
        wanted.container_format = Some("bare".into());
        (
            wanted.min_disk,
            wanted.min_ram,
            wanted.protected,
            wanted.os_hidden,
        ) = (3, 4, true, true);
        wanted.properties = [
            ("Key".to_owned(), "v".repeat(70_000)),
            ("key".to_owned(), String::new()),
        ]
        .into();
        wanted.tags = ["a", "A", "é"].map(str::to_owned).into();
        let put = wanted.clone();
        store.write(move |tx| insert(tx, &put)).await.unwrap();
        let id = wanted.id.clone();
        assert_eq!(
            store.read(move |tx| get(tx, &id)).await.unwrap().unwrap(),
            wanted
        );
        wanted.name = None;
        wanted.properties.remove("key");
        wanted.tags.clear();
        wanted.updated_at = Timestamp::now();
        let put = wanted.clone();
        store.write(move |tx| save(tx, &put)).await.unwrap();
        let id = wanted.id.clone();
        assert_eq!(
            store.read(move |tx| get(tx, &id)).await.unwrap().unwrap(),
            wanted
        );
        let again = wanted.clone();
        assert!(
            store
                .write(move |tx| insert(tx, &again))
                .await
                .unwrap_err()
                .is_unique_violation()
        );
    }
}

#[tokio::test]
async fn statuses_change_once() {
    for store in stores().await {
        let one = image("p", None);
        let id = one.id.clone();
        store
            .write(move |tx| -> Result<(), Error> {
                insert(tx, &one)?;
                assert!(set_status(tx, &one.id, Status::Queued, Status::Saving)?);
                assert!(!set_status(tx, &one.id, Status::Queued, Status::Saving)?);
                assert!(!set_active(tx, &one.id, Status::Importing, &written())?);
                assert!(set_active(tx, &one.id, Status::Saving, &written())?);
                let now = get(tx, &one.id)?.unwrap();
                assert_eq!(
                    (now.status, now.size, now.virtual_size),
                    (Status::Active, Some(1 << 40), Some(1 << 41))
                );
                assert_eq!(
                    (now.os_hash_algo.as_deref(), now.checksum),
                    (Some("sha512"), Some("m".repeat(32)))
                );
                delete(tx, &one.id)?;
                assert_eq!(get(tx, &one.id)?, None);
                assert!(!set_status(
                    tx,
                    &one.id,
                    Status::Active,
                    Status::Deactivated
                )?);
                Ok(())
            })
            .await
            .unwrap();
        let again = Image {
            id,
            ..image("q", None)
        };
        assert!(
            store
                .write(move |tx| insert(tx, &again))
                .await
                .unwrap_err()
                .is_unique_violation()
        );
    }
}

#[tokio::test]
async fn what_nobody_works_on_is_settled() {
    for store in stores().await {
        let all = [
            (Status::Queued, None, Status::Queued),
            (Status::Saving, Some("saving"), Status::Queued),
            (Status::Uploading, Some("uploading"), Status::Uploading),
            (Status::Importing, Some("importing"), Status::Uploading),
            (Status::Active, None, Status::Active),
            (Status::Deactivated, None, Status::Deactivated),
        ];
        for (status, unsettled_as, settled) in all {
            let image = Image {
                status,
                ..image("p", None)
            };
            let id = image.id.clone();
            let outcome = store.write(move |tx| -> Result<_, Error> {
                insert(tx, &image)?;
                let mine = |tx: &mut sql::Tx<'_>| -> Result<_, Error> {
                    let found = unsettled(tx)?.into_iter().find(|(other, _)| *other == id);
                    Ok(found.map(|(_, status)| status.name()))
                };
                let listed = mine(tx)?;
                let answered = settle(tx, &id, Timestamp::now())?.unwrap().status;
                let now = get(tx, &id)?.unwrap().status;
                assert_eq!(with_data(tx)?.contains(&id), image.has_data());
                Ok((listed, answered, now))
            });
            let outcome = outcome.await.unwrap();
            assert_eq!(outcome, (unsettled_as, settled, settled));
        }
    }
}

#[tokio::test]
async fn tasks_of_images_that_are_gone_are_settled() {
    for store in stores().await {
        let now = Timestamp::now();
        let id = Uuid::new_v4().to_string();
        let task = Task {
            id: id.clone(),
            kind: "api_image_import".into(),
            status: "processing".into(),
            owner: "p".into(),
            user_id: "u".into(),
            image_id: id.clone(),
            request_id: String::new(),
            input: "{}".into(),
            message: String::new(),
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let outcome = store.write(move |tx| -> Result<_, Error> {
            add_task(tx, &task)?;
            let open = |tx: &mut sql::Tx<'_>| -> Result<_, Error> {
                Ok(unsettled(tx)?.iter().any(|(other, _)| *other == id))
            };
            let before = open(tx)?;
            assert_eq!(settle(tx, &id, Timestamp(now.0 + 1_000_000))?, None);
            let ended = task_by_id(tx, &id)?.unwrap().status;
            Ok((before, open(tx)?, ended))
        });
        let outcome = outcome.await.unwrap();
        assert_eq!(outcome, (true, false, "failure".to_owned()));
    }
}

#[tokio::test]
async fn pages_are_the_same_everywhere() {
    for store in stores().await {
        let owner = Uuid::new_v4().to_string();
        let names = [
            None,
            Some("b"),
            Some("B"),
            Some("a"),
            Some("b"),
            None,
            Some("é"),
        ];
        let images: Vec<Image> = names.iter().map(|name| image(&owner, *name)).collect();
        let keys = [
            (SortKey::Name, false),
            (SortKey::Name, true),
            (SortKey::Size, false),
            (SortKey::CreatedAt, true),
            (SortKey::DiskFormat, true),
        ];
        store
            .write(move |tx| images.iter().try_for_each(|image| insert(tx, image)))
            .await
            .unwrap();
        for (key, descending) in keys {
            let order = vec![
                Sort { key, descending },
                Sort {
                    key: SortKey::Id,
                    descending: false,
                },
            ];
            let query = ListQuery {
                project: Some(owner.clone()),
                order,
                most: 100,
                ..ListQuery::default()
            };
            let query = ListQuery {
                filters: vec![Filter::Text("owner", vec![owner.clone()])],
                ..query
            };
            let whole = query.clone();
            let whole = store.read(move |tx| list(tx, &whole)).await.unwrap();
            assert_eq!(whole.len(), 7);
            let mut seen = Vec::new();
            let mut page = ListQuery { most: 2, ..query };
            loop {
                let next = page.clone();
                let images = store.read(move |tx| list(tx, &next)).await.unwrap();
                let Some(last) = images.last().cloned() else {
                    break;
                };
                page.after = Some(last);
                seen.extend(images);
            }
            assert_eq!(seen, whole, "{key:?} {descending}");
        }
    }
}

#[tokio::test]
async fn filters_and_members() {
    for store in stores().await {
        let (owner, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let mut one = image(&owner, Some("one"));
        one.properties.insert("colour".into(), "red".into());
        one.tags.insert("t".into());
        let id = one.id.clone();
        let now = Timestamp::now();
        let member = Member {
            image_id: id.clone(),
            member_id: other.clone(),
            status: "pending".into(),
            created_at: now,
            updated_at: now,
        };
        let second = Filter::Second("created_at", true, one.created_at.seconds());
        let not_second = Filter::Second("created_at", false, one.created_at.seconds());
        let find = |project: &str, status: Option<&str>, filters: Vec<Filter>| {
            let query = ListQuery {
                project: Some(project.to_owned()),
                member_status: status.map(str::to_owned),
                filters,
                order: vec![Sort {
                    key: SortKey::Id,
                    descending: false,
                }],
                most: 1000,
                ..ListQuery::default()
            };
            let (store, id) = (store.clone(), id.clone());
            async move {
                store
                    .read(move |tx| list(tx, &query))
                    .await
                    .unwrap()
                    .iter()
                    .any(|image| image.id == id)
            }
        };
        let added = member.clone();
        store
            .write(move |tx| insert(tx, &one).and_then(|()| add_member(tx, &added)))
            .await
            .unwrap();
        let again = member.clone();
        assert!(
            store
                .write(move |tx| add_member(tx, &again))
                .await
                .unwrap_err()
                .is_unique_violation()
        );
        assert!(
            find(
                &owner,
                None,
                vec![
                    Filter::Property("colour".into(), "red".into()),
                    Filter::Tag("t".into()),
                    second
                ]
            )
            .await
        );
        assert!(
            !find(
                &owner,
                None,
                vec![Filter::Property("colour".into(), "blue".into())]
            )
            .await
        );
        assert!(!find(&owner, None, vec![Filter::Tag("T".into())]).await);
        assert!(!find(&owner, None, vec![not_second]).await);
        assert!(find(&other, Some("pending"), vec![]).await);
        assert!(!find(&other, Some("accepted"), vec![]).await);
        let changed = member.clone();
        let accepted = store
            .write(move |tx| {
                set_member_status(tx, &changed.image_id, &changed.member_id, "accepted")
            })
            .await
            .unwrap();
        assert!(accepted && find(&other, Some("accepted"), vec![]).await);
        let gone = member.clone();
        let left = store
            .write(move |tx| -> Result<_, Error> {
                assert!(remove_member(tx, &gone.image_id, &gone.member_id)?);
                assert!(!remove_member(tx, &gone.image_id, &gone.member_id)?);
                members(tx, &gone.image_id)
            })
            .await
            .unwrap();
        assert!(left.is_empty() && !find(&other, None, vec![]).await);
    }
}
