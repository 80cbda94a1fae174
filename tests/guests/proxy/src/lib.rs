//! The greeting of the hello plugin as a component of the world `wasi:http/proxy`, for `wasmtime serve`.

// It has no use outside the sandbox.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, unsafe_code, reason = "a guest of the benchmark; the exports are generated")]

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

impl Guest for Hello {
    fn handle(_request: IncomingRequest, response: ResponseOutparam) {
        let headers = Fields::new();
        let _ = headers.append("content-type", b"application/json");
        let outgoing = OutgoingResponse::new(headers);
        let body = outgoing.body();
        ResponseOutparam::set(response, Ok(outgoing));
        let Ok(body) = body else { return };
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(br#"{"message":"Hello"}"#);
        }
        let _ = OutgoingBody::finish(body, None);
    }
}
