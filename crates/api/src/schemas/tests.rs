#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

fn sample() -> Value {
    wrapped(
        "thing",
        object(
            &["name"],
            json!({
                "name": { "type": "string", "minLength": 1, "maxLength": 5 },
                "size": integer(0, 10),
                "on": boolean(),
                "kind": { "type": "string", "enum": ["a", "b"] },
                "ref": { "type": "string", "oneOf": [{ "format": "uuid" }, { "maxLength": 0 }] },
            }),
        ),
    )
}
static SAMPLE: Schema = Schema::new(&[Range::new(Microversion::MIN, sample)]);

#[test]
fn messages_as_python_words_them() {
    let table = [
        (json!(null), "None is not of type 'object'"),
        (json!([]), "[] is not of type 'object'"),
        (
            json!({"x": 1, "thing": {"name": "a"}}),
            "Additional properties are not allowed ('x' was unexpected)",
        ),
        (json!({}), "'thing' is a required property"),
        (
            json!({"thing": {}}),
            "Invalid input for field/attribute thing. Value: {}. 'name' is a required property",
        ),
        (
            json!({"thing": {"name": ""}}),
            "Invalid input for field/attribute name. Value: . '' should be non-empty",
        ),
        (
            json!({"thing": {"name": 7}}),
            "Invalid input for field/attribute name. Value: 7. 7 is not of type 'string'",
        ),
        (
            json!({"thing": {"name": "aaaaaa"}}),
            "Invalid input for field/attribute name. Value: aaaaaa. 'aaaaaa' is too long",
        ),
        (
            json!({"thing": {"name": "a", "size": 11}}),
            "Invalid input for field/attribute size. Value: 11. 11 is greater than the maximum of 10",
        ),
        (
            json!({"thing": {"name": "a", "kind": "c"}}),
            "Invalid input for field/attribute kind. Value: c. 'c' is not one of ['a', 'b']",
        ),
        (
            json!({"thing": {"name": "a", "ref": "xyz"}}),
            "Invalid input for field/attribute ref. Value: xyz. 'xyz' is not valid under any of the given schemas",
        ),
        (
            json!({"thing": {"name": "a", "bogus": 1}}),
            "Invalid input for field/attribute thing. Value: {'name': 'a', 'bogus': 1}. Additional properties are not allowed \
             ('bogus' was unexpected)",
        ),
    ];
    for (body, wanted) in table {
        assert_eq!(
            SAMPLE.check(Microversion::MIN, &body).unwrap_err().message,
            wanted
        );
    }
    for good in [
        json!({"thing": {"name": "a", "size": "7", "on": "yes"}}),
        json!({"thing": {"name": "a", "on": true, "ref": ""}}),
    ] {
        assert_eq!(SAMPLE.check(Microversion::MIN, &good), Ok(()));
    }
}

#[test]
fn legacy_requests_lose_unknown_keys() {
    let mut body = json!({"thing": {"name": "a", "bogus": 1}, "x": 2});
    assert_eq!(SAMPLE.check_legacy(&mut body), Ok(()));
    assert_eq!(body, json!({"thing": {"name": "a"}}));
}

#[test]
fn every_schema_compiles() {
    for (name, schema) in cloud::ALL
        .iter()
        .chain(consoles::ALL)
        .chain(proxies::ALL)
        .chain(servers::ALL)
        .chain(volumes::ALL)
    {
        for (index, range) in schema.ranges.iter().enumerate() {
            assert!(
                schema.validator(index).is_ok(),
                "{name} since {}: {:?}",
                range.since,
                schema.validator(index).err()
            );
        }
    }
}
