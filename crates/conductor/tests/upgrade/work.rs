//! What hosts were asked for by an older release, and have not answered yet, is asked for by this one. `work.json` holds,
//! word for word, what that release stored for a host at each place where it did; a released entry is never changed.

use crate::{WRITES, alone, places, side_by_side, standing, told};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use types::agent::{Direction, Verb};

/// What to do when this release does not know what an older one has asked for.
const ADVICE: &str = "\nWork that waits for a host when a conductor is upgraded is handed out by its successor, in the words \
    of its predecessor, and a host that has done it is not asked again. So:\n\
    * a verb keeps its name and its fields; a new field needs a default that means what was done without it;\n\
    * a step of a flow asks for the same verb as ever: for another one there is another step;\n\
    * entries of tests/upgrade/work.json are what a release has written: they are not changed to make this test pass.";

/// What a host was asked for in the middle of a flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    flow: String,
    step: String,
    /// Whether it is being undone.
    undo: bool,
    verb: Value,
}

/// What an older release has stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The release that wrote it.
    release: String,
    work: Vec<Entry>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/work.json")
}

/// What is on record.
pub fn kept() -> Kept {
    match std::fs::read(path()) {
        Ok(text) => serde_json::from_slice(&text).unwrap(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            work: Vec::new(),
        },
        Err(error) => panic!("{error}"),
    }
}

impl Kept {
    fn at(&self, flow: &str, step: &str, undo: bool) -> Option<&Value> {
        let mut all = self.work.iter();
        let its = all.find(|one| (&*one.flow, &*one.step, one.undo) == (flow, step, undo));
        its.map(|entry| &entry.verb)
    }

    /// Whether this release asks for the same in this place, where it stands now.
    pub fn agrees(
        &self,
        (flow, step, undo): (&str, &str, bool),
        now: Option<&Value>,
    ) -> Result<(), String> {
        let name = |verb: Option<&Value>| match verb {
            Some(verb) => verb["verb"].to_string(),
            None => "nothing".to_owned(),
        };
        let then = self.at(flow, step, undo);
        if name(then) == name(now) {
            return Ok(());
        }
        let place = told(flow, step, undo);
        if then.is_none() {
            return Err(format!(
                "{place}: that a host is asked for {} is not in tests/upgrade/work.json; {WRITES}",
                name(now)
            ));
        }
        Err(format!(
            "{place}: release {} asked a host for {}, this one asks for {}{ADVICE}",
            self.release,
            name(then),
            name(now)
        ))
    }
}

/// What a task that stands at this place has stored for a host.
pub async fn stored_at(
    store: &sql::Store,
    task: types::TaskId,
    step: &str,
    undo: bool,
) -> Option<Value> {
    let step = step.to_owned();
    let direction = if undo { Direction::Undo } else { Direction::Do };
    let read = move |tx: &mut sql::Tx<'_>| -> Result<Option<String>, sql::Error> {
        let sql = "SELECT verb FROM host_work WHERE task_id = ? AND step = ? AND direction = ?";
        let key: [sql::Value; 3] = [task.into(), (&step).into(), direction.as_str().into()];
        let row = tx.query_opt(sql, &key)?;
        row.map(|row| row.get(0)).transpose()
    };
    let found = store.read(read).await.unwrap();
    found.map(|verb| serde_json::from_str(&verb).unwrap())
}

/// What is said in `then` and not in `now`.
fn lost(then: &Value, now: &Value, place: &str) -> Option<String> {
    match (then, now) {
        (Value::Null, _) => None,
        (Value::Object(fields), Value::Object(_)) => fields.iter().find_map(|(name, value)| {
            let now = now.get(name).unwrap_or(&Value::Null);
            lost(value, now, &format!("{place}.{name}"))
        }),
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            let mut items = then.iter().zip(now).enumerate();
            items.find_map(|(at, (then, now))| lost(then, now, &format!("{place}[{at}]")))
        }
        (then, now) if then == now => None,
        (then, now) => Some(format!("{place} was {then} and is read as {now}")),
    }
}

/// Why this release does not understand work in the words of an older one.
fn not_understood(entry: &Entry) -> Option<String> {
    let read: Result<Verb, _> = serde_json::from_value(entry.verb.clone());
    let wrong = match read {
        Ok(verb) => lost(&entry.verb, &serde_json::to_value(verb).unwrap(), "verb"),
        Err(error) => Some(error.to_string()),
    };
    let place = told(&entry.flow, &entry.step, entry.undo);
    wrong.map(|wrong| format!("{place}: {wrong}"))
}

/// Adds what this release stores and is not on record.
async fn write() {
    let mut kept = kept();
    let mut missing = places().await;
    missing.retain(|(story, step, undo)| kept.at(story.flow, step, *undo).is_none());
    let found = side_by_side(missing, |(story, step, undo)| {
        alone(async {
            let (cluster, task) = standing(story, step, undo).await;
            let verb = stored_at(&cluster.store, task.id, step, undo).await?;
            Some(Entry {
                flow: task.flow,
                step: step.to_owned(),
                undo,
                verb,
            })
        })
    });
    kept.work.extend(found.await.into_iter().flatten());
    kept.work
        .sort_by_key(|entry| told(&entry.flow, &entry.step, entry.undo));
    let lines = kept
        .work
        .iter()
        .map(|one| serde_json::to_string(one).unwrap());
    let (release, lines) = (&kept.release, lines.collect::<Vec<_>>().join(",\n"));
    let text = format!("{{\"release\": \"{release}\", \"work\": [\n{lines}\n]}}\n");
    std::fs::write(path(), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hosts_were_asked_for_by_an_older_release_is_understood() {
    if std::env::var("KILONOVA_TEST_WRITE_JOURNAL").is_ok_and(|write| write == "1") {
        write().await;
    }
    let kept = kept();
    assert!(!kept.work.is_empty());
    let wrong: Vec<String> = kept.work.iter().filter_map(not_understood).collect();
    assert!(
        wrong.is_empty(),
        "of what release {} has asked hosts for is not understood:\n{}{ADVICE}",
        kept.release,
        wrong.join("\n")
    );
}

/// A verb or a field under another name is noticed, also where a default would take its place.
#[test]
fn what_is_read_as_something_else_is_noticed() {
    let entry = |verb: Value| Entry {
        flow: "stop".to_owned(),
        step: "act".to_owned(),
        undo: false,
        verb,
    };
    let understood = |verb: Value| not_understood(&entry(verb));
    let stop = serde_json::json!({ "verb": "ensure_stopped", "grace_seconds": 60 });
    assert_eq!(understood(stop.clone()), None);
    let other_verb = serde_json::json!({ "verb": "ensure_off", "grace_seconds": 60 });
    assert!(understood(other_verb).is_some_and(|why| why.contains("ensure_off")));
    let other_field = serde_json::json!({ "verb": "snapshot_once", "image": types::ImageId::random(), "quiet": "Try" });
    assert_eq!(
        understood(other_field).as_deref(),
        Some("stop at act: verb.quiet was \"Try\" and is read as null")
    );
    let kept = Kept {
        release: "1".to_owned(),
        work: vec![entry(stop.clone())],
    };
    let agrees = |step, now| kept.agrees(("stop", step, false), now);
    assert_eq!(agrees("act", Some(&stop)), Ok(()));
    assert_eq!(agrees("locate", None), Ok(()));
    assert!(agrees("locate", Some(&stop)).is_err());
    assert!(agrees("act", None).is_err());
    let pause = serde_json::json!({ "verb": "ensure_paused" });
    assert!(agrees("act", Some(&pause)).is_err());
}
