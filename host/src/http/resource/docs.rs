//! The OpenAPI document and its viewer. `server.docs` turns both off.

use std::io::{Cursor, Read as _};
use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
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
    let document = host.openapi.document(&host.plugins.generation())?;
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
<script>
SwaggerUIBundle({
  url: "/api/v1/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
});
</script>
</body>
</html>
"##;

async fn read_viewer(_: Arc<Host>, _: Call) -> Result<Reply> {
    Ok(Reply::html(VIEWER))
}

/// The files that the viewer's page requests, with their types.
const VIEWER_FILES: [(&str, &str); 3] = [
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
];

/// The same files, unpacked at the first request for one of them: about 1.7 MB.
static UNPACKED: OnceLock<[Bytes; VIEWER_FILES.len()]> = OnceLock::new();

async fn read_viewer_file(_: Arc<Host>, call: Call) -> Result<Reply> {
    let file: String = call.path("file")?;
    let at = VIEWER_FILES.iter().position(|(name, _)| *name == file);
    let at = at.ok_or_else(|| Error::not_found(code::ROUTE_NOT_FOUND, "Not Found"))?;
    let found = viewer_files()?.get(at).zip(VIEWER_FILES.get(at));
    let (bytes, (_, content_type)) = found.ok_or_else(|| Error::internal("the viewer has fewer files than names"))?;
    let mut reply = Reply::new(StatusCode::OK, content_type, bytes.clone());
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    Ok(reply)
}

fn viewer_files() -> Result<&'static [Bytes; VIEWER_FILES.len()]> {
    if let Some(files) = UNPACKED.get() {
        return Ok(files);
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::internal("the archive of the viewer cannot be read").with_internal(error.to_string())
    };
    let archive = Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED);
    let mut archive = ZipArchive::new(archive).map_err(|error| unreadable(&error))?;
    // The archive's only directory is named after the version.
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let mut files = <[Bytes; VIEWER_FILES.len()]>::default();
    for (unpacked, (name, _)) in files.iter_mut().zip(VIEWER_FILES) {
        let path = names.iter().find(|path| path.ends_with(&format!("/dist/{name}")));
        let path = path.ok_or_else(|| unreadable(&format!("it has no {name}")))?;
        let mut bytes = Vec::new();
        let mut entry = archive.by_name(path).map_err(|error| unreadable(&error))?;
        entry.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        *unpacked = bytes.into();
    }
    Ok(UNPACKED.get_or_init(|| files))
}
