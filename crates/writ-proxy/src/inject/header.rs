//! A header of the service's own, such as `x-api-key`.

use http::{HeaderName, request::Parts};
use writ_core::{InjectFault, Injector, Place, Rendered, Secret};

use super::{renderable, sensitive, single, swap};

/// Puts the credential into a named header: in the placeholder's stead where it stands (`token PLACEHOLDER`), over the whole value
/// where it does not.
#[derive(Debug)]
pub struct Header;

fn name(place: &Place) -> Option<HeaderName> {
    match place {
        Place::Header { name } => HeaderName::from_bytes(name.as_bytes()).ok(),
        _ => None,
    }
}

impl Injector for Header {
    fn kind(&self) -> &'static str {
        "header"
    }

    fn render(&self, place: &Place, secret: &Secret) -> Result<Rendered, InjectFault> {
        let header = name(place).ok_or(InjectFault::Unrenderable)?;
        let bytes = secret.expose();
        if !renderable(bytes) {
            return Err(InjectFault::Unrenderable);
        }
        Ok(Rendered {
            header: header.as_str().to_owned(),
            value: Secret::new(bytes.to_vec()),
            forms: vec![Secret::new(bytes.to_vec())],
        })
    }

    fn finds(&self, place: &Place, parts: &Parts, placeholder: &str) -> bool {
        name(place)
            .and_then(|name| parts.headers.get(name))
            .is_some_and(|value| memchr::memmem::find(value.as_bytes(), placeholder.as_bytes()).is_some())
    }

    fn inject(
        &self,
        place: &Place,
        parts: &mut Parts,
        rendered: &Rendered,
        placeholder: &str,
    ) -> Result<(), InjectFault> {
        let name = name(place).ok_or(InjectFault::Unrenderable)?;
        let secret = rendered.value.expose();
        let swapped = single(parts, &name)?
            .filter(|value| value.len() > placeholder.len())
            .and_then(|value| swap(value.as_bytes(), placeholder, secret));
        let value = match swapped {
            Some(whole) => sensitive(&whole)?,
            None => sensitive(secret)?,
        };
        parts.headers.insert(name, value);
        Ok(())
    }
}
