//! `Authorization: Bearer …` (RFC 6750 §2.1).

use http::{header::AUTHORIZATION, request::Parts};
use writ_core::{InjectFault, Injector, Place, Rendered, Secret};

use super::{renderable, sensitive, single};

/// Puts the credential into the `Authorization` header as a bearer token.
#[derive(Debug)]
pub struct Bearer;

const SCHEME: &[u8] = b"bearer ";

impl Injector for Bearer {
    fn kind(&self) -> &'static str {
        "bearer"
    }

    fn render(&self, _: &Place, secret: &Secret) -> Result<Rendered, InjectFault> {
        let token = secret.expose();
        if !renderable(token) {
            return Err(InjectFault::Unrenderable);
        }
        Ok(Rendered {
            header: AUTHORIZATION.as_str().to_owned(),
            value: Secret::new([b"Bearer ", token].concat()),
            forms: vec![Secret::new(token.to_vec())],
        })
    }

    fn finds(&self, _: &Place, parts: &Parts, placeholder: &str) -> bool {
        parts.headers.get(AUTHORIZATION).is_some_and(|value| {
            value.as_bytes().split_at_checked(SCHEME.len()).is_some_and(|(scheme, token)| {
                scheme.eq_ignore_ascii_case(SCHEME) && token.trim_ascii() == placeholder.as_bytes()
            })
        })
    }

    fn inject(&self, _: &Place, parts: &mut Parts, rendered: &Rendered, _: &str) -> Result<(), InjectFault> {
        single(parts, &AUTHORIZATION)?;
        parts.headers.insert(AUTHORIZATION, sensitive(rendered.value.expose())?);
        Ok(())
    }
}
