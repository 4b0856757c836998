//! Every encoding, against texts that other software (Python's standard library, mostly) made of one secret.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::encode::{Form, MAX_GROWTH};
use crate::needles::{MIN_NEEDLE_LEN, NeedleSource, Needles};

/// Has a character for each habit of each encoder, and both odd characters of base64 at each alignment.
const SECRET: &str = r#"sk/Q+z&7<x>"y'\=`*~@ é???~~~k"#;

const ROWS: &[(Form, &str, &str)] = &[
    (Form::Literal, "", r#"sk/Q+z&7<x>"y'\=`*~@ é???~~~k"#),
    (Form::Base64, "0 before", r"c2svUSt6Jjc8eD4ieSdcPWAqfkAgw6k/Pz9+fn5r"),
    (Form::Base64, "1 before", r"NrL1EreiY3PHg+InknXD1gKn5AIMOpPz8/fn5+a"),
    (Form::Base64, "2 before", r"zay9RK3omNzx4PiJ5J1w9YCp+QCDDqT8/P35+fm"),
    (Form::Base64Url, "0 before", r"c2svUSt6Jjc8eD4ieSdcPWAqfkAgw6k_Pz9-fn5r"),
    (Form::Base64Url, "1 before", r"NrL1EreiY3PHg-InknXD1gKn5AIMOpPz8_fn5-a"),
    (Form::Base64Url, "2 before", r"zay9RK3omNzx4PiJ5J1w9YCp-QCDDqT8_P35-fm"),
    (
        Form::PercentReserved,
        "RFC 3986, upper",
        r"sk%2FQ%2Bz%267%3Cx%3E%22y%27%5C%3D%60%2A~%40%20%C3%A9%3F%3F%3F~~~k",
    ),
    (
        Form::PercentReserved,
        "RFC 3986, lower",
        r"sk%2fQ%2bz%267%3cx%3e%22y%27%5c%3d%60%2a~%40%20%c3%a9%3f%3f%3f~~~k",
    ),
    (
        Form::PercentReserved,
        "quote_plus, upper",
        r"sk%2FQ%2Bz%267%3Cx%3E%22y%27%5C%3D%60%2A~%40+%C3%A9%3F%3F%3F~~~k",
    ),
    (
        Form::PercentReserved,
        "quote_plus, lower",
        r"sk%2fQ%2bz%267%3cx%3e%22y%27%5c%3d%60%2a~%40+%c3%a9%3f%3f%3f~~~k",
    ),
    (
        Form::PercentReserved,
        "Python quote, upper",
        r"sk/Q%2Bz%267%3Cx%3E%22y%27%5C%3D%60%2A~%40%20%C3%A9%3F%3F%3F~~~k",
    ),
    (
        Form::PercentReserved,
        "Python quote, lower",
        r"sk/Q%2bz%267%3cx%3e%22y%27%5c%3d%60%2a~%40%20%c3%a9%3f%3f%3f~~~k",
    ),
    (
        Form::PercentReserved,
        "encodeURIComponent, upper",
        r"sk%2FQ%2Bz%267%3Cx%3E%22y'%5C%3D%60*~%40%20%C3%A9%3F%3F%3F~~~k",
    ),
    (
        Form::PercentReserved,
        "encodeURIComponent, lower",
        r"sk%2fQ%2bz%267%3cx%3e%22y'%5c%3d%60*~%40%20%c3%a9%3f%3f%3f~~~k",
    ),
    (Form::PercentReserved, "encodeURI, upper", r"sk/Q+z&7%3Cx%3E%22y'%5C=%60*~@%20%C3%A9???~~~k"),
    (Form::PercentReserved, "encodeURI, lower", r"sk/Q+z&7%3cx%3e%22y'%5c=%60*~@%20%c3%a9???~~~k"),
    (
        Form::PercentReserved,
        "PathEscape, upper",
        r"sk%2FQ+z&7%3Cx%3E%22y%27%5C=%60%2A~@%20%C3%A9%3F%3F%3F~~~k",
    ),
    (
        Form::PercentReserved,
        "PathEscape, lower",
        r"sk%2fQ+z&7%3cx%3e%22y%27%5c=%60%2a~@%20%c3%a9%3f%3f%3f~~~k",
    ),
    (
        Form::PercentReserved,
        "form, upper",
        r"sk%2FQ%2Bz%267%3Cx%3E%22y%27%5C%3D%60*%7E%40+%C3%A9%3F%3F%3F%7E%7E%7Ek",
    ),
    (
        Form::PercentReserved,
        "form, lower",
        r"sk%2fQ%2bz%267%3cx%3e%22y%27%5c%3d%60*%7e%40+%c3%a9%3f%3f%3f%7e%7e%7ek",
    ),
    (
        Form::PercentReserved,
        "urlencode, upper",
        r"sk%2FQ%2Bz%267%3Cx%3E%22y%27%5C%3D%60%2A%7E%40+%C3%A9%3F%3F%3F%7E%7E%7Ek",
    ),
    (
        Form::PercentReserved,
        "urlencode, lower",
        r"sk%2fQ%2bz%267%3cx%3e%22y%27%5c%3d%60%2a%7e%40+%c3%a9%3f%3f%3f%7e%7e%7ek",
    ),
    (
        Form::PercentAll,
        "upper",
        r"%73%6B%2F%51%2B%7A%26%37%3C%78%3E%22%79%27%5C%3D%60%2A%7E%40%20%C3%A9%3F%3F%3F%7E%7E%7E%6B",
    ),
    (
        Form::PercentAll,
        "lower",
        r"%73%6b%2f%51%2b%7a%26%37%3c%78%3e%22%79%27%5c%3d%60%2a%7e%40%20%c3%a9%3f%3f%3f%7e%7e%7e%6b",
    ),
    (Form::JsonString, "plain", r#"sk/Q+z&7<x>\"y'\\=`*~@ é???~~~k"#),
    (Form::JsonString, "ASCII, lower", r#"sk/Q+z&7<x>\"y'\\=`*~@ \u00e9???~~~k"#),
    (Form::JsonString, "ASCII, upper", r#"sk/Q+z&7<x>\"y'\\=`*~@ \u00E9???~~~k"#),
    (Form::JsonString, "slash", r#"sk\/Q+z&7<x>\"y'\\=`*~@ é???~~~k"#),
    (Form::JsonString, "slash, ASCII", r#"sk\/Q+z&7<x>\"y'\\=`*~@ \u00e9???~~~k"#),
    (Form::JsonString, "Go", r#"sk/Q+z\u00267\u003cx\u003e\"y'\\=`*~@ é???~~~k"#),
    (Form::JsonString, "Rails upper", r#"sk/Q+z\u00267\u003Cx\u003E\"y'\\=`*~@ é???~~~k"#),
    (Form::JsonString, ".NET", r"sk/Q\u002Bz\u00267\u003Cx\u003E\u0022y\u0027\\=\u0060*~@ \u00E9???~~~k"),
    (
        Form::JsonUnicode,
        "lower",
        r"\u0073\u006b\u002f\u0051\u002b\u007a\u0026\u0037\u003c\u0078\u003e\u0022\u0079\u0027\u005c\u003d\u0060\u002a\u007e\u0040\u0020\u00e9\u003f\u003f\u003f\u007e\u007e\u007e\u006b",
    ),
    (
        Form::JsonUnicode,
        "upper",
        r"\u0073\u006B\u002F\u0051\u002B\u007A\u0026\u0037\u003C\u0078\u003E\u0022\u0079\u0027\u005C\u003D\u0060\u002A\u007E\u0040\u0020\u00E9\u003F\u003F\u003F\u007E\u007E\u007E\u006B",
    ),
    (Form::HtmlNamed, "text", r#"sk/Q+z&amp;7&lt;x&gt;"y'\=`*~@ é???~~~k"#),
    (Form::HtmlNamed, "attribute", r"sk/Q+z&amp;7&lt;x&gt;&quot;y'\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "Python", r"sk/Q+z&amp;7&lt;x&gt;&quot;y&#x27;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "Go", r"sk/Q+z&amp;7&lt;x&gt;&#34;y&#39;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "Rails", r"sk/Q+z&amp;7&lt;x&gt;&quot;y&#39;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "PHP", r"sk/Q+z&amp;7&lt;x&gt;&quot;y&#039;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "XML", r"sk/Q+z&amp;7&lt;x&gt;&quot;y&apos;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "Go template", r"sk/Q&#43;z&amp;7&lt;x&gt;&#34;y&#39;\=`*~@ é???~~~k"),
    (Form::HtmlNamed, "Mustache", r"sk&#x2F;Q+z&amp;7&lt;x&gt;&quot;y&#39;\&#x3D;&#x60;*~@ é???~~~k"),
    (Form::HtmlNumeric, "reserved, decimal", r"sk/Q+z&#38;7&#60;x&#62;&#34;y&#39;\=`*~@ é???~~~k"),
    (
        Form::HtmlNumeric,
        "special, decimal",
        r"sk&#47;Q&#43;z&#38;7&#60;x&#62;&#34;y&#39;&#92;&#61;&#96;&#42;&#126;&#64;&#32;&#233;&#63;&#63;&#63;&#126;&#126;&#126;k",
    ),
    (
        Form::HtmlAll,
        "decimal",
        r"&#115;&#107;&#47;&#81;&#43;&#122;&#38;&#55;&#60;&#120;&#62;&#34;&#121;&#39;&#92;&#61;&#96;&#42;&#126;&#64;&#32;&#233;&#63;&#63;&#63;&#126;&#126;&#126;&#107;",
    ),
    (Form::HtmlNumeric, "reserved, hex lower", r"sk/Q+z&#x26;7&#x3c;x&#x3e;&#x22;y&#x27;\=`*~@ é???~~~k"),
    (
        Form::HtmlNumeric,
        "special, hex lower",
        r"sk&#x2f;Q&#x2b;z&#x26;7&#x3c;x&#x3e;&#x22;y&#x27;&#x5c;&#x3d;&#x60;&#x2a;&#x7e;&#x40;&#x20;&#xe9;&#x3f;&#x3f;&#x3f;&#x7e;&#x7e;&#x7e;k",
    ),
    (
        Form::HtmlAll,
        "hex lower",
        r"&#x73;&#x6b;&#x2f;&#x51;&#x2b;&#x7a;&#x26;&#x37;&#x3c;&#x78;&#x3e;&#x22;&#x79;&#x27;&#x5c;&#x3d;&#x60;&#x2a;&#x7e;&#x40;&#x20;&#xe9;&#x3f;&#x3f;&#x3f;&#x7e;&#x7e;&#x7e;&#x6b;",
    ),
    (Form::HtmlNumeric, "reserved, hex upper", r"sk/Q+z&#x26;7&#x3C;x&#x3E;&#x22;y&#x27;\=`*~@ é???~~~k"),
    (
        Form::HtmlNumeric,
        "special, hex upper",
        r"sk&#x2F;Q&#x2B;z&#x26;7&#x3C;x&#x3E;&#x22;y&#x27;&#x5C;&#x3D;&#x60;&#x2A;&#x7E;&#x40;&#x20;&#xE9;&#x3F;&#x3F;&#x3F;&#x7E;&#x7E;&#x7E;k",
    ),
    (
        Form::HtmlAll,
        "hex upper",
        r"&#x73;&#x6B;&#x2F;&#x51;&#x2B;&#x7A;&#x26;&#x37;&#x3C;&#x78;&#x3E;&#x22;&#x79;&#x27;&#x5C;&#x3D;&#x60;&#x2A;&#x7E;&#x40;&#x20;&#xE9;&#x3F;&#x3F;&#x3F;&#x7E;&#x7E;&#x7E;&#x6B;",
    ),
    (Form::Hex, "lower", r"736b2f512b7a26373c783e2279275c3d602a7e4020c3a93f3f3f7e7e7e6b"),
    (Form::Hex, "upper", r"736B2F512B7A26373C783E2279275C3D602A7E4020C3A93F3F3F7E7E7E6B"),
];

fn needles_of(secret: &str, forms: &[Form]) -> Needles {
    let source = NeedleSource { value: secret.as_bytes(), replacement: b"[writ:x]" };
    Needles::with_forms(&[source], forms, 64).unwrap()
}

fn scrub(needles: &Needles, text: &str) -> String {
    let clean = needles.scrub_value(text.as_bytes()).unwrap_or_else(|| text.into());
    String::from_utf8(clean).unwrap()
}

/// Threat 9, and the proof that each form stands on its own: without it, its rows come through.
#[test]
fn every_spelling_is_replaced_and_by_no_other_form() {
    let all = needles_of(SECRET, Form::ALL);
    for &(form, habit, text) in ROWS {
        let shown = scrub(&all, &format!("<p>{text}</p>"));
        assert_eq!(shown, "<p>[writ:x]</p>", "{form:?} {habit}");

        let others: Vec<Form> = Form::ALL.iter().copied().filter(|other| *other != form).collect();
        assert_eq!(
            scrub(&needles_of(SECRET, &others), text),
            text,
            "{form:?} {habit} does not need its form"
        );
    }
    for form in Form::ALL {
        assert!(ROWS.iter().any(|(row, ..)| row == form), "{form:?} has no row");
    }
}

#[test]
fn base64_is_found_whatever_surrounds_the_secret() {
    let secret = "correct-horse-battery-staple?>~";
    let needles = needles_of(secret, Form::ALL);
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        for (before, behind) in
            [("", ""), ("u:", ""), ("user:", "\n"), ("a", "bc"), ("ab", "c"), ("abc", "def")]
        {
            let text = engine.encode(format!("{before}{secret}{behind}"));
            let (left, right) = {
                let shown = scrub(&needles, &text);
                let (left, right) =
                    shown.split_once("[writ:x]").unwrap_or_else(|| panic!("{text} came through"));
                (left.len(), right.trim_end_matches('=').len())
            };
            // At most the two characters shared with the surroundings are left of the secret.
            assert!(left <= (before.len() * 8).div_ceil(6), "{text}: {left}");
            assert!(right <= (behind.len() * 8).div_ceil(6) + 1, "{text}: {right}");
        }
    }
}

/// The rendered Basic credential holds the secret at the alignment that the user's name gives.
#[test]
fn a_rendered_basic_credential_is_replaced() {
    for user in ["x-access-token", "ada", "oauth2", ""] {
        let pair = format!("{user}:ghp_0123456789abcdefghijABCDEFGHIJ456789");
        let sources = [
            NeedleSource { value: &pair.as_bytes()[user.len() + 1..], replacement: b"[writ:gh]" },
            NeedleSource { value: pair.as_bytes(), replacement: b"[writ:gh]" },
        ];
        let needles = Needles::new(&sources).unwrap();
        let shown = scrub(&needles, &format!("Basic {}", STANDARD.encode(&pair)));
        let rest = shown.strip_prefix("Basic [writ:gh]").unwrap_or_else(|| panic!("{shown}"));
        assert!(rest.trim_end_matches('=').len() <= 1, "{shown}");
        assert_eq!(scrub(&needles, &pair), "[writ:gh]");

        // With the header's text as a source of its own, an echo goes whole, and is found when escaped in turn.
        let basic = STANDARD.encode(&pair);
        let header = NeedleSource { value: basic.as_bytes(), replacement: b"[writ:gh]" };
        let needles = Needles::new(&[sources[0], sources[1], header]).unwrap();
        for echo in
            [basic.clone(), basic.replace('/', "\\/"), basic.replace('=', "%3D"), STANDARD.encode(&basic)]
        {
            let shown = scrub(&needles, &echo);
            let rest = shown.strip_prefix("[writ:gh]").unwrap_or_else(|| panic!("{shown}"));
            assert!(rest.trim_end_matches('=').len() <= 1, "{shown}");
        }
    }
}

#[test]
fn control_characters_and_stray_bytes_have_their_escapes() {
    let needles = needles_of("-----BEGIN\r\n\tKEY\u{1}\u{8}\u{c}-----", Form::ALL);
    assert_eq!(scrub(&needles, r"-----BEGIN\r\n\tKEY\u0001\b\f-----"), "[writ:x]");

    let source = NeedleSource { value: b"stray\xff\"byte", replacement: b"[writ:x]" };
    let needles = Needles::new(&[source]).unwrap();
    for text in
        [&b"stray\xff\\\"byte"[..], br#"stray\u00ff\"byte"#, b"stray%FF%22byte", b"stray&#255;&#34;byte"]
    {
        assert_eq!(needles.scrub_value(text).as_deref(), Some(&b"[writ:x]"[..]), "{}", text.escape_ascii());
    }
}

/// The buffer of a spelling must not grow, or an unwiped copy of the secret stays behind; and no spelling may be
/// shorter than a needle's least length, which `Needles` relies on.
#[test]
fn spellings_stay_within_their_bounds() {
    let secrets = [SECRET.as_bytes(), b"\"\"\"\"\"\"\"\"", b"''''''''", b"\xff\xff\xff\xff\xff\xff\xff\xff"];
    let more = [
        "\u{1f600}\u{10ffff}".as_bytes(),
        "\u{7ff}\u{7ff}\u{7ff}\u{7ff}".as_bytes(),
        b"12345678",
        b"\x7f\x01234567",
    ];
    for secret in secrets.into_iter().chain(more) {
        for form in Form::ALL {
            form.spell(secret, &mut |text| {
                assert!(text.len() <= secret.len() * MAX_GROWTH, "{form:?}: {}", text.escape_ascii());
                assert!(text.len() >= MIN_NEEDLE_LEN, "{form:?}: {}", text.escape_ascii());
            });
        }
    }
}

/// The limits that the crate's documentation owns up to. A change here changes a promise.
#[test]
fn what_is_not_caught_comes_through() {
    let secret = "sk-live-0123456789abcdef";
    let needles = needles_of(secret, Form::ALL);
    let reversed: String = secret.chars().rev().collect();
    let twice = STANDARD.encode(STANDARD.encode(secret));
    for text in
        [reversed.as_str(), &twice, "sk-live-%30123456789abcdef", "sk-live-0123 456789abcdef", "sk-live-0123"]
    {
        assert_eq!(scrub(&needles, text), text);
    }
}
