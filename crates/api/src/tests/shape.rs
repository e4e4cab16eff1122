//! What an answer looks like: the kinds of its values, the formats of its texts, where its links go, its headers. Two
//! answers are held against each other by these.

use super::harness::Answer;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Objects whose keys are data: their values must be alike, whatever they are called.
pub const FREE: &[&str] = &[
    "metadata",
    "meta",
    "extra_specs",
    "addresses",
    "properties",
    "hosts",
    "scheduler_hints",
];

/// Formats of texts, by patterns; the first that fits.
static FORMATS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    [
        ("link", r"^https?://"),
        ("time with Z", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"),
        (
            "time with microseconds",
            r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$",
        ),
        ("time with a blank", r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"),
        (
            "request id",
            r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        ),
        ("uuid", r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
        ("56 hex digits", "^[0-9a-f]{56}$"),
        ("MAC address", "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"),
        ("fingerprint", "^([0-9a-f]{2}:){15}[0-9a-f]{2}$"),
        ("IPv4 address", r"^\d+\.\d+\.\d+\.\d+$"),
        ("IPv6 address", "^[0-9a-f:]*:[0-9a-f:]*$"),
        ("digits", r"^\d+$"),
        ("nothing", "^$"),
    ]
    .map(|(name, pattern)| (name, Regex::new(pattern).unwrap()))
    .into()
});

/// What a value is, in a word.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "fraction",
        Value::Number(_) => "number",
        Value::String(text) => {
            let fits = FORMATS.iter().find(|(_, pattern)| pattern.is_match(text));
            fits.map_or("text", |(name, _)| name)
        }
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// A link without what differs from cloud to cloud: host, project, ids, values of the query.
pub fn way(link: &str) -> String {
    let Some((_, rest)) = link.split_once("://") else {
        return link.to_owned();
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut segments: Vec<&str> = path.split('/').skip(1).collect();
    // The host of an image's own link says nothing of versions; a project comes first or after the version.
    let version = usize::from(segments.first().is_some_and(|word| word.starts_with("v2")));
    let is_project = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    if segments.len() > version + 1 && is_project(&segments[version]) {
        segments.remove(version);
    }
    // Nova's samples are of both, as the tests that wrote them were run; which is right, `edge` tests.
    if version == 1 {
        segments[0] = "v2.1";
    }
    let is_word = |segment: &str| {
        segment.starts_with("v2")
            || crate::routes::ROUTES.iter().any(|row| {
                let mut words = row.path.split('/').filter(|word| !word.starts_with('{'));
                words.any(|word| word == segment)
            })
    };
    let words = segments
        .iter()
        .map(|segment| if is_word(segment) { *segment } else { "{}" });
    let mut keys: Vec<&str> = query
        .split('&')
        .filter_map(|pair| pair.split('=').next())
        .filter(|key| !key.is_empty())
        .collect();
    keys.sort_unstable();
    let path = words.collect::<Vec<_>>().join("/");
    if keys.is_empty() {
        path
    } else {
        format!("{path}?{}", keys.join("&"))
    }
}

/// A difference that is right, as a line of a table says it.
struct Excuse {
    /// Parts of the sample's name, in this order.
    sample: Vec<String>,
    /// The end of the place in the document.
    place: String,
    /// What is found there.
    found: String,
    /// Why.
    reason: String,
}

fn has_parts(mut name: &str, parts: &[String]) -> bool {
    parts.iter().all(|part| {
        let rest = name.split_once(part.as_str());
        rest.inspect(|(_, rest)| name = rest).is_some()
    })
}

/// How an answer is unlike what it is held against.
pub struct Unlike {
    /// It is a fault, or has another status.
    refused: bool,
    /// What is wrong beside the document.
    said: Vec<String>,
    /// Where the document differs, and how.
    places: Found,
}

impl Unlike {
    pub fn refused(why: String) -> Self {
        Self {
            refused: true,
            said: vec![why],
            places: Found::new(),
        }
    }

    /// With what is wrong beside the document.
    pub fn answered(said: Vec<String>, theirs: &Value, ours: &Value) -> Self {
        let mut places = Found::new();
        compare("", theirs, ours, &mut places);
        places.sort();
        places.dedup();
        Self {
            refused: false,
            said,
            places,
        }
    }
}

/// Compares answers, with excuses. Those that excused nothing are told at the end.
pub struct Comparison {
    excuses: Vec<Excuse>,
    used: BTreeSet<usize>,
}

impl Comparison {
    /// With the excuses of a table beside this file: lines of sample, place, what is found and why, with bars between.
    pub fn new(table: &str) -> Self {
        let lines = table
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let excuses = lines.map(|line| {
            let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let [sample, place, found, reason] = cells[..] else {
                panic!("four cells: {line}");
            };
            Excuse {
                sample: sample.split('*').map(str::to_owned).collect(),
                place: place.to_owned(),
                found: found.to_owned(),
                reason: reason.to_owned(),
            }
        });
        Self {
            excuses: excuses.collect(),
            used: BTreeSet::new(),
        }
    }

    fn excuse(&self, sample: &str, (at, what): &(String, String)) -> Option<usize> {
        self.excuses.iter().position(|excuse| {
            has_parts(sample, &excuse.sample)
                && at.ends_with(&excuse.place)
                && (*what == excuse.found || excuse.found == "*")
        })
    }

    /// What is wrong with an answer and not excused in this sample.
    pub fn left(&self, sample: &str, unlike: &Unlike) -> Vec<String> {
        let places = unlike.places.iter();
        let places = places.filter(|place| self.excuse(sample, place).is_none());
        let places = places.map(|(at, what)| format!("{at} {what}"));
        unlike.said.iter().cloned().chain(places).collect()
    }

    /// What is wrong with the best of several answers.
    pub fn best(&mut self, sample: &str, answers: &[Unlike]) -> Vec<String> {
        // What is empty is like anything: that tells the least.
        let wrong = |one: &&Unlike| {
            let left = self.left(sample, one);
            let empty = left.iter().any(|what| what.ends_with("is empty"));
            (one.refused, empty, left.len(), one.places.len())
        };
        let Some(best) = answers.iter().min_by_key(wrong) else {
            return vec!["nothing was asked".to_owned()];
        };
        let used = best.places.iter();
        let used: Vec<usize> = used
            .filter_map(|place| self.excuse(sample, place))
            .collect();
        self.used.extend(used);
        self.left(sample, best)
    }

    /// Excuses that nothing needed, or that have no reason.
    pub fn unused(&self) -> Vec<String> {
        let all = self.excuses.iter().enumerate();
        all.filter(|(number, excuse)| !self.used.contains(number) || excuse.reason.is_empty())
            .map(|(_, excuse)| {
                format!(
                    "{} {} {}",
                    excuse.sample.join("*"),
                    excuse.place,
                    excuse.found
                )
            })
            .collect()
    }
}

/// A table beside this file, read when it is needed, so that it is changed without building anything.
pub fn table(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/");
    std::fs::read_to_string(format!("{path}{name}")).unwrap_or_default()
}

/// Where in the document, and what is wrong there.
type Found = Vec<(String, String)>;

fn compare(at: &str, theirs: &Value, ours: &Value, found: &mut Found) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let free = FREE.iter().any(|free| at.ends_with(&format!(".{free}")));
            if free {
                let theirs: Vec<Value> = a.values().cloned().collect();
                let ours: Vec<Value> = b.values().cloned().collect();
                alike(&format!("{at}.*"), &theirs, &ours, found);
                return;
            }
            for (name, value) in a {
                match b.get(name) {
                    Some(other) => compare(&format!("{at}.{name}"), value, other, found),
                    None => found.push((format!("{at}.{name}"), "is missing".into())),
                }
            }
            for name in b.keys().filter(|name| !a.contains_key(*name)) {
                found.push((format!("{at}.{name}"), "is too much".into()));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let at = format!("{at}[]");
            alike(&at, a, b, found);
            let links = at.ends_with("links[]") && a.len() != b.len();
            if links {
                found.push((at, format!("has {} links, not {}", b.len(), a.len())));
            }
        }
        (Value::String(a), Value::String(b)) if at.ends_with(".rel") && a != b => {
            found.push((at.to_owned(), format!("is {b}, not {a}")));
        }
        (Value::String(a), Value::String(b))
            if [kind(theirs), kind(ours)] == ["link"; 2] && way(a) != way(b) =>
        {
            let said = format!("goes to {}, not to {}", way(b), way(a));
            found.push((at.to_owned(), said));
        }
        _ if kind(theirs) != kind(ours) => {
            let said = format!("is {}, not {}", kind(ours), kind(theirs));
            found.push((at.to_owned(), said));
        }
        _ => {}
    }
}

/// Each of ours must be like one of theirs: which fields an item has may depend on the item.
fn alike(at: &str, theirs: &[Value], ours: &[Value], found: &mut Found) {
    if theirs.is_empty() != ours.is_empty() {
        let said = if ours.is_empty() {
            "is empty"
        } else {
            "is not empty"
        };
        found.push((at.to_owned(), said.to_owned()));
    }
    for ours in ours {
        let differences = theirs.iter().map(|theirs| {
            let mut differs = Vec::new();
            compare(at, theirs, ours, &mut differs);
            differs
        });
        found.extend(differences.min_by_key(Vec::len).unwrap_or_default());
    }
}

#[test]
fn what_differs_is_found() {
    use serde_json::json;
    let differ = |theirs: Value, ours: Value| -> Vec<String> {
        Comparison::new("").left("", &Unlike::answered(vec![], &theirs, &ours))
    };
    let same: &[(Value, Value)] = &[
        (json!({"a": 1}), json!({"a": 2})),
        (json!([1, "x"]), json!(["y"])),
        (
            json!({"metadata": {"a": "b"}}),
            json!({"metadata": {"c": "d"}}),
        ),
        (
            json!("http://a/v2.1/0de30000000000000000000000000001/servers/1?limit=1"),
            json!("https://b:1/v2.1/servers/2?limit=2"),
        ),
        (json!("2026-01-01T00:00:00Z"), json!("2025-01-01T00:00:01Z")),
    ];
    for (theirs, ours) in same {
        assert_eq!(
            differ(theirs.clone(), ours.clone()),
            Vec::<String>::new(),
            "{theirs} and {ours}"
        );
    }
    let different: &[(Value, Value)] = &[
        (json!(null), json!("x")),
        (json!("x"), json!(null)),
        (json!({"a": 1}), json!({})),
        (json!({}), json!({"a": 1})),
        (json!([1]), json!([])),
        (json!([1]), json!([2, "x"])),
        (json!(1), json!(1.5)),
        (json!(""), json!("x")),
        (
            json!("2026-01-01T00:00:00Z"),
            json!("2026-01-01T00:00:00.000000"),
        ),
        (
            json!("70a599e0-31e7-49b7-b260-868f441e862b"),
            json!("70a599e0"),
        ),
        (
            json!("http://a/v2.1/servers/1"),
            json!("http://a/servers/1"),
        ),
        (
            json!("http://a/v2.1/servers/1"),
            json!("http://a/v2.1/flavors/1"),
        ),
        (
            json!("http://a/servers?limit=1"),
            json!("http://a/servers?limit=1&marker=a"),
        ),
        (json!({"rel": "self"}), json!({"rel": "bookmark"})),
        (
            json!({"links": [{"rel": "self"}, {"rel": "bookmark"}]}),
            json!({"links": [{"rel": "self"}]}),
        ),
        (
            json!({"metadata": {"a": "b"}}),
            json!({"metadata": {"a": 1}}),
        ),
    ];
    for (theirs, ours) in different {
        assert!(
            !differ(theirs.clone(), ours.clone()).is_empty(),
            "{theirs} and {ours}"
        );
    }
}

/// How the headers of an answer of the API are not as documented. `version` is none below `/v2`, which knows none.
pub fn wrong_headers(answer: &Answer, version: Option<u16>) -> Vec<String> {
    let text = |name: &str| {
        let value = answer.headers.get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let mut wrong = Vec::new();
    let mut hold = |name: &str, right: bool| {
        if !right {
            wrong.push(format!("{name}: {:?}", text(name)));
        }
    };
    let asked = version.map(|minor| format!("2.{minor}"));
    let named = asked.as_ref().map(|version| format!("compute {version}"));
    hold(
        "openstack-api-version",
        text("openstack-api-version") == named,
    );
    let old = "x-openstack-nova-api-version";
    hold(old, text(old) == asked);
    let varies = answer
        .headers
        .get_all("vary")
        .iter()
        .any(|value| value == "OpenStack-API-Version, X-OpenStack-Nova-API-Version");
    hold("vary", varies == version.is_some());
    let id = text("x-openstack-request-id").unwrap_or_default();
    hold(
        "x-openstack-request-id",
        kind(&id.as_str().into()) == "request id",
    );
    hold(
        "x-compute-request-id",
        text("x-compute-request-id") == Some(id),
    );
    // Faults say how they are written, other answers do not.
    let kinds: &[&str] = if answer.text.is_empty() {
        &["", "application/json"]
    } else if answer.status.is_client_error() || answer.status.is_server_error() {
        &["application/json; charset=UTF-8"]
    } else {
        &["application/json"]
    };
    let content = text("content-type").unwrap_or_default();
    hold("content-type", kinds.contains(&content.as_str()));
    wrong
}

/// Whether the answer to a request that succeeded says where the new thing is: for servers, their images, tags and volumes,
/// and nowhere else (API reference).
pub fn has_location(
    verb: &str,
    path: &str,
    action: Option<&str>,
    version: u16,
    answer: &Answer,
) -> bool {
    match (verb, path, action) {
        ("POST", "/servers" | "/os-volumes_boot", None) => answer.json().get("server").is_some(),
        ("POST", _, Some("rebuild")) => true,
        ("POST", _, Some("createImage" | "createBackup")) => version < 45,
        ("PUT", "/servers/{server_id}/tags/{id}", None) => answer.status == 201,
        ("POST", "/os-volumes", None) => true,
        _ => false,
    }
}
