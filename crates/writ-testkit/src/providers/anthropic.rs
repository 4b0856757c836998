//! Anthropic: messages, with a call of Claude Code's shell where the prompt asks for one ([`Turn`]).
//!
//! What Claude Code asks besides (`/api/hello`, `/api/claude_code/…`, `/api/event_logging/…`) is answered 404, as by any server
//! that does not know it; it takes no harm.
//!
//! Shapes: docs.anthropic.com/en/api/messages, /en/api/errors and /en/docs/build-with-claude/streaming.

use http::{Method, Response};
use serde_json::{Value, json};

use super::turn::Turn;
use super::{WORDS, is_json};
use crate::answer::{self, Asked, Body, Fields};
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
        return answer::events(&context.shared, events(model, &turn(&body)), asked.event_interval);
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

/// The name of Claude Code's shell tool.
const SHELL_TOOL: &str = "Bash";

fn turn(body: &Fields) -> Turn {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is = |value: &Value, name: &str, text: &str| value.get(name).and_then(Value::as_str) == Some(text);
    let messages = list(body.at("messages"));
    let blocks: Vec<Value> = messages.iter().filter_map(|m| m.get("content")).flat_map(list).collect();
    let results: Vec<&Value> = blocks
        .iter()
        .filter(|block| is(block, "type", "tool_result"))
        .filter_map(|block| block.get("content"))
        .collect();
    let has_shell = list(body.at("tools")).iter().any(|tool| is(tool, "name", SHELL_TOOL));
    Turn::next(body.at("messages"), &results, has_shell)
}

fn events(model: &str, turn: &Turn) -> Vec<String> {
    let event = |data: Value| {
        format!("event: {}\ndata: {data}\n\n", data.get("type").and_then(Value::as_str).unwrap_or_default())
    };
    let (block, deltas, stop) = match turn {
        Turn::Says(words) => {
            let delta = |word: &String| json!({"type": "text_delta", "text": word});
            (json!({"type": "text", "text": ""}), words.iter().map(delta).collect(), "end_turn")
        }
        Turn::Shell { command } => {
            let input = json!({"command": command, "description": "as the prompt says"}).to_string();
            let block = json!({"type": "tool_use", "id": "toolu_standin", "name": SHELL_TOOL, "input": {}});
            (block, vec![json!({"type": "input_json_delta", "partial_json": input})], "tool_use")
        }
    };
    let mut events = vec![
        event(json!({"type": "message_start", "message": message(model, &[], &Value::Null, 1)})),
        event(json!({"type": "content_block_start", "index": 0, "content_block": block})),
        event(json!({"type": "ping"})),
    ];
    let delta = |delta: Value| event(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    events.extend(deltas.into_iter().map(delta));
    let stop = json!({"stop_reason": stop, "stop_sequence": null});
    events.push(event(json!({"type": "content_block_stop", "index": 0})));
    events.push(event(json!({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 5}})));
    events.push(event(json!({"type": "message_stop"})));
    events
}
