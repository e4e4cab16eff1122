//! Getting along with a host firewall that drops what is forwarded.
//!
//! Bridged frames pass the inet family's forward hook (see [`crate::filter`]), and a table of
//! somebody else that drops there (Docker sets `FORWARD` of `iptables` to DROP) would cut all
//! guests off: no accept elsewhere outweighs a drop. So in such a chain, and only there, two rules
//! let this cloud's bridges through; they carry the cloud's name and go with it.

use serde::Deserialize;
use serde_json::Value;

use crate::machine::{Error, Machine, Space};

/// The chains that `iptables` and `ip6tables` keep: family and what comes after it.
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// What matters of a `FORWARD` chain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forward {
    drops: bool,
    /// Handles of our rules in it.
    own: Vec<u64>,
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Value>,
}

fn parse(json: &[u8], comment: &str) -> Result<Forward, serde_json::Error> {
    let listing: Listing = serde_json::from_slice(json)?;
    let mut forward = Forward::default();
    for object in &listing.nftables {
        if object["chain"]["policy"] == "drop" {
            forward.drops = true;
        }
        let rule = &object["rule"];
        if rule["comment"] == comment {
            forward.own.extend(rule["handle"].as_u64());
        }
    }
    Ok(forward)
}

fn look(machine: &Machine, family: &str, comment: &str) -> Result<Option<Forward>, Error> {
    let argv = [
        "nft", "-j", "-a", "list", "chain", family, "filter", "FORWARD",
    ];
    let output = machine.try_run(&Space::Host, &argv, "")?;
    if !output.success {
        return Ok(None);
    }
    let forward = parse(&output.stdout, comment).map_err(crate::observe::BadOutput::from)?;
    Ok(Some(forward))
}

/// Lets this cloud's bridges through where the host drops what it forwards.
///
/// # Errors
/// When the rules cannot be listed or added.
pub(crate) fn open(machine: &Machine, comment: &str) -> Result<(), Error> {
    for family in FAMILIES {
        let Some(forward) = look(machine, family, comment)? else {
            continue;
        };
        if !forward.drops || !forward.own.is_empty() {
            continue;
        }
        let rule = |side: &str| {
            format!(
                "insert rule {family} filter FORWARD {side} \"kbr*\" counter accept comment \"{comment}\"\n"
            )
        };
        let text = rule("iifname") + &rule("oifname");
        machine.run(&Space::Host, &["nft", "-f", "-"], &text)?;
        tracing::info!(
            family,
            "the host's firewall drops forwarded packets; bridges of this cloud are let through"
        );
    }
    Ok(())
}

/// Takes the rules of [`open`] away.
///
/// # Errors
/// When the rules cannot be listed or removed.
pub(crate) fn close(machine: &Machine, comment: &str) -> Result<(), Error> {
    for family in FAMILIES {
        let own = look(machine, family, comment)?.unwrap_or_default().own;
        let text: String = own
            .iter()
            .map(|handle| format!("delete rule {family} filter FORWARD handle {handle}\n"))
            .collect();
        if !text.is_empty() {
            machine.run(&Space::Host, &["nft", "-f", "-"], &text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let json = br#"{"nftables":[{"metainfo":{}},{"chain":{"name":"FORWARD","policy":"drop"}},
            {"rule":{"handle":7,"comment":"kilonova_c1"}},{"rule":{"handle":8,"comment":"kilonova_c2"}},{"rule":{"handle":9}}]}"#;
        assert_eq!(
            parse(json, "kilonova_c1").unwrap(),
            Forward {
                drops: true,
                own: vec![7]
            }
        );
        let open = br#"{"nftables":[{"chain":{"name":"FORWARD","policy":"accept"}}]}"#;
        assert_eq!(parse(open, "kilonova_c1").unwrap(), Forward::default());
    }
}
