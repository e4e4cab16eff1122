//! The statements on every database that the environment names.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{Attachment, Job, Map, Message, Source, Status, Transfer, Volume, VolumeType};
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
        store.migrate("volume", MIGRATIONS).await.unwrap();
    }
    stores
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn volume(project: &str, size: u64) -> Volume {
    Volume {
        id: id(),
        project_id: project.to_owned(),
        user_id: "u".into(),
        name: Some("Ünïcode 名".into()),
        description: Some("d".repeat(70_000)),
        size,
        status: Status::Creating,
        type_id: id(),
        zone: "nova".into(),
        snapshot_id: None,
        source_id: Some(id()),
        group_id: None,
        multiattach: true,
        bootable: false,
        metadata: [("Key".to_owned(), "v".to_owned())].into(),
        admin_metadata: Map::new(),
        image_metadata: Map::new(),
        migration_status: None,
        job: Some(Job::Create(Source::Blank)),
        request_id: "req-1".into(),
        created_at: Timestamp::now(),
        updated_at: None,
    }
}

#[tokio::test]
async fn a_volume_comes_back_as_it_went_in_and_is_counted() {
    for store in stores().await {
        let project = id();
        let mut wanted = volume(&project, 3);
        let other = volume(&project, 4);
        let (one, two) = (wanted.clone(), other.clone());
        store
            .write(move |tx| {
                insert(tx, &one)?;
                insert(tx, &two)
            })
            .await
            .unwrap();
        wanted.job = Some(Job::Extend(10, Status::Available));
        wanted.status = Status::Extending;
        wanted.updated_at = Some(Timestamp::now());
        let changed = wanted.clone();
        let (of, found, busy) = store
            .write(move |tx| -> Result<_, Error> {
                assert!(save(tx, &changed)?);
                let of = [("project_id", sql::Value::from(&changed.project_id))];
                let busy = [of[0].clone(), ("busy", 1_i64.into())];
                Ok((
                    (count::<Volume>(tx, &of)?, sum::<Volume>(tx, &of)?),
                    get::<Volume>(tx, &changed.id)?,
                    count::<Volume>(tx, &busy)?,
                ))
            })
            .await
            .unwrap();
        // What is promised counts, not what is there yet.
        assert_eq!((of, busy), ((2, 14), 2));
        assert_eq!(found.unwrap(), wanted);
        let gone = wanted.clone();
        store
            .write(move |tx| -> Result<(), Error> {
                assert!(delete::<Volume>(tx, &gone.id)?);
                assert!(!delete::<Volume>(tx, &gone.id)?);
                assert!(!save(tx, &gone)?);
                assert_eq!(get::<Volume>(tx, &gone.id)?, None);
                Ok(())
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn names_exports_and_offers_are_unique() {
    for store in stores().await {
        let kind = VolumeType {
            id: id(),
            name: id(),
            description: None,
            is_public: true,
            extra_specs: Map::new(),
            qos_id: None,
            encryption: None,
            created_at: Timestamp::now(),
            updated_at: None,
        };
        let twin = VolumeType {
            id: id(),
            ..kind.clone()
        };
        let attachment = Attachment {
            id: id(),
            volume_id: id(),
            project_id: "p".into(),
            server_id: None,
            status: "reserved".into(),
            mode: "rw".into(),
            device: None,
            host: None,
            connector: None,
            export: Some(id()),
            created_at: Timestamp::now(),
            attached_at: None,
        };
        let same_export = Attachment {
            id: id(),
            ..attachment.clone()
        };
        let unserved = Attachment {
            id: id(),
            export: None,
            ..attachment.clone()
        };
        let unserved_too = Attachment {
            id: id(),
            ..unserved.clone()
        };
        let offer = Transfer {
            id: id(),
            volume_id: id(),
            project_id: "p".into(),
            name: None,
            salt: String::new(),
            hash: String::new(),
            no_snapshots: false,
            accepted: false,
            destination: None,
            created_at: Timestamp::now(),
        };
        let second = Transfer {
            id: id(),
            ..offer.clone()
        };
        let unique = |outcome: Result<(), Error>| outcome.unwrap_err().is_unique_violation();
        store
            .write(move |tx| -> Result<(), Error> {
                insert(tx, &kind)?;
                assert!(unique(insert(tx, &twin)));
                insert(tx, &attachment)?;
                assert!(unique(insert(tx, &same_export)));
                insert(tx, &unserved)?;
                insert(tx, &unserved_too)?;
                let served = exported(tx)?;
                assert!(served.contains(&attachment) && !served.contains(&unserved));
                assert_eq!(attachments_of(tx, &[&attachment.volume_id])?.len(), 3);
                insert(tx, &offer)?;
                assert!(unique(insert(tx, &second)));
                save(
                    tx,
                    &Transfer {
                        accepted: true,
                        ..offer.clone()
                    },
                )?;
                insert(tx, &second)
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn settings_are_kept() {
    for store in stores().await {
        let (project, kind) = (id(), id());
        store
            .write(move |tx| -> Result<(), Error> {
                assert_eq!(quotas(tx, "project", &project)?.len(), 0);
                set_quota(tx, "project", &project, "volumes", 3)?;
                set_quota(tx, "project", &project, "volumes", -1)?;
                assert_eq!(quotas(tx, "project", &project)?["volumes"], -1);
                assert_eq!(quotas(tx, "class", &project)?.len(), 0);
                reset_quotas(tx, "project", &project)?;
                assert_eq!(quotas(tx, "project", &project)?.len(), 0);
                set_default_type(tx, &project, &id())?;
                set_default_type(tx, &project, &kind)?;
                assert_eq!(default_type(tx, &project)?.as_ref(), Some(&kind));
                assert!(default_types(tx)?.contains(&(project.clone(), kind.clone())));
                unset_default_type(tx, &project)?;
                assert_eq!(default_type(tx, &project)?, None);
                add_access(tx, &kind, &project)?;
                assert!(
                    add_access(tx, &kind, &project)
                        .unwrap_err()
                        .is_unique_violation()
                );
                assert_eq!(grant_list(tx, &project)?, std::slice::from_ref(&kind));
                assert_eq!(
                    projects_with_access(tx, &kind)?,
                    std::slice::from_ref(&project)
                );
                assert!(remove_access(tx, &kind, Some(&project))?);
                assert!(!remove_access(tx, &kind, None)?);
                assert_eq!(service_state(tx, &project)?, ServiceState::default());
                let off = ServiceState {
                    disabled: true,
                    reason: Some("r".into()),
                    ..ServiceState::default()
                };
                set_service_state(tx, &project, &off)?;
                let found = service_state(tx, &project)?;
                assert!(found.disabled && found.reason == off.reason && found.updated_at.is_some());
                Ok(())
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn messages_expire() {
    for store in stores().await {
        let message = |expires: i64| Message {
            id: id(),
            project_id: "p".into(),
            event_id: "e".into(),
            user_message: "m".into(),
            level: "ERROR".into(),
            request_id: String::new(),
            resource_type: "VOLUME".into(),
            resource_id: id(),
            created_at: Timestamp(1),
            expires_at: Timestamp(expires),
        };
        let (old, new) = (message(5), message(i64::MAX));
        store
            .write(move |tx| -> Result<(), Error> {
                insert(tx, &old)?;
                insert(tx, &new)?;
                remove_expired(tx, Timestamp(10))?;
                assert_eq!(get::<Message>(tx, &old.id)?, None);
                assert_eq!(get::<Message>(tx, &new.id)?.as_ref(), Some(&new));
                delete::<Message>(tx, &new.id)?;
                Ok(())
            })
            .await
            .unwrap();
    }
}
