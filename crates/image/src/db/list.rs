//! Lists: who sees what, filters, sorting, pages.

use super::images::{COLUMNS, complete, from_row};
use crate::model::Image;
use sql::{Error, Tx, Value};
use types::Timestamp;

/// How a number or a time is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
}

impl Comparison {
    fn sql(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Neq => "<>",
            Self::Gt => ">",
            Self::Gte => ">=",
            Self::Lt => "<",
            Self::Lte => "<=",
        }
    }
}

/// One condition on the images of a list. Column names come from the code, never from a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// A text column is one of these.
    Text(&'static str, Vec<String>),
    /// A number, boolean or time compares so.
    Number(&'static str, Comparison, i64),
    /// A time is (or is not) within this second.
    Second(&'static str, bool, i64),
    /// The image has this tag.
    Tag(String),
    /// The image has this property with this value.
    Property(String, String),
}

/// What lists can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// `name`.
    Name,
    /// `status`.
    Status,
    /// `container_format`.
    ContainerFormat,
    /// `disk_format`.
    DiskFormat,
    /// `size`.
    Size,
    /// `id`.
    Id,
    /// `created_at`.
    CreatedAt,
    /// `updated_at`.
    UpdatedAt,
}

impl SortKey {
    /// NULLs sort differently in the databases, so they are replaced: the same order, and the same pages, everywhere.
    fn sql(self) -> &'static str {
        match self {
            Self::Name => "COALESCE(name, '')",
            Self::Status => "status",
            Self::ContainerFormat => "COALESCE(container_format, '')",
            Self::DiskFormat => "COALESCE(disk_format, '')",
            Self::Size => "COALESCE(size_bytes, -1)",
            Self::Id => "id",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
        }
    }

    fn of(self, image: &Image) -> Value {
        match self {
            Self::Name => image.name.as_deref().unwrap_or_default().into(),
            Self::Status => image.status.name().into(),
            Self::ContainerFormat => image.container_format.as_deref().unwrap_or_default().into(),
            Self::DiskFormat => image.disk_format.as_deref().unwrap_or_default().into(),
            Self::Size => image.size.map_or(Value::Int(-1), Value::from),
            Self::Id => (&image.id).into(),
            Self::CreatedAt => Timestamp::into(image.created_at),
            Self::UpdatedAt => Timestamp::into(image.updated_at),
        }
    }
}

/// One key of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub key: SortKey,
    /// From the greatest.
    pub descending: bool,
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Administrators see the images of all projects.
    pub admin: bool,
    /// The caller's project.
    pub project: Option<String>,
    /// `all`, one visibility, or what users want to see by default.
    pub visibility: Option<String>,
    /// Shared images in this member status; `None` is any.
    pub member_status: Option<String>,
    /// Further conditions.
    pub filters: Vec<Filter>,
    /// The order; must end in a unique key.
    pub order: Vec<Sort>,
    /// Only what comes after this image.
    pub after: Option<Image>,
    /// At most so many.
    pub most: usize,
}

/// A condition under construction.
#[derive(Default)]
struct Clause {
    text: String,
    values: Vec<Value>,
}

impl Clause {
    fn and(&mut self, text: &str, values: impl IntoIterator<Item = Value>) {
        self.text.push_str(" AND ");
        self.text.push_str(text);
        self.values.extend(values);
    }
}

/// The images that the query asks for, with properties and tags.
pub fn list(tx: &mut Tx<'_>, query: &ListQuery) -> Result<Vec<Image>, Error> {
    let mut clause = Clause::default();
    seen_by(&mut clause, query);
    wanted_visibility(&mut clause, query);
    for filter in &query.filters {
        apply(&mut clause, filter);
    }
    if let Some(image) = &query.after {
        after(&mut clause, &query.order, image);
    }
    let order: Vec<String> = query
        .order
        .iter()
        .map(|sort| {
            format!(
                "{} {}",
                sort.key.sql(),
                if sort.descending { "DESC" } else { "ASC" }
            )
        })
        .collect();
    let text = format!(
        "SELECT {COLUMNS} FROM images WHERE deleted_at IS NULL{} ORDER BY {} LIMIT {}",
        clause.text,
        order.join(", "),
        query.most
    );
    let mut images: Vec<Image> = tx
        .query(&text, &clause.values)?
        .iter()
        .map(from_row)
        .collect::<Result<_, _>>()?;
    complete(tx, &mut images)?;
    Ok(images)
}

fn seen_by(clause: &mut Clause, query: &ListQuery) {
    if query.admin {
        return;
    }
    let Some(project) = &query.project else {
        clause.and("visibility IN ('public', 'community')", []);
        return;
    };
    let mut values = vec![Value::from(project), Value::from(project)];
    let status = if let Some(status) = &query.member_status {
        values.push(status.into());
        " AND m.status = ?"
    } else {
        ""
    };
    clause.and(
        &format!(
            "(visibility IN ('public', 'community') OR owner = ? OR (visibility = 'shared' AND EXISTS \
             (SELECT 1 FROM image_members m WHERE m.image_id = images.id AND m.member_id = ?{status})))"
        ),
        values,
    );
}

/// Others' community images are listed only on demand.
fn wanted_visibility(clause: &mut Clause, query: &ListQuery) {
    match (query.visibility.as_deref(), &query.project) {
        (Some("all"), _) => {}
        (Some(visibility), _) => clause.and("visibility = ?", [visibility.into()]),
        (None, None) => clause.and("visibility <> 'community'", []),
        (None, Some(project)) => {
            clause.and("(visibility <> 'community' OR owner = ?)", [project.into()])
        }
    }
}

fn apply(clause: &mut Clause, filter: &Filter) {
    match filter {
        Filter::Text(column, wanted) => {
            let text = format!("{column} IN ({})", sql::placeholders(wanted.len()));
            clause.and(&text, wanted.iter().map(Value::from));
        }
        Filter::Number(column, comparison, number) => {
            clause.and(&format!("{column} {} ?", comparison.sql()), [(*number).into()]);
        }
        Filter::Second(column, within, second) => {
            let from = Timestamp::from_seconds(*second).micros();
            let not = if *within { "" } else { "NOT " };
            clause.and(&format!("{not}({column} >= ? AND {column} < ?)"), [from.into(), (from + 1_000_000).into()]);
        }
        Filter::Tag(tag) => clause.and(
            "EXISTS (SELECT 1 FROM image_tags t WHERE t.image_id = images.id AND t.tag = ?)",
            [tag.into()],
        ),
        Filter::Property(name, content) => clause.and(
            "EXISTS (SELECT 1 FROM image_properties p WHERE p.image_id = images.id AND p.name = ? AND p.content = ?)",
            [name.into(), content.into()],
        ),
    }
}

/// Everything that sorts after `image`: greater in the first key, or equal there and greater in the second, ...
fn after(clause: &mut Clause, order: &[Sort], image: &Image) {
    let mut alternatives = Vec::new();
    let mut values = Vec::new();
    for (place, last) in order.iter().enumerate() {
        let mut parts = Vec::new();
        for equal in &order[..place] {
            parts.push(format!("{} = ?", equal.key.sql()));
            values.push(equal.key.of(image));
        }
        parts.push(format!(
            "{} {} ?",
            last.key.sql(),
            if last.descending { "<" } else { ">" }
        ));
        values.push(last.key.of(image));
        alternatives.push(format!("({})", parts.join(" AND ")));
    }
    clause.and(&format!("({})", alternatives.join(" OR ")), values);
}
