//! Requests by `wasi:http`, as a component that knows nothing of Wharf sends them.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;
use wharf_sdk::serde_json::{Value, json};

use crate::requests::Fetching;

pub(crate) fn fetch(fetching: &Fetching) -> Result<Value, String> {
    read(answer(&send(fetching)?)?)
}

/// Answers that come at once and that nobody reads.
pub(crate) fn hoard_answers(fetching: &Fetching) -> Result<usize, String> {
    let pending = (0..fetching.times.unwrap_or(1)).map(|_| send(fetching)).collect::<Result<Vec<_>, _>>()?;
    let answers = pending.iter().map(answer).collect::<Result<Vec<_>, _>>()?;
    Ok(answers.len())
}

/// As many requests, each with a method of so many bytes.
pub(crate) fn hoard_methods(count: usize, bytes: usize) -> usize {
    let method = Method::Other("A".repeat(bytes));
    let request = |_| {
        let request = OutgoingRequest::new(Fields::new());
        request.set_method(&method).unwrap();
        request
    };
    (0..count).map(request).collect::<Vec<_>>().len()
}

/// As many fields, each with so many bytes, where as many were before.
pub(crate) fn hoard_fields(count: usize, bytes: usize) -> usize {
    drop((0..count.min(100)).map(|_| Fields::new()).collect::<Vec<_>>());
    let fields = |_| {
        let fields = Fields::new();
        fields.append("x", &vec![b'x'; bytes]).unwrap();
        fields
    };
    (0..count).map(fields).collect::<Vec<_>>().len()
}

/// Writes all of it at once.
pub(crate) fn print(bytes: &[u8]) -> Result<(), StreamError> {
    wasip2::cli::stdout::get_stdout().write(bytes)
}

/// How many fields there are behind a handle of this number. If it is to be its own, as many as that are made, and left.
#[allow(unsafe_code, reason = "a handle that nobody gave it is what is tested")]
pub(crate) fn use_handle(number: u32, own: bool) -> usize {
    if own {
        (0..number).map(|_| Fields::new()).for_each(std::mem::forget);
    }
    // SAFETY: the host knows what its handles are.
    let fields = unsafe { Fields::from_handle(number) };
    fields.entries().len()
}

/// As many fields, each with names only.
pub(crate) fn hoard_small_fields(count: usize) -> usize {
    let names: Vec<(String, Vec<u8>)> = (0..200).map(|name| (format!("x{name}"), Vec::new())).collect();
    (0..count).map(|_| Fields::from_list(&names).unwrap()).collect::<Vec<_>>().len()
}

fn send(fetching: &Fetching) -> Result<FutureIncomingResponse, String> {
    let told = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let headers = Fields::new();
    for (name, value) in &fetching.headers {
        headers.append(name, value.as_bytes()).map_err(|error| told(&error))?;
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
    let answer = outgoing_handler::handle(request, Some(options)).map_err(|error| told(&error))?;
    let stream = body.write().map_err(refused)?;
    for piece in fetching.body.as_bytes().chunks(4096) {
        if stream.blocking_write_and_flush(piece).is_err() {
            // Why is told by the answer.
            break;
        }
    }
    drop(stream);
    // An error here is told by the answer too.
    let _ = OutgoingBody::finish(body, None);
    Ok(answer)
}

fn answer(pending: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    pending.subscribe().block();
    pending.get().unwrap().unwrap().map_err(|error| format!("{error:?}"))
}

fn read(answer: IncomingResponse) -> Result<Value, String> {
    let headers = answer.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap()));
    let told = json!({ "status": answer.status(), "headers": headers.collect::<Vec<_>>() });
    let body = answer.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut whole = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(bytes) => whole.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    let mut told = told;
    told["body"] = String::from_utf8_lossy(&whole).into();
    Ok(told)
}
