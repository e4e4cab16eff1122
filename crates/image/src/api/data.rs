//! The data of images.

use super::{allowed, header_text};
use crate::access::Access;
use crate::fault::Fault;
use crate::model::{Image, Status};
use crate::service::{Service, wrong_status};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Bytes that are read from the store at once.
const PIECE: usize = 256 * 1024;

/// The media type must be `application/octet-stream`; answers the bytes that the client says it sends.
pub(super) fn announced(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let kind = header_text(headers, header::CONTENT_TYPE).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/octet-stream") {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Invalid content type {kind}"),
        ));
    }
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .map_err(|_| Fault::bad_request("Invalid or missing image size in request headers."))
    };
    let length = header_text(headers, header::CONTENT_LENGTH)
        .map(number)
        .transpose()?;
    let said = header_text(headers, "x-openstack-image-size")
        .map(number)
        .transpose()?;
    Ok(said.or(length))
}

/// `PUT /v2/images/{id}/file`
pub(super) async fn upload(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Fault> {
    let announced = announced(&headers)?;
    let image = allowed(&service, &id, &access, "upload_image").await?;
    if image.status != Status::Queued {
        return Err(wrong_status(image.status, Status::Saving));
    }
    service.upload(image, body, announced).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/images/{id}/file`
pub(super) async fn download(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let image = allowed(&service, &id, &access, "download_image").await?;
    if image.status == Status::Deactivated && !access.is_admin() {
        return Err(Fault::forbidden(
            "The requested image has been deactivated. Image data download is forbidden.",
        ));
    }
    let (true, Some(size)) = (image.has_data(), image.size) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let range = match header_text(&headers, header::RANGE) {
        Some(text) => range(text, size).map_err(|()| {
            Fault::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("Invalid range header: {text}"),
            )
            .with_header(header::CONTENT_RANGE, format!("bytes */{size}"))
        })?,
        None => None,
    };
    send(&service, &image, size, range).await
}

async fn send(
    service: &Service,
    image: &Image,
    size: u64,
    range: Option<(u64, u64)>,
) -> Result<Response, Fault> {
    let mut file = tokio::fs::File::open(service.inner.folder.path(&image.id))
        .await
        .map_err(|error| {
            Fault::internal(&format!(
                "the data of image {} cannot be opened: {error}",
                image.id
            ))
        })?;
    let (start, length) = range.map_or((0, size), |(start, end)| (start, end - start + 1));
    file.seek(SeekFrom::Start(start))
        .await
        .map_err(|error| Fault::internal(&error))?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(checksum) = image
        .checksum
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        headers.insert("content-md5", checksum);
    }
    if let Some((start, end)) = range {
        let content = format!("bytes {start}-{end}/{size}");
        headers.insert(
            header::CONTENT_RANGE,
            HeaderValue::from_str(&content).map_err(|error| Fault::internal(&error))?,
        );
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The first and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n` (RFC 9110 section 14). Other units and several
/// ranges are ignored: the whole is sent.
fn range(text: &str, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(ranges) = text.trim().strip_prefix("bytes=") else {
        return Ok(None);
    };
    if ranges.contains(',') {
        return Ok(None);
    }
    let (first, last) = ranges.trim().split_once('-').ok_or(())?;
    if first.is_empty() {
        let count: u64 = last.parse().map_err(|_| ())?;
        return if count == 0 || size == 0 {
            Err(())
        } else {
            Ok(Some((size.saturating_sub(count), size - 1)))
        };
    }
    let first: u64 = first.parse().map_err(|_| ())?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        last.parse().map_err(|_| ())?
    };
    if first >= size || last < first {
        return Err(());
    }
    Ok(Some((first, last.min(size - 1))))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges() {
        let cases = [
            ("bytes=0-4", 10, Ok(Some((0, 4)))),
            ("bytes=5-", 10, Ok(Some((5, 9)))),
            ("bytes=5-100", 10, Ok(Some((5, 9)))),
            ("bytes=-3", 10, Ok(Some((7, 9)))),
            ("bytes=-30", 10, Ok(Some((0, 9)))),
            ("bytes=10-", 10, Err(())),
            ("bytes=4-2", 10, Err(())),
            ("bytes=-0", 10, Err(())),
            ("bytes=x-2", 10, Err(())),
            ("bytes=0-0", 0, Err(())),
            ("bytes=0-1,3-4", 10, Ok(None)),
            ("lines=1-2", 10, Ok(None)),
        ];
        for (text, size, wanted) in cases {
            assert_eq!(range(text, size), wanted, "{text} of {size}");
        }
    }
}
