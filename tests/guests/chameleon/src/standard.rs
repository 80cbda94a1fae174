//! Requests with `wasi:http`, as a component that knows nothing of Wharf sends them.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;
use wharf_sdk::serde_json::{Value, json};

use crate::requests::Fetching;

pub(crate) fn fetch(fetching: &Fetching) -> Result<Value, String> {
    read(wait_for_response(&send(fetching)?)?)
}

/// Gets several responses at the same time and reads none.
pub(crate) fn hoard_responses(fetching: &Fetching) -> Result<usize, String> {
    let pending = (0..fetching.times.unwrap_or(1)).map(|_| send(fetching)).collect::<Result<Vec<_>, _>>()?;
    let responses = pending.iter().map(wait_for_response).collect::<Result<Vec<_>, _>>()?;
    Ok(responses.len())
}

/// Creates `count` requests, each with a method of `bytes` bytes.
pub(crate) fn hoard_methods(count: usize, bytes: usize) -> usize {
    let method = Method::Other("A".repeat(bytes));
    let request = |_| {
        let request = OutgoingRequest::new(Fields::new());
        request.set_method(&method).unwrap();
        request
    };
    (0..count).map(request).collect::<Vec<_>>().len()
}

/// Creates `count` sets of headers of `bytes` bytes each, after the same number (at most 100) was created and dropped.
pub(crate) fn hoard_fields(count: usize, bytes: usize) -> usize {
    drop((0..count.min(100)).map(|_| Fields::new()).collect::<Vec<_>>());
    let fields = |_| {
        let fields = Fields::new();
        fields.append("x", &vec![b'x'; bytes]).unwrap();
        fields
    };
    (0..count).map(fields).collect::<Vec<_>>().len()
}

/// Prints all bytes in one write.
pub(crate) fn print(bytes: &[u8]) -> Result<(), StreamError> {
    wasip2::cli::stdout::get_stdout().write(bytes)
}

/// Counts the headers behind the handle with a number. With `own`, this guest has created that many handles before.
#[allow(unsafe_code, reason = "the test is about a handle that the host never gave")]
pub(crate) fn use_handle(number: u32, own: bool) -> usize {
    if own {
        (0..number).map(|_| Fields::new()).for_each(std::mem::forget);
    }
    // SAFETY: the host checks every handle.
    let fields = unsafe { Fields::from_handle(number) };
    fields.entries().len()
}

/// Creates `count` sets of headers, each with 200 names without values.
pub(crate) fn hoard_small_fields(count: usize) -> usize {
    let names: Vec<(String, Vec<u8>)> = (0..200).map(|name| (format!("x{name}"), Vec::new())).collect();
    (0..count).map(|_| Fields::from_list(&names).unwrap()).collect::<Vec<_>>().len()
}

fn send(fetching: &Fetching) -> Result<FutureIncomingResponse, String> {
    let text = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let headers = Fields::new();
    for (name, value) in &fetching.headers {
        headers.append(name, value.as_bytes()).map_err(|error| text(&error))?;
    }
    let (scheme, rest) = fetching.url.split_once("://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(headers);
    let method = fetching.method.clone().unwrap_or_else(|| "GET".to_owned());
    let refused = |()| "refused".to_owned();
    request.set_method(&Method::Other(method)).map_err(refused)?;
    request
        .set_scheme(Some(&match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => Scheme::Other(other.to_owned()),
        }))
        .map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    let options = RequestOptions::new();
    let nanos = fetching.timeout_ms.map(|millis| millis * 1_000_000);
    options.set_first_byte_timeout(nanos).map_err(refused)?;
    options.set_between_bytes_timeout(nanos).map_err(refused)?;
    let body = request.body().map_err(refused)?;
    let response = outgoing_handler::handle(request, Some(options)).map_err(|error| text(&error))?;
    let stream = body.write().map_err(refused)?;
    for piece in fetching.body.as_bytes().chunks(4096) {
        if stream.blocking_write_and_flush(piece).is_err() {
            // The response reports the reason.
            break;
        }
    }
    drop(stream);
    // The response reports an error of this call as well.
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn wait_for_response(pending: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    pending.subscribe().block();
    pending.get().unwrap().unwrap().map_err(|error| format!("{error:?}"))
}

fn read(response: IncomingResponse) -> Result<Value, String> {
    let headers = response.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap()));
    let mut result = json!({ "status": response.status(), "headers": headers.collect::<Vec<_>>() });
    let body = response.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut whole = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(bytes) => whole.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    result["body"] = String::from_utf8_lossy(&whole).into();
    Ok(result)
}
