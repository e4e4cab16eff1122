//! Tasks that were ended before they had come to their end. What they had begun is still to be taken back, by whoever takes
//! their place, or deletes or evacuates their servers later.

use crate::accept;
use crate::instances::{Kept, Place};
use crate::tasks::Task;
use serde::{Deserialize, Serialize};
use types::{MigrationId, TaskId};

/// How many of a server are remembered; the oldest go first. Hosts owe what those have left, and audits find the rest.
const MOST: usize = 32;

/// Flows that may leave something beside the guest where its server is.
const LEAVING: &[&str] = &[
    accept::BUILD,
    accept::UNSHELVE,
    accept::EVACUATE,
    accept::LIVE_MIGRATION,
    accept::RESIZE,
    accept::DELETE,
    accept::SNAPSHOT,
    accept::BACKUP,
    accept::SNAPSHOT_VOLUMES,
    accept::SHELVE,
    accept::ATTACH_INTERFACE,
    accept::DETACH_VOLUME,
    accept::SWAP_VOLUME,
];
/// Those that pick a host.
const PLACING: &[&str] = &[
    accept::BUILD,
    accept::UNSHELVE,
    accept::EVACUATE,
    accept::LIVE_MIGRATION,
    accept::RESIZE,
];
/// What is in a state and nobody needs who takes something back.
const LONG: [&str; 2] = ["plan", "interfaces"];

/// A task that did not come to its end, as it stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Its id; nobody knows those of old any more.
    #[serde(default)]
    pub task: Option<TaskId>,
    /// Its flow's name.
    pub flow: String,
    /// Its flow's state, JSON.
    pub state: String,
}

/// What all flows that pick a host, or have a record of a move, call it.
#[derive(Default, Deserialize)]
struct Recorded {
    #[serde(default)]
    place: Option<Place>,
    #[serde(default)]
    migration: Option<MigrationId>,
}

/// What a live migration remembers of where the server was.
#[derive(Deserialize)]
struct Left {
    #[serde(default)]
    from: Option<Place>,
}

/// What a deletion or an evacuation remembers of the task that it took over.
#[derive(Deserialize)]
struct TookOver {
    #[serde(default)]
    superseded: Option<Unfinished>,
}

impl Unfinished {
    /// A task as it stands.
    pub fn of(task: &Task) -> Self {
        Self {
            task: Some(task.id),
            flow: task.flow.clone(),
            state: task.state.clone(),
        }
    }

    fn recorded(&self) -> Recorded {
        serde_json::from_str(&self.state).unwrap_or_default()
    }

    /// The place that it had claimed for the server.
    pub fn place(&self) -> Option<Place> {
        let places = PLACING.contains(&self.flow.as_str());
        self.recorded().place.filter(|_| places)
    }

    /// The place that a live migration was leaving.
    pub fn source(&self) -> Option<Place> {
        if self.flow != accept::LIVE_MIGRATION {
            return None;
        }
        let left: Left = serde_json::from_str(&self.state).ok()?;
        left.from
    }

    /// The record of its move, if nothing but the task knows that.
    pub fn migration(&self) -> Option<MigrationId> {
        let moves = [accept::LIVE_MIGRATION, accept::EVACUATE].contains(&self.flow.as_str());
        self.recorded().migration.filter(|_| moves)
    }

    /// The task that this one had taken over.
    pub fn before(&self) -> Option<Self> {
        if ![accept::DELETE, accept::EVACUATE].contains(&self.flow.as_str()) {
            return None;
        }
        let took: TookOver = serde_json::from_str(&self.state).ok()?;
        took.superseded
    }

    /// Whether the new host of a move works with the files that the old one has.
    pub fn shares_files(&self) -> bool {
        let told = |name: &str| {
            let state: serde_json::Value = serde_json::from_str(&self.state).unwrap_or_default();
            state[name] == true
        };
        match self.flow.as_str() {
            accept::LIVE_MIGRATION => told("shared"),
            accept::EVACUATE => told("kept"),
            _ => false,
        }
    }

    /// Whether there may be something to take back.
    fn leaves(&self) -> bool {
        match self.flow.as_str() {
            accept::DELETE => self.before().is_some(),
            flow => LEAVING.contains(&flow),
        }
    }

    fn shortened(mut self) -> Self {
        if let Ok(serde_json::Value::Object(mut state)) = serde_json::from_str(&self.state) {
            for name in LONG {
                state.remove(name);
            }
            self.state = serde_json::Value::Object(state).to_string();
        }
        self
    }
}

impl Kept {
    /// The server remembers a task that has ended like this, until it is deleted or evacuated.
    pub fn remember(&mut self, task: Unfinished) {
        let known = |one: &Unfinished| one.task.is_some() && one.task == task.task;
        if !task.leaves() || self.unfinished.iter().any(known) {
            return;
        }
        self.unfinished.push(task.shortened());
        let more = self.unfinished.len().saturating_sub(MOST);
        self.unfinished.drain(..more);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use types::HostName;

    fn task(flow: &str, state: &serde_json::Value) -> Unfinished {
        Unfinished {
            task: Some(TaskId::random()),
            flow: flow.to_owned(),
            state: state.to_string(),
        }
    }

    fn place(host: &str) -> serde_json::Value {
        json!({ "host": host, "node_id": uuid::Uuid::nil(), "node": host, "zone": "nova" })
    }

    #[test]
    fn a_server_remembers_what_may_have_left_something() {
        let mut kept = Kept::default();
        let image = json!({ "image": uuid::Uuid::nil() });
        let first = task(accept::SNAPSHOT, &image);
        for one in [
            first.clone(),
            first.clone(),
            task(accept::REBOOT, &json!({ "hard": true })),
            task(accept::DELETE, &json!({ "superseded": null })),
            task(accept::DELETE, &json!({ "superseded": first })),
        ] {
            kept.remember(one);
        }
        let flows = |kept: &Kept| -> Vec<String> {
            let its = kept.unfinished.iter();
            its.map(|one| one.flow.clone()).collect()
        };
        assert_eq!(flows(&kept), [accept::SNAPSHOT, accept::DELETE]);
        assert_eq!(kept.unfinished[1].before(), Some(first));
        for _ in 0..MOST {
            kept.remember(task(accept::SHELVE, &image));
        }
        assert_eq!(flows(&kept), [accept::SHELVE; MOST]);
    }

    #[test]
    fn what_is_recorded_is_read_without_the_plan() {
        let state = json!({ "migration": uuid::Uuid::nil(), "plan": { "long": true }, "shared": true,
            "from": place("old"), "place": place("new") });
        let mut kept = Kept::default();
        kept.remember(task(accept::LIVE_MIGRATION, &state));
        let one = &kept.unfinished[0];
        assert!(!one.state.contains("plan"));
        let host = |place: Option<Place>| place.map(|place| place.host);
        assert_eq!(host(one.place()), Some(HostName::from("new")));
        assert_eq!(host(one.source()), Some(HostName::from("old")));
        assert!(one.migration().is_some() && one.shares_files());
        // A host and its node: another form.
        let state = json!({ "migration": uuid::Uuid::nil(), "from": ["old", uuid::Uuid::nil()], "kept": false });
        let evacuation = task(accept::EVACUATE, &state);
        assert_eq!((evacuation.place(), evacuation.source()), (None, None));
        assert!(evacuation.migration().is_some() && !evacuation.shares_files());
    }
}
