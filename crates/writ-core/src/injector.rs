//! Injectors: how a credential is put on the wire.
//!
//! An injector is pure. What depends on the credential is rendered once per lease; per request the header is overwritten, at
//! the declared places only. The rendered forms are also what the scrubber looks for in the answer.

use http::request::Parts;
use serde::{Deserialize, Serialize};

use crate::{PathPattern, Secret};

/// A declared place for a credential in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Place {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    Bearer,
    /// A header of the service's own.
    Header { name: String },
    /// `Authorization: Basic …` with this user and the credential as password (RFC 7617).
    Basic { user: String },
    /// Wherever the placeholder stands in a header value or in Basic, and nowhere else: without it the request is refused.
    Placeholder,
}

/// A place, and the paths at which it is the default. No paths means all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    pub place: Place,
    pub paths: Vec<PathPattern>,
}

/// A place with the credential in it, made once per lease.
#[derive(Debug)]
pub struct Rendered {
    /// The header's name, lower case; empty for [`Place::Placeholder`].
    pub header: String,
    /// The header's whole value.
    pub value: Secret,
    /// Every form of the credential that can now appear on the wire: what the scrubber must find.
    pub forms: Vec<Secret>,
}

/// Why a credential was not put into a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectFault {
    /// The credential cannot stand in a header (RFC 9110 §5.5).
    #[error("the credential has bytes that a header cannot carry")]
    Unrenderable,
    /// The agent sent no placeholder, and this place needs one.
    #[error("the request carries no placeholder where the target expects one")]
    NoPlaceholder,
    /// The header occurs more than once.
    #[error("the request has the header {0} more than once")]
    Duplicate(String),
}

/// Renders and injects at one kind of place. One implementation is one file of `writ-proxy`.
pub trait Injector: Send + Sync {
    /// The `kind` in the configuration.
    fn kind(&self) -> &'static str;

    /// Renders the credential for a place, once per lease.
    ///
    /// # Errors
    /// [`InjectFault::Unrenderable`].
    fn render(&self, place: &Place, secret: &Secret) -> Result<Rendered, InjectFault>;

    /// Whether the request carries `placeholder` at this place.
    fn finds(&self, place: &Place, parts: &Parts, placeholder: &str) -> bool;

    /// Puts the credential into the request: in the placeholder's stead where it stands, over the header where not.
    ///
    /// # Errors
    /// [`InjectFault::NoPlaceholder`], [`InjectFault::Duplicate`]; the request must not leave then.
    fn inject(
        &self,
        place: &Place,
        parts: &mut Parts,
        rendered: &Rendered,
        placeholder: &str,
    ) -> Result<(), InjectFault>;
}
