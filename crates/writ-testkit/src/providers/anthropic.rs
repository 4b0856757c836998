//! Anthropic: messages.
//!
//! Shapes: docs.anthropic.com/en/api/messages, /en/api/errors and /en/docs/build-with-claude/streaming.

use http::{Method, Response};
use serde_json::{Value, json};

use super::{WORDS, is_json};
use crate::answer::{self, Asked, Body};
use crate::serve::Context;

pub(super) fn answer(context: &Context, asked: &Asked) -> Option<Response<Body>> {
    match (&asked.parts.method, asked.parts.uri.path()) {
        (&Method::POST, "/v1/messages") => Some(messages(context, asked)),
        _ => None,
    }
}

pub(super) fn unauthorized() -> Response<Body> {
    error(401, "authentication_error", "invalid x-api-key")
}

fn error(status: u16, kind: &str, message: &str) -> Response<Body> {
    let body =
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_standin"});
    let mut response = answer::json(status, &body);
    response.headers_mut().insert("request-id", http::HeaderValue::from_static("req_standin"));
    response
}

fn messages(context: &Context, asked: &Asked) -> Response<Body> {
    if !asked.parts.headers.contains_key("anthropic-version") {
        return error(400, "invalid_request_error", "anthropic-version: header is required");
    }
    let body = asked.json();
    let complete = body.at("messages").is_array() && body.at("max_tokens").is_u64() && is_json(asked);
    let (Some(model), true) = (body.at("model").as_str(), complete) else {
        return error(400, "invalid_request_error", "model, max_tokens and messages are required");
    };
    if body.at("stream") == &json!(true) {
        return answer::events(&context.shared, events(model), asked.event_interval);
    }
    let content = vec![json!({"type": "text", "text": WORDS.concat()})];
    answer::json(200, &message(model, &content, &json!("end_turn"), 5))
}

fn message(model: &str, content: &[Value], stop: &Value, tokens: u64) -> Value {
    json!({
        "id": "msg_standin", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": stop, "stop_sequence": null,
        "usage": {"input_tokens": 9, "output_tokens": tokens,
                  "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    })
}

fn events(model: &str) -> Vec<String> {
    let event = |data: Value| {
        format!("event: {}\ndata: {data}\n\n", data.get("type").and_then(Value::as_str).unwrap_or_default())
    };
    let mut events = vec![
        event(json!({"type": "message_start", "message": message(model, &[], &Value::Null, 1)})),
        event(
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        event(json!({"type": "ping"})),
    ];
    let delta = |word: &&str| {
        let delta = json!({"type": "text_delta", "text": *word});
        event(json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    };
    events.extend(WORDS.iter().map(delta));
    let stop = json!({"stop_reason": "end_turn", "stop_sequence": null});
    events.push(event(json!({"type": "content_block_stop", "index": 0})));
    events.push(event(json!({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 5}})));
    events.push(event(json!({"type": "message_stop"})));
    events
}
