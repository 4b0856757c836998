//! Gemini: generateContent and streamGenerateContent.
//!
//! Shapes: ai.google.dev/api/generate-content; errors as google.rpc.Status in JSON.

use http::{Method, Response};
use serde_json::{Value, json};

use super::{WORDS, is_json};
use crate::answer::{self, Asked, Body};
use crate::serve::Context;

pub(super) fn answer(context: &Context, asked: &Asked) -> Option<Response<Body>> {
    // google-genai 3 speaks v1, its predecessors and most of the documentation v1beta.
    let path = asked.parts.uri.path();
    let call = path.strip_prefix("/v1beta/models/").or_else(|| path.strip_prefix("/v1/models/"))?;
    let (model, verb) = call.split_once(':')?;
    if asked.parts.method != Method::POST {
        return None;
    }
    match verb {
        "generateContent" | "streamGenerateContent"
            if !asked.json().at("contents").is_array() || !is_json(asked) =>
        {
            Some(error(400, "INVALID_ARGUMENT", "contents is not specified"))
        }
        "generateContent" => Some(answer::json(200, &content(model, &WORDS.concat(), true))),
        "streamGenerateContent" if asked.param("alt") == Some("sse") => {
            let last = WORDS.len() - 1;
            let event =
                |(n, word): (usize, &&str)| format!("data: {}\r\n\r\n", content(model, word, n == last));
            let events = WORDS.iter().enumerate().map(event).collect();
            Some(answer::events(&context.shared, events, asked.event_interval))
        }
        "streamGenerateContent" => {
            Some(error(400, "INVALID_ARGUMENT", "the stand-in streams only with alt=sse"))
        }
        _ => None,
    }
}

pub(super) fn unauthorized() -> Response<Body> {
    error(401, "UNAUTHENTICATED", "API key not valid. Please pass a valid API key.")
}

fn error(code: u16, status: &str, message: &str) -> Response<Body> {
    answer::json(code, &json!({"error": {"code": code, "message": message, "status": status}}))
}

fn content(model: &str, text: &str, last: bool) -> Value {
    let mut candidate = json!({"content": {"parts": [{"text": text}], "role": "model"}, "index": 0});
    if let (true, Some(fields)) = (last, candidate.as_object_mut()) {
        fields.insert("finishReason".to_owned(), json!("STOP"));
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14},
        "modelVersion": model, "responseId": "standin",
    })
}
