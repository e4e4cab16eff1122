//! Panics that nobody else tells of: the journal takes one of a flow for a failure, and tries on behind a pivot.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on each thread keeps what panicked there.
pub fn keep_panics() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|all| all.push(panic.to_string()));
            usual(panic);
        }));
    });
}

/// What has panicked in this thread since this was asked last.
pub fn take_panics() -> Vec<String> {
    PANICS.take()
}
