//! Inject: placeholder out, credential in, at one declared place.
//!
//! The place is where the agent put its placeholder; without one, the first declared place whose paths fit. At every other declared
//! place the header is removed, so that the credential stands in the request exactly once. A placeholder that stands anywhere else
//! has refused the request before ([`route`](crate::route)).
//!
//! One implementation of [`Injector`] is one file here and one line in [`INJECTORS`]; the conformance test below runs for each.

mod basic;
mod bearer;
mod header;
mod placeholder;

use http::{HeaderName, header::AUTHORIZATION, header::InvalidHeaderName, request::Parts};
use writ_core::{InjectFault, Injector, Place, RefusalKind};

use crate::{lease::Lease, refuse::Refused, route::Target};

/// Every way to put a credential on the wire.
pub const INJECTORS: &[&dyn Injector] =
    &[&bearer::Bearer, &header::Header, &basic::Basic, &placeholder::Swap];

/// The injector of a place.
pub(crate) fn injector(place: &Place) -> Option<&'static dyn Injector> {
    let kind = match place {
        Place::Bearer => "bearer",
        Place::Header { .. } => "header",
        Place::Basic { .. } => "basic",
        Place::Placeholder => "placeholder",
    };
    INJECTORS.iter().copied().find(|injector| injector.kind() == kind)
}

/// The header that a place is in, where it is known beforehand.
pub(crate) fn header(place: &Place) -> Result<Option<HeaderName>, InvalidHeaderName> {
    match place {
        Place::Bearer | Place::Basic { .. } => Ok(Some(AUTHORIZATION)),
        Place::Header { name } => HeaderName::from_bytes(name.as_bytes()).map(Some),
        Place::Placeholder => Ok(None),
    }
}

/// Puts the credential of the lease into the request.
pub(crate) fn inject(target: &Target, lease: &Lease, parts: &mut Parts) -> Result<(), Refused> {
    if target.route.plan.credential.is_none() {
        return Ok(());
    }
    let places = target.route.places.iter().zip(&lease.rendered);
    let placeholder = target.placeholder.as_deref();
    let chosen = match placeholder {
        Some(text) => {
            places.clone().find(|(declared, _)| declared.injector.finds(&declared.place, parts, text))
        }
        None => None,
    };
    let fits = |paths: &[writ_core::PathPattern]| {
        paths.is_empty() || paths.iter().any(|one| one.matches(&target.path))
    };
    let chosen = chosen.or_else(|| places.clone().find(|(declared, _)| fits(&declared.paths)));
    let Some((declared, rendered)) = chosen else {
        let detail =
            format!("target {} declares no place for a credential at this path", target.route.plan.target);
        return Err(Refused::new(
            RefusalKind::OutOfScope,
            detail,
            "ask the operator to declare one with `inject`",
        ));
    };
    let text = placeholder.unwrap_or_default();
    declared.injector.inject(&declared.place, parts, rendered, text).map_err(|fault| refused(&fault))?;
    for other in &target.route.places {
        if let Some(name) = other.header.as_ref().filter(|name| declared.header.as_ref() != Some(name)) {
            parts.headers.remove(name);
        }
    }
    Ok(())
}

fn refused(fault: &InjectFault) -> Refused {
    let kind = match fault {
        InjectFault::Duplicate(_) => RefusalKind::Ambiguous,
        InjectFault::NoPlaceholder => RefusalKind::Denied,
        InjectFault::Unrenderable => RefusalKind::NoCredential,
    };
    let next = match fault {
        InjectFault::Duplicate(_) => "send the header once",
        InjectFault::NoPlaceholder => "put the placeholder from the environment where the key would stand",
        InjectFault::Unrenderable => "ask the operator to set the credential again, without line breaks",
    };
    Refused::new(kind, fault.to_string(), next)
}

/// The header, if the request has it at most once.
fn single<'p>(parts: &'p Parts, name: &HeaderName) -> Result<Option<&'p http::HeaderValue>, InjectFault> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(InjectFault::Duplicate(name.to_string())) } else { Ok(first) }
}

/// A header value that no log prints.
fn sensitive(bytes: &[u8]) -> Result<http::HeaderValue, InjectFault> {
    let mut value = http::HeaderValue::from_bytes(bytes).map_err(|_| InjectFault::Unrenderable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a credential can stand in a header: visible ASCII (RFC 9110 §5.5 allows more than servers agree on).
fn renderable(secret: &[u8]) -> bool {
    !secret.is_empty()
        && secret.iter().all(|byte| (0x20..0x7f).contains(byte))
        && secret.trim_ascii().len() == secret.len()
}

/// Replaces every occurrence of `placeholder`. `None`: there is none.
fn swap(text: &[u8], placeholder: &str, secret: &[u8]) -> Option<Vec<u8>> {
    let finder = memchr::memmem::Finder::new(placeholder.as_bytes());
    let mut swapped = Vec::with_capacity(text.len() + secret.len());
    let mut sent = 0;
    for at in finder.find_iter(text).filter(|_| !placeholder.is_empty()) {
        swapped.extend_from_slice(text.get(sent..at)?);
        swapped.extend_from_slice(secret);
        sent = at + placeholder.len();
    }
    swapped.extend_from_slice(text.get(sent..)?);
    (sent > 0).then_some(swapped)
}

#[cfg(test)]
mod tests;
