//! A client of a stream of events, which reads it block by block.

use serde_json::Value;

use super::client::Request;
use super::patience::PATIENCE;

/// An open stream.
pub(crate) struct EventSource {
    response: reqwest::Response,
    unread: String,
}

/// A block of a stream: an event, or a comment, which has no data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block {
    pub(crate) id: Option<i64>,
    pub(crate) kind: Option<String>,
    pub(crate) data: Option<Value>,
}

impl EventSource {
    /// Opens a stream, which must succeed.
    pub(crate) async fn open(request: Request) -> Self {
        let response = request.open().await;
        assert_eq!(response.status(), 200, "{}", response.url());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, unread: String::new() }
    }

    /// Returns the next block, or `None` at the end of the stream.
    pub(crate) async fn block(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (Block::read(block), rest.to_owned());
                self.unread = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream is silent");
            let Some(chunk) = chunk.unwrap() else {
                assert_eq!(self.unread, "", "the stream ended within a block");
                return None;
            };
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the next event, or `None` at the end of the stream. Skips comments.
    pub(crate) async fn event(&mut self) -> Option<Block> {
        loop {
            let block = self.block().await?;
            if block.data.is_some() {
                return Some(block);
            }
        }
    }

    /// Returns the topic and the payload of the next event.
    pub(crate) async fn message(&mut self) -> (String, Value) {
        let data = self.event().await.expect("the stream ended").data.unwrap();
        (data["topic"].as_str().unwrap().to_owned(), data["payload"].clone())
    }

    /// Waits for the end of the stream.
    pub(crate) async fn ended(mut self) {
        while self.block().await.is_some() {}
    }
}

impl Block {
    fn read(text: &str) -> Self {
        let mut block = Self { id: None, kind: None, data: None };
        for line in text.lines().filter(|line| !line.starts_with(':')) {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a field: {line}"));
            match name {
                "id" => block.id = Some(value.parse().unwrap()),
                "event" => block.kind = Some(value.to_owned()),
                "data" if block.data.is_none() => block.data = Some(serde_json::from_str(value).unwrap()),
                _ => panic!("an unexpected field: {line}"),
            }
        }
        block
    }
}
