//! The OpenAPI document and its viewer. `server.docs` turns both off.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

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

async fn read_viewer_file(_: Arc<Host>, call: Call) -> Result<Reply> {
    let file: String = call.path("file")?;
    let missing = || Error::not_found(code::ROUTE_NOT_FOUND, "Not Found");
    let config = Arc::new(utoipa_swagger_ui::Config::from("/api/v1/openapi.json"));
    let found = utoipa_swagger_ui::serve(&file, config)
        .map_err(|error| Error::internal("a file of the API viewer cannot be read").with_internal(error))?
        .ok_or_else(missing)?;
    let mut reply = Reply::html(found.bytes.into_owned());
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_str(&found.content_type).map_err(Error::internal)?);
    if found.gzpipped {
        reply.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    Ok(reply)
}
