//! The statuses of success: what each row of the routing table answers when it does what it is asked for.

use types::Microversion;

/// A status, and the versions that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Success {
    /// The HTTP status.
    pub status: u16,
    since: Microversion,
    until: Option<Microversion>,
}

impl Success {
    /// Whether the version has it.
    pub fn exists_at(&self, version: Microversion) -> bool {
        self.since <= version && self.until.is_none_or(|until| version < until)
    }
}

const fn always(status: u16) -> Success {
    Success {
        status,
        since: Microversion::MIN,
        until: None,
    }
}

/// One status below `2.minor`, another from there on.
const fn changed(before: u16, minor: u16, after: u16) -> [Success; 2] {
    let change = Microversion(minor);
    let (mut first, mut second) = (always(before), always(after));
    first.until = Some(change);
    second.since = change;
    [first, second]
}

/// 200.
pub const OK: &[Success] = &[always(200)];
/// 202.
pub const ACCEPTED: &[Success] = &[always(202)];
/// 204.
pub const NO_CONTENT: &[Success] = &[always(204)];
/// Always refused: this cloud has not what is asked for.
pub const NEVER: &[Success] = &[];
/// A key pair is made.
pub const KEY_PAIR_MADE: &[Success] = &changed(200, 2, 201);
/// A key pair is deleted.
pub const KEY_PAIR_GONE: &[Success] = &changed(202, 2, 204);
/// A volume is attached: from 2.101 on nobody waits for it.
pub const VOLUME_ATTACHED: &[Success] = &changed(200, 101, 202);
/// External events: all of them taken, or some.
pub const EVENTS_TAKEN: &[Success] = &[always(200), always(207)];
/// A tag is new, or was there already.
pub const TAG_THERE: &[Success] = &[always(201), always(204)];
