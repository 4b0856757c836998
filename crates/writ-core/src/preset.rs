//! Presets: what is known about a service, as data.

use crate::{Alphabet, Injection, Place, Shape};

/// A service that writ knows: where it is, how it takes its key, what its keys look like.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// `host` or `host:port`.
    pub authority: &'static str,
    /// Each place with the paths at which it is the default; the first that fits wins, no paths means all.
    pub places: &'static [(PresetPlace, &'static [&'static str])],
    pub shape: Shape,
    /// How the service's real keys begin.
    pub key_prefixes: &'static [&'static str],
    /// Variables in which programs look for the key. The first is the usual one.
    pub env: &'static [&'static str],
    /// The paths that `writ init` grants.
    pub paths: &'static [&'static str],
    /// Hosts of the same vendor that its programs also ask, with or without the key: refused without an alarm.
    pub quiet_hosts: &'static [&'static str],
    /// Paths at which the service's own programs give up on 400, and would repeat after 403: Codex does so.
    pub refuse_as_400: &'static [&'static str],
    /// Whether `%2F` inside a path segment is part of the service's URLs.
    pub encoded_slash: bool,
}

/// A place, in the form that a table can hold.
#[derive(Clone, Copy, Debug)]
pub enum PresetPlace {
    Bearer,
    Header(&'static str),
    /// The user name.
    Basic(&'static str),
}

impl Preset {
    /// The declared places, the default first.
    pub fn injections(&self) -> Vec<Injection> {
        let place = |place: &PresetPlace| match place {
            PresetPlace::Bearer => Place::Bearer,
            PresetPlace::Header(name) => Place::Header { name: (*name).to_owned() },
            PresetPlace::Basic(user) => Place::Basic { user: (*user).to_owned() },
        };
        let paths = |paths: &[&str]| paths.iter().filter_map(|path| path.parse().ok()).collect();
        self.places.iter().map(|(one, at)| Injection { place: place(one), paths: paths(at) }).collect()
    }
}

/// Whether a text looks like a real key of a known service: its beginning, a key's length, and no placeholder.
pub fn looks_like_key(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let begins = |preset: &Preset| preset.key_prefixes.iter().any(|prefix| text.starts_with(prefix));
    let placeholder = |preset: &Preset| {
        text.strip_prefix(preset.shape.prefix).is_some_and(|rest| rest.starts_with(crate::Placeholder::MARK))
    };
    (KEY_MIN..=KEY_MAX).contains(&text.len())
        && plain
        && PRESETS.iter().any(begins)
        && !PRESETS.iter().any(placeholder)
}

/// No known service has shorter keys.
const KEY_MIN: usize = 24;
const KEY_MAX: usize = 512;

/// The preset of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Every preset. Sources: the vendors' API references, and the programs' own requests as recorded.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "openai",
        title: "OpenAI API",
        authority: "api.openai.com",
        places: &[(PresetPlace::Bearer, &[])],
        shape: Shape { prefix: "sk-proj-", suffix: "", length: 164, alphabet: Alphabet::Base64Url },
        key_prefixes: &["sk-"],
        env: &["OPENAI_API_KEY", "CODEX_API_KEY"],
        paths: &["/v1/*"],
        quiet_hosts: &["chatgpt.com", "ab.chatgpt.com"],
        refuse_as_400: &["/v1/responses*"],
        encoded_slash: false,
    },
    Preset {
        name: "anthropic",
        title: "Anthropic API",
        authority: "api.anthropic.com",
        places: &[(PresetPlace::Header("x-api-key"), &[]), (PresetPlace::Bearer, &[])],
        shape: Shape { prefix: "sk-ant-api03-", suffix: "AA", length: 108, alphabet: Alphabet::Base64Url },
        key_prefixes: &["sk-ant-"],
        env: &["ANTHROPIC_API_KEY"],
        paths: &["/v1/*", "/api/*"],
        quiet_hosts: &[
            "downloads.claude.ai",
            "models.opencode.ai",
            "platform.claude.com",
            "raw.githubusercontent.com",
        ],
        refuse_as_400: &[],
        encoded_slash: false,
    },
    Preset {
        name: "gemini",
        title: "Google Gemini API",
        authority: "generativelanguage.googleapis.com",
        places: &[(PresetPlace::Header("x-goog-api-key"), &[])],
        shape: Shape { prefix: "AIza", suffix: "", length: 39, alphabet: Alphabet::Base64Url },
        key_prefixes: &["AIza"],
        env: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        paths: &["/v1/*", "/v1beta/*", "/upload/*"],
        quiet_hosts: &["play.googleapis.com"],
        refuse_as_400: &[],
        encoded_slash: false,
    },
    Preset {
        name: "github",
        title: "GitHub REST and GraphQL API",
        authority: "api.github.com",
        places: &[(PresetPlace::Bearer, &[]), (PresetPlace::Header("authorization"), &[])],
        shape: Shape { prefix: "ghp_", suffix: "", length: 40, alphabet: Alphabet::Base62 },
        key_prefixes: &["ghp_", "gho_", "ghu_", "ghs_", "github_pat_"],
        env: &["GITHUB_TOKEN", "GH_TOKEN"],
        paths: &["/*"],
        quiet_hosts: &[],
        refuse_as_400: &[],
        encoded_slash: true,
    },
    Preset {
        name: "github-git",
        title: "git over HTTPS at GitHub",
        authority: "github.com",
        places: &[(PresetPlace::Basic("x-access-token"), &[])],
        shape: Shape { prefix: "ghp_", suffix: "", length: 40, alphabet: Alphabet::Base62 },
        key_prefixes: &["ghp_", "gho_", "ghu_", "ghs_", "github_pat_"],
        env: &["GITHUB_TOKEN", "GH_TOKEN"],
        paths: &["/*"],
        quiet_hosts: &[],
        refuse_as_400: &[],
        encoded_slash: false,
    },
    Preset {
        name: "gitlab",
        title: "GitLab API and git over HTTPS",
        authority: "gitlab.com",
        places: &[
            (PresetPlace::Header("private-token"), &["/api/*"]),
            (PresetPlace::Basic("oauth2"), &[]),
            (PresetPlace::Bearer, &[]),
        ],
        shape: Shape { prefix: "glpat-", suffix: "", length: 26, alphabet: Alphabet::Base64Url },
        key_prefixes: &["glpat-"],
        env: &["GITLAB_TOKEN"],
        paths: &["/*"],
        quiet_hosts: &[],
        refuse_as_400: &[],
        encoded_slash: true,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    #[test]
    fn real_keys_are_told_from_placeholders() {
        for key in [
            "sk-proj-0123456789abcdefghij",
            "sk-ant-api03-0123456789abcdef",
            "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        ] {
            assert!(looks_like_key(key), "{key}");
        }
        for preset in PRESETS {
            assert!(!looks_like_key(preset.shape.build((0..=255).cycle()).as_str()), "{}", preset.name);
        }
        for other in
            ["", "sk-short", "AIza", "/usr/bin/sk-0123456789abcdefghijkl", "sk-0123456789 abcdefghijklmno"]
        {
            assert!(!looks_like_key(other), "{other}");
        }
    }

    #[test]
    fn every_preset_is_well_formed() {
        for preset in PRESETS {
            assert!(preset.authority.parse::<Authority>().is_ok(), "{}", preset.name);
            assert!(preset.name.parse::<crate::TargetName>().is_ok(), "{}", preset.name);
            for path in preset
                .paths
                .iter()
                .chain(preset.refuse_as_400)
                .chain(preset.places.iter().flat_map(|(_, paths)| *paths))
            {
                assert!(path.parse::<crate::PathPattern>().is_ok(), "{path}");
            }
            assert!(!preset.places.is_empty() && !preset.env.is_empty());
            for host in preset.quiet_hosts {
                assert!(host.parse::<crate::Host>().is_ok_and(|parsed| parsed.as_str() == *host), "{host}");
            }
            // An unreadable path would be dropped, and no paths means all.
            for (injection, (_, paths)) in preset.injections().iter().zip(preset.places) {
                assert_eq!(injection.paths.len(), paths.len(), "{}", preset.name);
                match &injection.place {
                    Place::Header { name } => {
                        assert_eq!(http::HeaderName::from_bytes(name.as_bytes()).unwrap().as_str(), name);
                    }
                    Place::Basic { user } => assert!(!user.is_empty() && !user.contains(':'), "RFC 7617 §2"),
                    Place::Bearer | Place::Placeholder => {}
                }
            }
            let letters = preset.shape.length - preset.shape.prefix.len() - preset.shape.suffix.len();
            assert!(letters >= 4 + 16, "{}: too few letters to tell placeholders apart", preset.name);
            assert_eq!(
                PRESETS.iter().filter(|other| other.name == preset.name).count(),
                1,
                "{}",
                preset.name
            );
        }
    }
}
