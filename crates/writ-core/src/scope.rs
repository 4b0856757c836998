//! The scope of a lease: which requests it may be used for.
//!
//! A decision yields a scope once; the proxy enforces it on every request without asking again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Authority, CanonicalPath, PathPattern, Refusal, RefusalKind, quote::quoted};

/// Methods that never carry a credential: TRACE reflects it, and so does TRACK where it is known; CONNECT hides what it is used
/// for. In any case of letters: methods are case-sensitive (RFC 9110 §9.1), but not to every server.
const NEVER: [&str; 3] = ["TRACE", "TRACK", "CONNECT"];

/// One line of permission: some methods on some paths. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub methods: Vec<String>,
    pub paths: Vec<PathPattern>,
}

/// The requests that a lease covers: one authority, and the grants at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub authority: Authority,
    pub grants: Vec<Grant>,
}

impl Grant {
    fn covers(&self, method: &str, path: &CanonicalPath) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|one| one == method))
            && (self.paths.is_empty() || self.paths.iter().any(|one| one.matches(path)))
    }
}

impl Scope {
    /// Whether one request is within the scope.
    ///
    /// # Errors
    /// [`RefusalKind::OutOfScope`] with the grants that there are.
    pub fn check(&self, method: &str, path: &CanonicalPath) -> Result<(), Refusal> {
        let never = NEVER.iter().any(|one| one.eq_ignore_ascii_case(method));
        if !never && self.grants.iter().any(|grant| grant.covers(method, path)) {
            return Ok(());
        }
        let detail = format!(
            "{} {} at {} is not in the scope of this lease, which is {self}",
            quoted(method),
            quoted(path.as_str()),
            self.authority
        );
        let next =
            if never { "use another method" } else { "ask the operator to add it to the role's grants" };
        Err(Refusal::new(RefusalKind::OutOfScope, detail, next))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = if self.methods.is_empty() { "any method".to_owned() } else { self.methods.join("|") };
        let paths: Vec<&str> = self.paths.iter().map(PathPattern::as_str).collect();
        let paths = if paths.is_empty() { "/*".to_owned() } else { paths.join(" ") };
        write!(f, "{methods} {paths}")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.grants.is_empty() {
            f.write_str("empty")?;
        }
        for (index, grant) in self.grants.iter().enumerate() {
            write!(f, "{}{grant}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope() {
        let grant = |methods: &[&str], paths: &[&str]| Grant {
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            paths: paths.iter().map(|p| p.parse().unwrap()).collect(),
        };
        let authority = || "api.example".parse().unwrap();
        let scope = Scope {
            authority: authority(),
            grants: vec![grant(&["POST"], &["/v1/*"]), grant(&["GET"], &["/v1/models"])],
        };
        let check = |method: &str, path: &str| {
            scope.check(method, &CanonicalPath::parse(path, false).unwrap()).is_ok()
        };
        assert!(check("POST", "/v1/chat") && check("GET", "/v1/models"));
        assert!(!check("GET", "/v1/chat") && !check("post", "/v1/chat") && !check("POST", "/v2/chat"));
        let all = Scope { authority: authority(), grants: vec![Grant::default()] };
        let path = CanonicalPath::parse("/", false).unwrap();
        assert!(all.check("DELETE", &path).is_ok());
        for never in ["TRACE", "trace", "TRACK", "Track", "CONNECT", "cOnnect"] {
            assert!(all.check(never, &path).is_err(), "{never}");
        }
        let none = Scope { authority: authority(), grants: vec![] };
        assert!(none.check("GET", &path).unwrap_err().detail.ends_with("which is empty"));
        let long = CanonicalPath::parse(&format!("/{}", "x".repeat(8000)), false).unwrap();
        assert!(none.check(&"M".repeat(60_000), &long).unwrap_err().detail.len() < 1000);
    }
}
