//! Lists of secrets: filters, order, pages.

use super::secrets::{COLUMNS, from_row};
use crate::model::Secret;
use sql::{Error, Tx, Value};
use types::Timestamp;

/// What a list may be sorted by, and the columns.
pub const SORTS: &[(&str, &str)] = &[
    ("algorithm", "algorithm"),
    ("bit_length", "bit_length"),
    ("created", "created_at"),
    ("expiration", "expires_at"),
    ("mode", "algorithm_mode"),
    ("name", "name"),
    ("secret_type", "kind"),
    // All secrets are ACTIVE.
    ("status", "id"),
    ("updated", "updated_at"),
];

/// The times that a list may be filtered by, and the columns.
pub const TIMES: &[(&str, &str)] = &[
    ("created", "created_at"),
    ("updated", "updated_at"),
    ("expiration", "expires_at"),
];

/// A condition on a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// One of the columns of [`TIMES`].
    pub column: &'static str,
    /// A comparison.
    pub operator: &'static str,
    /// With what.
    pub time: Timestamp,
}

/// One key of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// One of the columns of [`SORTS`].
    pub column: &'static str,
    /// From the greatest.
    pub descending: bool,
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// The project whose secrets these are, unless `acl_user` says whose they may be read by.
    pub project_id: String,
    /// Only secrets, of whatever project, whose access control list has this user.
    pub acl_user: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// With this algorithm.
    pub algorithm: Option<String>,
    /// With this mode.
    pub mode: Option<String>,
    /// With this length.
    pub bit_length: Option<i64>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Conditions on times.
    pub bounds: Vec<Bound>,
    /// The order, before that of their making.
    pub order: Vec<Sort>,
    /// So many are left out.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
    /// What has expired by then is not there.
    pub now: Timestamp,
}

/// A page of secrets, and how many there are on all pages.
pub fn list(tx: &mut Tx<'_>, query: &ListQuery) -> Result<(Vec<Secret>, usize), Error> {
    let mut condition = "(expires_at IS NULL OR expires_at > ?)".to_owned();
    let mut values: Vec<Value> = vec![query.now.into()];
    let mut and = |text: &str, value: Value| {
        condition.push_str(" AND ");
        condition.push_str(text);
        values.push(value);
    };
    match &query.acl_user {
        Some(user) => and(
            "id IN (SELECT secret_id FROM key_acl_users WHERE user_id = ?)",
            user.into(),
        ),
        None => and("project_id = ?", (&query.project_id).into()),
    }
    for (column, wanted) in [
        ("name", &query.name),
        ("algorithm", &query.algorithm),
        ("algorithm_mode", &query.mode),
        ("kind", &query.kind),
    ] {
        if let Some(wanted) = wanted {
            and(&format!("{column} = ?"), wanted.into());
        }
    }
    if let Some(bits) = query.bit_length {
        and("bit_length = ?", bits.into());
    }
    for bound in &query.bounds {
        and(
            &format!("{} {} ?", bound.column, bound.operator),
            bound.time.into(),
        );
    }
    let counted = format!("SELECT COUNT(*) FROM key_secrets WHERE {condition}");
    let total: i64 = tx.query_one(&counted, &values)?.get(0)?;
    let mut order = String::new();
    for sort in &query.order {
        let way = if sort.descending { "DESC" } else { "ASC" };
        order.push_str(&format!("{} {way}, ", sort.column));
    }
    let (limit, offset) = (query.limit, query.offset);
    let text = format!(
        "SELECT {COLUMNS} FROM key_secrets WHERE {condition} ORDER BY {order}created_at, id LIMIT {limit} OFFSET {offset}"
    );
    let rows = tx.query(&text, &values)?;
    let secrets = rows.iter().map(from_row).collect::<Result<_, _>>()?;
    Ok((secrets, usize::try_from(total).unwrap_or_default()))
}
