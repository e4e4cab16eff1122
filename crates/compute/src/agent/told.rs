//! What a conductor hands over, read piece by piece: work or a question that this release does not know is refused at once,
//! and keeps nothing else waiting.

use serde::Deserialize;
use serde_json::Value;
use types::agent::{
    Answer, Asked, FailureKind, Work, WorkKey, WorkOutcome, WorkReport, does_not_know,
};
use types::{HostName, Timestamp};
use uuid::Uuid;

/// The answer to a poll; mirrors the conductor's.
#[derive(Deserialize)]
struct Polled {
    work: Vec<Value>,
    asked: Vec<Value>,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Work, in order, each with the time it was stored; an older conductor does not say that.
    pub(super) work: Vec<(Work, Option<Timestamp>)>,
    /// Questions.
    pub(super) asked: Vec<Asked>,
    /// What becomes of work that is not known here.
    pub(super) refused: Vec<WorkReport>,
    /// What is said to questions that are not known here.
    pub(super) unanswered: Vec<Answer>,
}

/// What work of any release has, so that it can be answered.
#[derive(Deserialize)]
struct Numbered {
    key: WorkKey,
    epoch: u64,
}

/// The same for questions.
#[derive(Deserialize)]
struct Named {
    id: Uuid,
}

/// Reads the answer to a poll of this host.
pub(super) fn read(answer: Value, host: &HostName) -> Result<Told, serde_json::Error> {
    let polled: Polled = serde_json::from_value(answer)?;
    let mut told = Told::default();
    for item in polled.work {
        match Work::deserialize(&item) {
            Ok(work) => {
                let stored = Timestamp::deserialize(&item["stored"]).ok();
                told.work.push((work, stored));
            }
            Err(error) => told.refused.extend(refuse(host, &item, &error)),
        }
    }
    for item in polled.asked {
        match Asked::deserialize(&item) {
            Ok(asked) => told.asked.push(asked),
            Err(error) => told.unanswered.extend(say_nothing(host, &item, &error)),
        }
    }
    Ok(told)
}

/// The name of a verb or question.
fn name(of: &Value) -> &str {
    of.as_str().unwrap_or("what it is asked")
}

/// Work without a key has nobody who waits for the answer.
fn refuse(host: &HostName, item: &Value, error: &serde_json::Error) -> Option<WorkReport> {
    let verb = name(&item["verb"]["verb"]);
    tracing::error!(%host, verb, %error, "work of a newer conductor is refused: bring this host up to date");
    let Numbered { key, epoch } = Numbered::deserialize(item).ok()?;
    let outcome = WorkOutcome::failed(FailureKind::Host, does_not_know(host, verb));
    Some(WorkReport {
        key,
        epoch,
        outcome,
    })
}

fn say_nothing(host: &HostName, item: &Value, error: &serde_json::Error) -> Option<Answer> {
    let question = name(&item["question"]["question"]);
    tracing::error!(%host, question, %error, "a question of a newer conductor is refused: bring this host up to date");
    let Named { id } = Named::deserialize(item).ok()?;
    let result = Err((FailureKind::Host, does_not_know(host, question)));
    Some(Answer { id, result })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use types::agent::Verb;

    fn work(step: &str, verb: &Value) -> Value {
        json!({ "key": { "task": Uuid::nil(), "step": step, "direction": "do" }, "epoch": 7,
            "server": Uuid::nil(), "request": "req-1", "deadline_seconds": 60, "verb": verb })
    }

    fn question(id: u128, question: &str) -> Value {
        json!({ "id": Uuid::from_u128(id), "server": Uuid::nil(), "question": { "question": question } })
    }

    #[test]
    fn what_is_not_known_is_refused_and_the_rest_is_done() {
        let mut second = work("second", &json!({ "verb": "ensure_absent" }));
        second["stored"] = 1234.into();
        let items = json!([
            work("first", &json!({ "verb": "ensure_frozen", "degrees": -4 })),
            second,
            // A verb that is known, with a word that is not.
            work(
                "third",
                &json!({ "verb": "ensure_still", "quiesce": "perhaps", "seconds": 1 })
            ),
            json!({ "verb": { "verb": "ensure_absent" } }),
        ]);
        let asked = [question(1, "temperature"), question(2, "uptime")];
        let told = read(json!({ "work": items, "asked": asked }), &"h1".into()).unwrap();
        let [(known, stored)] = told.work.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(*stored, Some(Timestamp(1234)));
        assert!(matches!(known.verb, Verb::EnsureAbsent));
        let refused: Vec<_> = told
            .refused
            .iter()
            .map(|report| (report.key.step.as_str(), report.epoch, &report.outcome))
            .collect();
        let failed = |verb: &str| {
            let words =
                format!("host h1 runs a release that does not know {verb}: bring it up to date");
            WorkOutcome::failed(FailureKind::Host, words)
        };
        assert_eq!(
            refused,
            [
                ("first", 7, &failed("ensure_frozen")),
                ("third", 7, &failed("ensure_still"))
            ]
        );
        assert_eq!(told.asked.len(), 1);
        let [Answer { id, result }] = told.unanswered.as_slice() else {
            panic!("{told:?}");
        };
        let (_, message) = result.as_ref().unwrap_err();
        assert_eq!(*id, Uuid::from_u128(1));
        assert!(message.contains("does not know temperature"), "{message}");
    }

    #[test]
    fn an_answer_that_is_none_is_not_taken_for_one() {
        assert!(read(json!({ "work": 1 }), &"h1".into()).is_err());
    }
}
