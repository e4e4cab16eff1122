//! The query string of a list (Key Manager API, "Secrets", "GET /v1/secrets").

use crate::config::Config;
use crate::db::{Bound, ListQuery, SORTS, Sort, TIMES};
use crate::fault::{Fault, Result};
use crate::rules::Access;
use types::Timestamp;

/// A query string, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// So many are left out.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes()).into_owned();
        Self {
            pairs: pairs.collect(),
        }
    }

    /// The last value of a parameter that has one.
    pub fn last(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().rev().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A parameter that means yes; no when it is not there.
    ///
    /// # Errors
    /// 400 when it means neither.
    pub fn yes(&self, name: &str) -> Result<bool> {
        let Some(text) = self.last(name) else {
            return Ok(false);
        };
        match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => Ok(true),
            "0" | "f" | "false" | "off" | "n" | "no" => Ok(false),
            _ => Err(wrong()),
        }
    }

    /// Everything but the page, for links to other pages.
    pub fn filters(&self) -> String {
        let kept = self
            .pairs
            .iter()
            .filter(|(name, _)| name != "limit" && name != "offset");
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(kept);
        text.finish()
    }

    /// The page. What makes no sense counts as not said, and a limit is brought between 1 and the most.
    pub fn page(&self, config: &Config) -> Page {
        let number = |name: &str| self.last(name).and_then(|text| text.parse::<i64>().ok());
        let limit = match number("limit") {
            None => config.default_limit,
            Some(limit) => usize::try_from(limit).unwrap_or(1),
        };
        // Databases count in signed numbers.
        let offset = number("offset").and_then(|offset| usize::try_from(offset).ok());
        Page {
            offset: offset.unwrap_or(0),
            limit: limit.clamp(1, config.max_limit),
        }
    }

    /// A list of secrets.
    ///
    /// # Errors
    /// 400 for conditions on times, and orders, that cannot be read.
    pub fn secrets(&self, access: &Access, config: &Config) -> Result<ListQuery> {
        let text = |name: &str| {
            let value = self.last(name).filter(|value| !value.contains('\0'));
            value.map(str::to_owned)
        };
        let listed = self
            .last("acl_only")
            .is_some_and(|only| only.eq_ignore_ascii_case("true"));
        let bits = self.last("bits").and_then(|bits| bits.parse().ok());
        let page = self.page(config);
        Ok(ListQuery {
            project_id: access.project.clone(),
            acl_user: listed.then(|| access.caller.user_id.clone()),
            name: text("name"),
            algorithm: text("alg"),
            mode: text("mode"),
            bit_length: bits.filter(|bits: &i64| *bits > 0),
            kind: text("secret_type"),
            bounds: self.bounds()?,
            order: self.order()?,
            offset: page.offset,
            limit: page.limit,
            now: Timestamp::now(),
        })
    }

    fn bounds(&self) -> Result<Vec<Bound>> {
        let mut bounds: Vec<Bound> = Vec::new();
        for (name, column) in TIMES {
            for part in self.last(name).unwrap_or_default().split(',') {
                if part.is_empty() {
                    continue;
                }
                let (operator, time) = [("gte:", ">="), ("gt:", ">"), ("lte:", "<="), ("lt:", "<")]
                    .into_iter()
                    .find_map(|(word, sign)| Some((sign, part.strip_prefix(word)?)))
                    .unwrap_or(("=", part));
                let time = Timestamp::parse(time).ok_or_else(wrong)?;
                bounds.push(Bound {
                    column,
                    operator,
                    time,
                });
            }
        }
        Ok(bounds)
    }

    fn order(&self) -> Result<Vec<Sort>> {
        let mut order: Vec<Sort> = Vec::new();
        for part in self.last("sort").unwrap_or_default().split(',') {
            if part.is_empty() {
                continue;
            }
            let (name, way) = part.split_once(':').unwrap_or((part, "asc"));
            let known = SORTS.iter().find(|(known, _)| *known == name);
            let (Some((_, column)), "asc" | "desc") = (known, way) else {
                return Err(wrong());
            };
            if order.iter().any(|sort| sort.column == *column) {
                return Err(wrong());
            }
            order.push(Sort {
                column,
                descending: way == "desc",
            });
        }
        Ok(order)
    }
}

fn wrong() -> Fault {
    Fault::bad("URI provided invalid query string parameters.")
}
