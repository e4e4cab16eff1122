//! The door of the desks at which agents of other machines are served: each speaks for the host that its certificate
//! names, and for no other.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use web::tls::PeerHost;

/// A desk to which only proven hosts come.
pub(crate) fn guarded(router: Router) -> Router {
    router.layer(middleware::from_fn(own_host))
}

async fn own_host(request: Request, next: Next) -> Response {
    let proven = request.extensions().get::<PeerHost>();
    let Some(proven) = proven.map(|PeerHost(name)| name.to_string()) else {
        return refused("the certificate names no host");
    };
    if named(request.uri().path()).is_none_or(|named| named != proven) {
        return refused(&format!("{proven} speaks for itself only"));
    }
    next.run(request).await
}

fn refused(why: &str) -> Response {
    (StatusCode::FORBIDDEN, why.to_owned()).into_response()
}

/// The host in the path of an agent's request.
fn named(path: &str) -> Option<String> {
    let rest = path
        .strip_prefix("/agent/")
        .or_else(|| path.strip_prefix("/v2.0/agent/hosts/"))?;
    let host = rest.split('/').next()?;
    percent_encoding::percent_decode_str(host)
        .decode_utf8()
        .ok()
        .map(|host| host.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_hosts() {
        for (path, host) in [
            ("/agent/h1/poll", Some("h1")),
            ("/agent/h1/images/x", Some("h1")),
            ("/agent/h%31/poll", Some("h1")),
            ("/v2.0/agent/hosts/h1/wanted", Some("h1")),
            ("/v2.0/agent/ports", None),
            ("/other/h1", None),
            ("/agent/%ff/poll", None),
        ] {
            assert_eq!(named(path).as_deref(), host, "{path}");
        }
    }
}
