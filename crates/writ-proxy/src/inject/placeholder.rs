//! Wherever the agent put its placeholder: in any one header's value, or inside Basic.
//!
//! For services of which nothing is known. Without a placeholder nothing is injected, and the request is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, header::AUTHORIZATION, request::Parts};
use writ_core::{InjectFault, Injector, Place, Rendered, Secret};

use super::{renderable, sensitive, single, swap};
use crate::placeholder;

/// Swaps the placeholder for the credential where it stands.
#[derive(Debug)]
pub struct Swap;

impl Injector for Swap {
    fn kind(&self) -> &'static str {
        "placeholder"
    }

    fn render(&self, _: &Place, secret: &Secret) -> Result<Rendered, InjectFault> {
        let bytes = secret.expose();
        if !renderable(bytes) {
            return Err(InjectFault::Unrenderable);
        }
        let copy = || Secret::new(bytes.to_vec());
        Ok(Rendered { header: String::new(), value: copy(), forms: vec![copy()] })
    }

    fn finds(&self, _: &Place, parts: &Parts, placeholder: &str) -> bool {
        place_of(parts, placeholder).is_some()
    }

    fn inject(
        &self,
        _: &Place,
        parts: &mut Parts,
        rendered: &Rendered,
        placeholder: &str,
    ) -> Result<(), InjectFault> {
        let name = place_of(parts, placeholder).ok_or(InjectFault::NoPlaceholder)?;
        let value = single(parts, &name)?.ok_or(InjectFault::NoPlaceholder)?;
        let whole =
            swapped(&name, value, placeholder, rendered.value.expose()).ok_or(InjectFault::NoPlaceholder)?;
        let value = sensitive(&whole)?;
        parts.headers.insert(name, value);
        Ok(())
    }
}

fn place_of(parts: &Parts, placeholder: &str) -> Option<HeaderName> {
    let holds = |name: &HeaderName, value: &HeaderValue| swapped(name, value, placeholder, b"").is_some();
    parts.headers.iter().find(|(name, value)| holds(name, value)).map(|(name, _)| name.clone())
}

fn swapped(name: &HeaderName, value: &HeaderValue, placeholder: &str, secret: &[u8]) -> Option<Vec<u8>> {
    if let Some(whole) = swap(value.as_bytes(), placeholder, secret) {
        return Some(whole);
    }
    let plain = (name == AUTHORIZATION).then(|| placeholder::basic(value)).flatten()?;
    let plain = zeroize::Zeroizing::new(swap(&plain, placeholder, secret)?);
    Some([b"Basic ", STANDARD.encode(&*plain).as_bytes()].concat())
}
