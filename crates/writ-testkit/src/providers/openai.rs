//! OpenAI: chat completions, responses, models; responses with a call of Codex's shell where the prompt asks for one ([`Turn`]).
//!
//! No WebSocket: a request to upgrade is answered 404 like any other unknown one, and a test that counts requests sees it.
//!
//! Shapes: platform.openai.com/docs/api-reference (chat, responses, models, streaming).

use http::{Method, Response};
use serde_json::{Value, json};

use super::turn::Turn;
use super::{CREATED, WORDS, is_json};
use crate::answer::{self, Asked, Body, Fields};
use crate::demand::Presented;
use crate::serve::Context;

/// Tokens of every answer.
const USAGE: (u64, u64) = (9, 5);

pub(super) fn answer(context: &Context, asked: &Asked) -> Option<Response<Body>> {
    match (&asked.parts.method, asked.parts.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => Some(chat(context, asked)),
        (&Method::POST, "/v1/responses") => Some(responses(context, asked)),
        (&Method::GET, "/v1/models") => Some(models()),
        _ => None,
    }
}

pub(super) fn unauthorized(presented: Presented) -> Response<Body> {
    let message = match presented {
        Presented::Nothing => "You didn't provide an API key.",
        _ => "Incorrect API key provided.",
    };
    error(401, message, "invalid_api_key")
}

fn error(status: u16, message: &str, code: &str) -> Response<Body> {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    answer::json(status, &json!({"error": error}))
}

fn chat(context: &Context, asked: &Asked) -> Response<Body> {
    let body = asked.json();
    let (Some(model), true, true) =
        (body.at("model").as_str(), body.at("messages").is_array(), is_json(asked))
    else {
        return error(400, "model and messages are required", "invalid_body");
    };
    if body.at("stream") == &json!(true) {
        return answer::events(&context.shared, chat_events(model), asked.event_interval);
    }
    let message = json!({"role": "assistant", "content": WORDS.concat(), "refusal": null});
    let answered = json!({
        "id": "chatcmpl-standin", "object": "chat.completion", "created": CREATED, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": USAGE.0, "completion_tokens": USAGE.1, "total_tokens": USAGE.0 + USAGE.1},
    });
    answer::json(200, &answered)
}

fn chat_events(model: &str) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        let chunk = json!({
            "id": "chatcmpl-standin", "object": "chat.completion.chunk", "created": CREATED, "model": model,
            "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(WORDS.iter().map(|word| chunk(json!({"content": word}), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn responses(context: &Context, asked: &Asked) -> Response<Body> {
    let body = asked.json();
    let (Some(model), false, true) = (body.at("model").as_str(), body.at("input").is_null(), is_json(asked))
    else {
        return error(400, "model and input are required", "invalid_body");
    };
    if body.at("stream") == &json!(true) {
        let events = match turn(&body) {
            Turn::Says(words) => response_events(model, &words),
            Turn::Shell { command } => call_events(model, &command),
        };
        return answer::events(&context.shared, events, asked.event_interval);
    }
    answer::json(200, &response(model, "completed", &[message("completed", &WORDS.concat())]))
}

fn response(model: &str, status: &str, output: &[Value]) -> Value {
    let usage = json!({
        "input_tokens": USAGE.0, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": USAGE.1, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": USAGE.0 + USAGE.1,
    });
    let done = status == "completed";
    json!({
        "id": "resp_standin", "object": "response", "created_at": CREATED, "status": status, "error": null,
        "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": model,
        "output": output, "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null}, "store": true, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "usage": if done { usage } else { Value::Null }, "user": null, "metadata": {},
    })
}

fn message(status: &str, text: &str) -> Value {
    let part = json!({"type": "output_text", "text": text, "annotations": []});
    let content = if status == "completed" { vec![part] } else { Vec::new() };
    json!({"id": "msg_standin", "type": "message", "role": "assistant", "status": status, "content": content})
}

/// The name of Codex's shell tool, for models that it has no other tools for.
const SHELL_TOOL: &str = "exec_command";

fn turn(body: &Fields) -> Turn {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is = |value: &Value, name: &str, text: &str| value.get(name).and_then(Value::as_str) == Some(text);
    let items = list(body.at("input"));
    let results: Vec<&Value> = items
        .iter()
        .filter(|item| is(item, "type", "function_call_output"))
        .filter_map(|item| item.get("output"))
        .collect();
    let has_shell = list(body.at("tools")).iter().any(|tool| is(tool, "name", SHELL_TOOL));
    Turn::next(body.at("input"), &results, has_shell)
}

fn call_events(model: &str, command: &str) -> Vec<String> {
    let arguments = json!({"cmd": command}).to_string();
    let call = |status: &str, arguments: &str| {
        json!({
            "id": "fc_standin", "type": "function_call", "call_id": "call_standin", "name": SHELL_TOOL,
            "status": status, "arguments": arguments,
        })
    };
    let of_call = |name: &str, value: &str| {
        merged(&json!({"item_id": "fc_standin", "output_index": 0}), json!({name: value}))
    };
    let done = call("completed", &arguments);
    numbered(vec![
        ("response.created", json!({"response": response(model, "in_progress", &[])})),
        ("response.output_item.added", json!({"output_index": 0, "item": call("in_progress", "")})),
        ("response.function_call_arguments.delta", of_call("delta", &arguments)),
        ("response.function_call_arguments.done", of_call("arguments", &arguments)),
        ("response.output_item.done", json!({"output_index": 0, "item": done})),
        ("response.completed", json!({"response": response(model, "completed", &[done])})),
    ])
}

fn response_events(model: &str, words: &[String]) -> Vec<String> {
    let whole = words.concat();
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let of_part = json!({"item_id": "msg_standin", "output_index": 0, "content_index": 0});
    let with = |extra: Value| merged(&of_part, extra);
    let mut events = vec![
        ("response.created", json!({"response": response(model, "in_progress", &[])})),
        ("response.in_progress", json!({"response": response(model, "in_progress", &[])})),
        ("response.output_item.added", json!({"output_index": 0, "item": message("in_progress", "")})),
        ("response.content_part.added", with(json!({"part": part("")}))),
    ];
    let delta = |word: &String| ("response.output_text.delta", with(json!({"delta": word, "logprobs": []})));
    events.extend(words.iter().map(delta));
    events.extend([
        ("response.output_text.done", with(json!({"text": whole, "logprobs": []}))),
        ("response.content_part.done", with(json!({"part": part(&whole)}))),
        ("response.output_item.done", json!({"output_index": 0, "item": message("completed", &whole)})),
        (
            "response.completed",
            json!({"response": response(model, "completed", &[message("completed", &whole)])}),
        ),
    ]);
    numbered(events)
}

fn numbered(events: Vec<(&str, Value)>) -> Vec<String> {
    let event = |(number, (kind, data)): (usize, (&str, Value))| {
        let data = merged(&json!({"type": kind, "sequence_number": number}), data);
        format!("event: {kind}\ndata: {data}\n\n")
    };
    events.into_iter().enumerate().map(event).collect()
}

fn merged(base: &Value, extra: Value) -> Value {
    let mut out = base.as_object().cloned().unwrap_or_default();
    if let Value::Object(extra) = extra {
        out.extend(extra);
    }
    Value::Object(out)
}

fn models() -> Response<Body> {
    let model = |id: &str| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "standin"});
    answer::json(200, &json!({"object": "list", "data": [model("gpt-standin"), model("gpt-standin-mini")]}))
}
