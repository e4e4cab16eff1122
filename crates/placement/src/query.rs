//! Query parameters: which are known at a version, and their little languages.

use crate::fault::Fault;
use crate::names;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The decoded parameters, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            url::form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The last value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Refuses what `known` does not know.
    pub(crate) fn only(&self, known: impl Fn(&str) -> bool) -> Result<(), Fault> {
        match self.0.iter().find(|(name, _)| !known(name)) {
            None => Ok(()),
            Some((name, _)) => Err(invalid(&format!(
                "Additional properties are not allowed ('{name}' was unexpected)"
            ))),
        }
    }

    /// A UUID.
    pub(crate) fn uuid(&self, name: &str) -> Result<Option<Uuid>, Fault> {
        let parse = |text: &str| {
            Uuid::parse_str(text).map_err(|_| invalid(&format!("'{text}' is not a 'uuid'")))
        };
        self.get(name).map(parse).transpose()
    }
}

pub(crate) fn invalid(problem: &str) -> Fault {
    Fault::bad_request(format!("Invalid query string parameters: {problem}"))
}

/// `VCPU:2,MEMORY_MB:1024`.
pub(crate) fn resources(text: &str) -> Result<BTreeMap<String, u64>, Fault> {
    let badly_formed = || {
        Fault::bad_request(format!(
            "Badly formed resources parameter. Expected resources query string parameter in form: \
             ?resources=VCPU:2,MEMORY_MB:1024. Got: {text}."
        ))
    };
    let mut amounts = BTreeMap::new();
    for part in text.split(',') {
        let (class, amount) = part.trim().split_once(':').ok_or_else(badly_formed)?;
        let amount: u64 = amount.parse().map_err(|_| badly_formed())?;
        if amount == 0 || amount > i64::MAX.unsigned_abs() {
            return Err(Fault::bad_request(format!(
                "Requested resource {class} requires amount > 0. Got: {text}."
            )));
        }
        if !names::is_class(class) {
            return Err(Fault::bad_request(format!(
                "Invalid resource class in resources parameter: No such resource class {class}."
            )));
        }
        amounts.insert(class.to_owned(), amount);
    }
    Ok(amounts)
}

/// Traits: of each set at least one; and the forbidden ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedTraits {
    pub(crate) required: Vec<BTreeSet<String>>,
    pub(crate) forbidden: BTreeSet<String>,
}

/// `A,B`, from 1.22 with `!C` for a forbidden one, from 1.39 also `in:A,B` for one of them, and repeated.
pub(crate) fn traits(values: &[&str], version: u16) -> Result<WantedTraits, Fault> {
    let mut wanted = WantedTraits::default();
    // Before 1.39 the last one counts.
    let values = if version >= 39 {
        values
    } else {
        &values[values.len().saturating_sub(1)..]
    };
    for value in values {
        if let Some(list) = value.strip_prefix("in:").filter(|_| version >= 39) {
            wanted
                .required
                .push(list.split(',').map(known_trait).collect::<Result<_, _>>()?);
            continue;
        }
        for name in value.split(',') {
            match name.strip_prefix('!').filter(|_| version >= 22) {
                Some(name) => drop(wanted.forbidden.insert(known_trait(name)?)),
                None => wanted.required.push([known_trait(name)?].into()),
            }
        }
    }
    Ok(wanted)
}

fn known_trait(name: &str) -> Result<String, Fault> {
    let name = name.trim();
    if names::is_trait(name) {
        return Ok(name.to_owned());
    }
    Err(Fault::bad_request(format!(
        "Invalid trait(s) in \"required\" parameter: No such trait(s): {name}."
    )))
}

/// Aggregates that a provider must be in (of each set at least one), and those it must not be in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedAggregates {
    required: Vec<BTreeSet<Uuid>>,
    forbidden: BTreeSet<Uuid>,
}

impl WantedAggregates {
    pub(crate) fn fit(&self, aggregates: &BTreeSet<Uuid>) -> bool {
        self.forbidden.is_disjoint(aggregates)
            && self.required.iter().all(|any| !any.is_disjoint(aggregates))
    }
}

/// `uuid`, `in:uuid,uuid`, from 1.24 repeated, from 1.32 `!uuid` and `!in:uuid,uuid`.
pub(crate) fn member_of(values: &[&str], version: u16) -> Result<WantedAggregates, Fault> {
    let mut wanted = WantedAggregates::default();
    // Before 1.24 the last one counts.
    let values = if version >= 24 {
        values
    } else {
        &values[values.len().saturating_sub(1)..]
    };
    for value in values {
        let unwanted = value.strip_prefix('!').filter(|_| version >= 32);
        let list = unwanted.unwrap_or(value);
        let uuids = list
            .strip_prefix("in:")
            .unwrap_or(list)
            .split(',')
            .map(Uuid::parse_str)
            .collect::<Result<BTreeSet<_>, _>>();
        let uuids = uuids.map_err(|_| {
            Fault::bad_request(format!(
                "Expected 'member_of' parameter to contain valid UUID(s). Got: {value}"
            ))
        })?;
        if unwanted.is_some() {
            wanted.forbidden.extend(uuids);
        } else {
            wanted.required.push(uuids);
        }
    }
    Ok(wanted)
}
