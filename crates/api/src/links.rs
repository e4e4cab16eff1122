//! Links in answers: they follow the URL the client used (host, version, project).

use serde::Serialize;
use std::fmt::Write;

/// Where links of one request begin.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// `http://host:port`.
    pub origin: String,
    /// `v2.1` or `v2`.
    pub version: &'static str,
    /// The project, when the request's URL named it.
    pub project: Option<String>,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Where to.
    pub href: String,
    /// What it is.
    pub rel: &'static str,
}

impl Links {
    /// The link that carries the version.
    pub fn own(&self, path: &str) -> String {
        let mut url = String::with_capacity(self.origin.len() + path.len() + 48);
        let _ = write!(url, "{}/{}", self.origin, self.version);
        self.finish(url, path)
    }

    /// The link that stays across versions.
    pub fn bookmark(&self, path: &str) -> String {
        let mut url = String::with_capacity(self.origin.len() + path.len() + 40);
        url.push_str(&self.origin);
        self.finish(url, path)
    }

    fn finish(&self, mut url: String, path: &str) -> String {
        if let Some(project) = &self.project {
            url.push('/');
            url.push_str(project);
        }
        url.push_str(path);
        url
    }

    /// `self` and `bookmark` of a resource, for example `/servers/{id}`.
    pub fn pair(&self, collection: &str, id: &str) -> [Link; 2] {
        let path = format!("/{collection}/{id}");
        [
            Link {
                href: self.own(&path),
                rel: "self",
            },
            Link {
                href: self.bookmark(&path),
                rel: "bookmark",
            },
        ]
    }

    /// Only the bookmark of a resource.
    pub fn bookmark_only(&self, collection: &str, id: &str) -> [Link; 1] {
        [Link {
            href: self.bookmark(&format!("/{collection}/{id}")),
            rel: "bookmark",
        }]
    }

    /// The link to the next page: the query as it was, keys sorted, with the last item as marker.
    pub fn next(&self, path: &str, query: &[(String, String)], marker: &str) -> [Link; 1] {
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(query.len() + 1);
        let mut seen = false;
        for (key, value) in query {
            if key == "marker" {
                if !seen {
                    pairs.push(("marker", marker));
                }
                seen = true;
            } else {
                pairs.push((key, value));
            }
        }
        pairs.sort_by(|a, b| a.0.cmp(b.0));
        if !seen {
            pairs.push(("marker", marker));
        }
        let text = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        [Link {
            href: format!("{}?{text}", self.own(path)),
            rel: "next",
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_the_request() {
        let links = Links {
            origin: "http://c:8774".into(),
            version: "v2.1",
            project: Some("p1".into()),
        };
        let [own, bookmark] = links.pair("servers", "x");
        assert_eq!(own.href, "http://c:8774/v2.1/p1/servers/x");
        assert_eq!(bookmark.href, "http://c:8774/p1/servers/x");
        let plain = Links {
            project: None,
            ..links
        };
        let query = [
            ("sort_key".to_owned(), "a b".to_owned()),
            ("limit".to_owned(), "2".to_owned()),
        ];
        assert_eq!(
            plain.next("/servers", &query, "m")[0].href,
            "http://c:8774/v2.1/servers?limit=2&sort_key=a+b&marker=m"
        );
        let again = [
            ("sort_key".to_owned(), "a".to_owned()),
            ("marker".to_owned(), "old".to_owned()),
        ];
        assert_eq!(
            plain.next("/servers", &again, "m")[0].href,
            "http://c:8774/v2.1/servers?marker=m&sort_key=a"
        );
    }
}
