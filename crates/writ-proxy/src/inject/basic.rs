//! `Authorization: Basic …` with a declared user and the credential as password (RFC 7617), as git over HTTPS wants it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{header::AUTHORIZATION, request::Parts};
use writ_core::{InjectFault, Injector, Place, Rendered, Secret};

use super::{renderable, sensitive, single};
use crate::placeholder;

/// Puts `user:credential` into the `Authorization` header. Where the agent's placeholder stands inside its own Basic, the whole
/// value is replaced: user and password belong together.
#[derive(Debug)]
pub struct Basic;

impl Injector for Basic {
    fn kind(&self) -> &'static str {
        "basic"
    }

    fn render(&self, place: &Place, secret: &Secret) -> Result<Rendered, InjectFault> {
        let (Place::Basic { user }, password) = (place, secret.expose()) else {
            return Err(InjectFault::Unrenderable);
        };
        if !renderable(password) || user.contains(':') {
            return Err(InjectFault::Unrenderable);
        }
        let pair = zeroize::Zeroizing::new([user.as_bytes(), b":", password].concat());
        let encoded = zeroize::Zeroizing::new(STANDARD.encode(&*pair));
        Ok(Rendered {
            header: AUTHORIZATION.as_str().to_owned(),
            value: Secret::new([b"Basic ", encoded.as_bytes()].concat()),
            forms: vec![Secret::new(password.to_vec()), Secret::new(encoded.as_bytes().to_vec())],
        })
    }

    fn finds(&self, _: &Place, parts: &Parts, placeholder: &str) -> bool {
        let plain = parts.headers.get(AUTHORIZATION).and_then(placeholder::basic);
        plain.is_some_and(|plain| memchr::memmem::find(&plain, placeholder.as_bytes()).is_some())
    }

    fn inject(&self, _: &Place, parts: &mut Parts, rendered: &Rendered, _: &str) -> Result<(), InjectFault> {
        single(parts, &AUTHORIZATION)?;
        parts.headers.insert(AUTHORIZATION, sensitive(rendered.value.expose())?);
        Ok(())
    }
}
