//! The providers that a stand-in can be, chosen by host.
//!
//! Each file answers in the shapes that the vendor's own SDK parses, and refuses what the vendor refuses: an
//! unknown path falls through to the generic endpoints, a wrong key gets the vendor's own error.

mod anthropic;
mod forges;
mod gemini;
mod openai;
mod turn;

use http::Response;
use http::header::WWW_AUTHENTICATE;
use serde_json::json;

use crate::answer::{self, Asked, Body};
use crate::demand::Presented;
use crate::serve::Context;

/// What every model says, one event for each element where it streams.
const WORDS: [&str; 5] = ["Hello", " from", " the", " stand-in", "."];
/// `created` of every answer, seconds since 1970; fixed, so that answers can be compared.
const CREATED: u64 = 1_700_000_000;

/// The provider's answer, or `None` where its API has no such endpoint.
pub(crate) fn answer(context: &Context, asked: &Asked) -> Option<Response<Body>> {
    match asked.host.as_str() {
        "api.openai.com" => openai::answer(context, asked),
        "api.anthropic.com" => anthropic::answer(context, asked),
        "generativelanguage.googleapis.com" => gemini::answer(context, asked),
        "api.github.com" => forges::github(asked),
        "gitlab.com" => forges::gitlab(asked),
        _ => None,
    }
}

/// 401 as the vendor of `host` writes it.
pub(crate) fn unauthorized(host: &str, presented: Presented) -> Response<Body> {
    match host {
        "api.openai.com" => openai::unauthorized(presented),
        "api.anthropic.com" => anthropic::unauthorized(),
        "generativelanguage.googleapis.com" => gemini::unauthorized(),
        "api.github.com" => forges::github_unauthorized(presented),
        "gitlab.com" => forges::gitlab_unauthorized(),
        _ => {
            let mut response = answer::json(401, &json!({"error": {"message": "wrong or missing key"}}));
            response.headers_mut().insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            response
        }
    }
}

/// Whether `asked` carries JSON, as its headers say and as it parses.
fn is_json(asked: &Asked) -> bool {
    let media_type = asked.parts.headers.get(http::header::CONTENT_TYPE);
    let says_so = media_type.and_then(|v| v.to_str().ok()).is_some_and(|v| v.starts_with("application/json"));
    says_so && asked.json().is_object()
}
