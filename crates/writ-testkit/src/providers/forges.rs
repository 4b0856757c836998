//! GitHub's and GitLab's REST APIs: who am I.
//!
//! Shapes: docs.github.com/rest/users/users and docs.gitlab.com/api/users.

use http::{Method, Response};
use serde_json::json;

use crate::answer::{self, Asked, Body};
use crate::demand::Presented;

pub(super) fn github(asked: &Asked) -> Option<Response<Body>> {
    let path = (&asked.parts.method, asked.parts.uri.path());
    (path == (&Method::GET, "/user")).then(|| {
        let user =
            json!({"login": "standin", "id": 1, "node_id": "U_standin", "type": "User", "site_admin": false});
        answer::json(200, &user)
    })
}

pub(super) fn github_unauthorized(presented: Presented) -> Response<Body> {
    let message = if presented == Presented::Nothing { "Requires authentication" } else { "Bad credentials" };
    let body =
        json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": "401"});
    answer::json(401, &body)
}

pub(super) fn gitlab(asked: &Asked) -> Option<Response<Body>> {
    let path = (&asked.parts.method, asked.parts.uri.path());
    (path == (&Method::GET, "/api/v4/user")).then(|| {
        answer::json(200, &json!({"id": 1, "username": "standin", "name": "Stand-in", "state": "active"}))
    })
}

pub(super) fn gitlab_unauthorized() -> Response<Body> {
    answer::json(401, &json!({"message": "401 Unauthorized"}))
}
