//! The OpenAPI document and its viewer. `server.docs` turns both off.

use std::io::{Cursor, Read as _};
use std::sync::{Arc, LazyLock};

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue};
use bytes::Bytes;
use zip::ZipArchive;

use crate::error::{Error, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;

/// Returns the routes of the document and the viewer.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/openapi.json", read_document).public().undocumented(),
        HostRoute::get("/docs", read_viewer).public().undocumented(),
        HostRoute::get("/docs/{file}", read_viewer_file).public().undocumented().path::<String>("file"),
    ]
}

async fn read_document(host: Arc<Host>, _: Call) -> Result<Reply> {
    let document = host.openapi.document(|| host.plugins.generation()).await?;
    Ok(Reply::new(StatusCode::OK, "application/json", document))
}

/// Swagger UI. Its files are part of the binary, so that the page loads nothing from another site.
const VIEWER: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/viewer.js"></script>
</body>
</html>
"##;

/// A file of its own, so that the policy can forbid scripts in the page.
const VIEWER_SCRIPT: &str = r##"SwaggerUIBundle({
  url: "/api/v1/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
});
"##;

/// The page shows texts of plugins, and keeps the token that its user enters. Swagger UI removes scripts from the texts;
/// the policy is a second border.
const VIEWER_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

async fn read_viewer(_: Arc<Host>, _: Call) -> Result<Reply> {
    Ok(Reply::html(VIEWER).with_header(CONTENT_SECURITY_POLICY, VIEWER_POLICY))
}

/// The files of Swagger UI that the page requests, with their types.
const VIEWER_FILES: [(&str, &str); 3] = [
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
];

/// The bytes of these files, unpacked at the first request for one of them: about 1.7 MB.
static UNPACKED: LazyLock<Result<Vec<Bytes>, String>> = LazyLock::new(unpack);

async fn read_viewer_file(_: Arc<Host>, call: Call) -> Result<Reply> {
    let file: String = call.path("file")?;
    if file == "viewer.js" {
        return Ok(Reply::new(StatusCode::OK, "text/javascript; charset=utf-8", VIEWER_SCRIPT));
    }
    let unreadable =
        |error: &String| Error::internal("the archive of the viewer cannot be read").with_internal(error.clone());
    let files = UNPACKED.as_ref().map_err(unreadable)?;
    let found = VIEWER_FILES.iter().zip(files).find(|((name, _), _)| *name == file);
    let ((_, content_type), bytes) = found.ok_or_else(|| Error::not_found(code::ROUTE_NOT_FOUND, "Not Found"))?;
    let mut reply = Reply::new(StatusCode::OK, content_type, bytes.clone());
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    Ok(reply)
}

fn unpack() -> Result<Vec<Bytes>, String> {
    let archive = Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED);
    let mut archive = ZipArchive::new(archive).map_err(|error| error.to_string())?;
    // The archive's only directory is named after the version.
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let mut files = Vec::new();
    for (name, _) in VIEWER_FILES {
        let path = names.iter().find(|path| path.ends_with(&format!("/dist/{name}")));
        let path = path.ok_or_else(|| format!("it has no {name}"))?;
        let mut bytes = Vec::new();
        let mut entry = archive.by_name(path).map_err(|error| error.to_string())?;
        entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        files.push(bytes.into());
    }
    Ok(files)
}
