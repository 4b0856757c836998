//! The conformance test of every entry in the registry, and the choice between places.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use writ_core::Secret;

use super::*;

const PLACEHOLDER: &str = "sk-writ0123456789abcdef";
const SECRET: &[u8] = b"sk-real-0123456789";

fn example(injector: &dyn Injector) -> (Place, &'static str, String) {
    match injector.kind() {
        "bearer" => (Place::Bearer, "authorization", format!("Bearer {PLACEHOLDER}")),
        "header" => (Place::Header { name: "X-Api-Key".into() }, "x-api-key", PLACEHOLDER.into()),
        "basic" => {
            let pair = STANDARD.encode(format!("any:{PLACEHOLDER}"));
            (Place::Basic { user: "x-access-token".into() }, "authorization", format!("Basic {pair}"))
        }
        "placeholder" => (Place::Placeholder, "x-token", format!("token {PLACEHOLDER}")),
        other => panic!("give {other} an example"),
    }
}

fn parts(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("/a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn every_injector_conforms() {
    for one in INJECTORS {
        let kind = one.kind();
        let (place, header, value) = example(*one);
        assert_eq!(injector(&place).unwrap().kind(), kind, "{kind} is found by its place");
        let rendered = one.render(&place, &Secret::new(SECRET.to_vec())).unwrap();
        assert!(!format!("{rendered:?}").contains("real"), "{kind} shows nothing");
        assert!(
            rendered.forms.iter().any(|form| form.expose() == SECRET),
            "{kind} lists the credential itself"
        );
        let mut request = parts(&[(header, &value)]);
        assert!(one.finds(&place, &request, PLACEHOLDER), "{kind} finds the placeholder");
        one.inject(&place, &mut request, &rendered, PLACEHOLDER).unwrap();
        assert!(!one.finds(&place, &request, PLACEHOLDER), "{kind} leaves none behind");
        let values: Vec<_> = request.headers.get_all(header).iter().collect();
        assert_eq!(values.len(), 1, "{kind} injects exactly once");
        assert!(values[0].is_sensitive(), "{kind} marks it");
        let sent = values[0].as_bytes();
        let plain = placeholder_or(sent);
        assert!(memchr::memmem::find(&plain, SECRET).is_some(), "{kind} puts it on the wire");
        let mut twice = parts(&[(header, &value), (header, &value)]);
        assert!(
            matches!(one.inject(&place, &mut twice, &rendered, PLACEHOLDER), Err(InjectFault::Duplicate(_))),
            "{kind}"
        );
        for bad in [&b"a\r\nb: c"[..], b"", b" a", "é".as_bytes()] {
            let fault = one.render(&place, &Secret::new(bad.to_vec())).unwrap_err();
            assert_eq!(fault, InjectFault::Unrenderable, "{kind} {bad:?}");
        }
    }
}

fn placeholder_or(sent: &[u8]) -> Vec<u8> {
    let value = http::HeaderValue::from_bytes(sent).unwrap();
    crate::placeholder::basic(&value).unwrap_or_else(|| sent.to_vec())
}

#[test]
fn a_swap_needs_its_placeholder() {
    let rendered = placeholder::Swap.render(&Place::Placeholder, &Secret::new(SECRET.to_vec())).unwrap();
    let mut request = parts(&[("authorization", "Bearer own")]);
    let fault = placeholder::Swap.inject(&Place::Placeholder, &mut request, &rendered, PLACEHOLDER);
    assert_eq!(fault, Err(InjectFault::NoPlaceholder));
}

#[test]
fn a_swap_keeps_the_rest_of_the_value() {
    let place = Place::Header { name: "authorization".into() };
    let rendered = header::Header.render(&place, &Secret::new(SECRET.to_vec())).unwrap();
    let mut request = parts(&[("authorization", &format!("token {PLACEHOLDER}"))]);
    header::Header.inject(&place, &mut request, &rendered, PLACEHOLDER).unwrap();
    assert_eq!(request.headers["authorization"], "token sk-real-0123456789");
    let mut own = parts(&[("authorization", "token mine")]);
    header::Header.inject(&place, &mut own, &rendered, PLACEHOLDER).unwrap();
    assert_eq!(
        own.headers["authorization"], "sk-real-0123456789",
        "over the header where no placeholder stands"
    );
}
