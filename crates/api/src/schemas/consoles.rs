//! Bodies of requests for consoles.

use super::{Range, Schema, object, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[
    ("vnc console", &VNC),
    ("spice console", &SPICE),
    ("serial console", &SERIAL),
    ("remote console", &REMOTE),
];

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

/// An action that names the type of a console.
fn action(name: &str, types: &[&str]) -> Value {
    let of_type = object(&["type"], json!({ "type": one_of(types) }));
    wrapped(name, of_type)
}

/// `os-getVNCConsole`.
pub static VNC: Schema = Schema::new(&[Range::new(Microversion::MIN, || {
    action("os-getVNCConsole", &["novnc", "xvpvnc"])
})]);

/// `os-getSPICEConsole`.
pub static SPICE: Schema = Schema::new(&[Range::new(Microversion::MIN, || {
    action("os-getSPICEConsole", &["spice-html5"])
})]);

/// `os-getSerialConsole`.
pub static SERIAL: Schema = Schema::new(&[Range::new(Microversion::MIN, || {
    action("os-getSerialConsole", &["serial"])
})]);

const PROTOCOLS: [&str; 5] = ["vnc", "spice", "serial", "rdp", "mks"];
const TYPES: [&str; 7] = [
    "novnc",
    "xvpvnc",
    "spice-html5",
    "serial",
    "rdp-html5",
    "webmks",
    "spice-direct",
];

/// `remote_console` with the first so many protocols and types.
fn remote(protocols: usize, types: usize) -> Value {
    let console = object(
        &["protocol", "type"],
        json!({ "protocol": one_of(&PROTOCOLS[..protocols]), "type": one_of(&TYPES[..types]) }),
    );
    wrapped("remote_console", console)
}

/// `POST /servers/{id}/remote-consoles`.
pub static REMOTE: Schema = Schema::new(&[
    Range::new(mv::REMOTE_CONSOLES, || remote(4, 5)),
    Range::new(mv::MKS_CONSOLES, || remote(5, 6)),
    Range::new(mv::SPICE_DIRECT, || remote(5, 7)),
]);
