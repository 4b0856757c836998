//! The credential files that programs keep in a home, and what of them the agent sees: a copy with placeholders, or nothing.
//!
//! A copy is made where programs need the rest of the file (a registry's address, a default region). It is made only where its form is
//! understood; otherwise the file is absent. A value for which the session has no placeholder becomes [`WITHHELD`], which names
//! itself wherever it is used. Nothing is carried back to the real file.
//!
//! Absent: keys in files that nobody knows; a secret that somebody wrote into a note is readable, as everything in the home is.

use std::{borrow::Cow, path::Path};

use serde_json::Value;

use crate::Replacement;

/// What stands for a secret without a placeholder.
pub(super) const WITHHELD: &str = "writ_withheld";

/// What becomes of a file. Whole directories are always absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Absent,
    /// `key = value` lines, in sections or not.
    Lines,
    /// YAML of one `key: value` per line.
    Yaml,
    Json,
    /// `machine … login … password …`
    Netrc,
    /// `https://user:password@host`, one in a line or within other text.
    Urls,
    /// `host:port:database:user:password`
    Pgpass,
}

/// Below the home: files and directories, and their form.
pub(super) const KNOWN: &[(&str, Form)] = &[
    (".netrc", Form::Netrc),
    (".git-credentials", Form::Urls),
    (".config/git/credentials", Form::Urls),
    (".npmrc", Form::Lines),
    (".yarnrc", Form::Absent),
    (".yarnrc.yml", Form::Yaml),
    (".pypirc", Form::Lines),
    (".config/pip/pip.conf", Form::Lines),
    (".pip/pip.conf", Form::Lines),
    (".cargo/credentials.toml", Form::Lines),
    (".cargo/credentials", Form::Lines),
    (".gem/credentials", Form::Yaml),
    (".bundle/config", Form::Absent),
    (".composer/auth.json", Form::Json),
    (".config/composer/auth.json", Form::Json),
    (".m2/settings-security.xml", Form::Absent),
    (".gradle/gradle.properties", Form::Lines),
    (".nuget/NuGet/NuGet.Config", Form::Absent),
    (".aws/credentials", Form::Lines),
    (".aws/config", Form::Lines),
    (".aws/sso/cache", Form::Absent),
    (".aws/cli/cache", Form::Absent),
    (".aws/login/cache", Form::Absent),
    (".azure", Form::Absent),
    (".config/gcloud/credentials.db", Form::Absent),
    (".config/gcloud/access_tokens.db", Form::Absent),
    (".config/gcloud/legacy_credentials", Form::Absent),
    (".config/gcloud/application_default_credentials.json", Form::Absent),
    (".boto", Form::Lines),
    (".s3cfg", Form::Lines),
    (".oci", Form::Absent),
    (".config/rclone/rclone.conf", Form::Absent),
    (".config/gh/hosts.yml", Form::Yaml),
    (".config/hub", Form::Yaml),
    (".config/glab-cli/config.yml", Form::Yaml),
    (".docker/config.json", Form::Json),
    (".config/containers/auth.json", Form::Json),
    (".kube/config", Form::Yaml),
    (".kube/cache", Form::Absent),
    (".terraform.d/credentials.tfrc.json", Form::Json),
    (".terraformrc", Form::Absent),
    (".vault-token", Form::Absent),
    (".config/doctl/config.yaml", Form::Yaml),
    (".fly/config.yml", Form::Yaml),
    (".config/hcloud/cli.toml", Form::Lines),
    (".config/stripe/config.toml", Form::Absent),
    (".config/.wrangler/config/default.toml", Form::Lines),
    (".wrangler/config/default.toml", Form::Lines),
    (".local/share/com.vercel.cli/auth.json", Form::Json),
    (".config/netlify/config.json", Form::Absent),
    (".huggingface/token", Form::Absent),
    (".cache/huggingface/token", Form::Absent),
    (".cache/huggingface/stored_tokens", Form::Absent),
    (".kaggle/kaggle.json", Form::Json),
    (".pgpass", Form::Pgpass),
    (".pg_service.conf", Form::Lines),
    (".postgresql/postgresql.key", Form::Absent),
    (".my.cnf", Form::Lines),
    (".mylogin.cnf", Form::Absent),
    (".config/github-copilot", Form::Absent),
    (".claude.json", Form::Json),
    (".claude/.credentials.json", Form::Absent),
    (".codex/auth.json", Form::Absent),
    (".gemini/oauth_creds.json", Form::Absent),
    (".gemini/mcp-oauth-tokens.json", Form::Absent),
    (".qwen/oauth_creds.json", Form::Absent),
    (".local/share/opencode/auth.json", Form::Absent),
    (".local/share/opencode/mcp-auth.json", Form::Absent),
    (".gnupg/private-keys-v1.d", Form::Absent),
    (".gnupg/secring.gpg", Form::Absent),
    (".local/share/keyrings", Form::Absent),
    (".local/share/kwalletd", Form::Absent),
    (".password-store", Form::Absent),
    (".config/op", Form::Absent),
    (".config/Bitwarden CLI", Form::Absent),
    (".config/sops/age/keys.txt", Form::Absent),
    (".mozilla", Form::Absent),
    (".thunderbird", Form::Absent),
    (".config/google-chrome", Form::Absent),
    (".config/chromium", Form::Absent),
    (".config/BraveSoftware", Form::Absent),
    (".config/microsoft-edge", Form::Absent),
    (".config/Slack", Form::Absent),
    (".docker/run", Form::Absent),
    (".ssh/agent", Form::Absent),
];

/// A file that is larger is absent.
pub(super) const CONTENT_MAX: u64 = 4 << 20;

/// The copy of `content`, or `None` where the file must be absent.
pub(crate) fn copy(form: Form, content: &[u8], replacements: &[Replacement]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let swap = Swap { replacements };
    let copy = match form {
        Form::Absent => return None,
        Form::Netrc => swap.netrc(text)?,
        Form::Urls => swap.urls(text),
        Form::Pgpass => lines(text, |line| swap.pgpass(line)),
        Form::Lines => swap.urls(&lines(text, |line| swap.pair(line, "=", "#;"))),
        Form::Yaml if text.trim_start().starts_with('{') => swap.json(text)?,
        Form::Yaml => swap.yaml(text)?,
        Form::Json => swap.json(text)?,
    };
    Some(copy.into_bytes())
}

/// The names that `ssh-keygen(1)` gives to private keys. Others are known by what is in them, once they are there.
pub(super) const KEYS: [&str; 6] = [
    ".ssh/id_rsa",
    ".ssh/id_dsa",
    ".ssh/id_ecdsa",
    ".ssh/id_ecdsa_sk",
    ".ssh/id_ed25519",
    ".ssh/id_ed25519_sk",
];

/// Whether a file in `.ssh` is a private key: by what is in it, or by its name where it cannot be read.
pub(super) fn is_private_key(name: &Path, begin: Option<&[u8]>) -> bool {
    let name = name.as_os_str().to_string_lossy();
    let named = name.starts_with("id_") && !name.ends_with(".pub");
    let holds = |begin: &[u8]| begin.windows(KEY_MARK.len()).any(|part| part == KEY_MARK);
    named || name.ends_with(".pem") || name.ends_with(".ppk") || begin.is_some_and(holds)
}

const KEY_MARK: &[u8] = b"PRIVATE KEY";

/// Names of values that are secret: the last word of a key such as `//registry.npmjs.org/:_authToken`.
const SECRET_KEYS: [&str; 36] = [
    "_authtoken",
    "_auth",
    "_password",
    "password",
    "passwd",
    "token",
    "auth",
    "identitytoken",
    "registrytoken",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "oauth_token",
    "access_token",
    "refresh_token",
    "id_token",
    "accesstoken",
    "refreshtoken",
    "client-key-data",
    "client_secret",
    "secret",
    "secret_key",
    "access_key",
    "api_key",
    "apikey",
    "primaryapikey",
    "key",
    "npmauthtoken",
    "npmauthident",
    "private_key",
    "access-token",
    "id-token",
    "refresh-token",
    "gs_secret_access_key",
    "api_token",
    "authorization",
];
/// As parts of longer names, such as `mavenPassword` or `rubygems_api_key`.
const SECRET_PARTS: [&str; 6] = ["password", "secret", "token", "api_key", "apikey", "api-key"];

/// `.claude.json` and the like count tokens and keep flags: a number or a switch is no secret. Lists of approved keys hold tails of keys.
fn is_secret(key: &str) -> bool {
    let key = key.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    let last = key.rsplit([':', '.']).next().unwrap_or(&key);
    SECRET_KEYS.contains(&last) || SECRET_PARTS.iter().any(|part| last.contains(part))
}

fn lines(text: &str, mut change: impl FnMut(&str) -> Cow<'_, str>) -> String {
    text.split_inclusive('\n').fold(String::new(), |mut out, line| {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        out.push_str(&change(body));
        out.push_str(end);
        out
    })
}

struct Swap<'a> {
    replacements: &'a [Replacement],
}

impl Swap<'_> {
    /// What the agent gets for `secret`: the placeholder with the longest begin that fits.
    fn swap(&self, secret: &str) -> &str {
        let secret = secret.trim().trim_matches(['"', '\'']);
        let fitting = self.replacements.iter().flat_map(|replacement| {
            let prefixes = replacement.key_prefixes.iter();
            prefixes
                .filter(|prefix| !prefix.is_empty() && secret.starts_with(prefix.as_str()))
                .map(|prefix| (prefix.len(), replacement.placeholder.as_str()))
        });
        fitting.max_by_key(|(length, _)| *length).map_or(WITHHELD, |(_, placeholder)| placeholder)
    }

    fn pair<'l>(&self, line: &'l str, between: &str, comments: &str) -> Cow<'l, str> {
        if line.trim_start().starts_with(|c| comments.contains(c)) {
            // A key that was commented out is still a key.
            let secret = line.split_once(between).is_some_and(|(key, _)| is_secret(last_word(key)));
            return if secret { Cow::Borrowed("#") } else { Cow::Borrowed(line) };
        }
        match line.split_once(between) {
            Some((key, value)) if is_secret(last_word(key)) && !value.trim().is_empty() => {
                let quote = if value.trim_start().starts_with('"') { "\"" } else { "" };
                let space = if value.starts_with(' ') { " " } else { "" };
                Cow::Owned(format!("{key}{between}{space}{quote}{}{quote}", self.swap(value)))
            }
            _ => Cow::Borrowed(line),
        }
    }

    /// Line by line. What this reading cannot be sure about (values in braces, tags, anchors) is refused.
    fn yaml(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut skipped: Option<usize> = None;
        for line in text.lines() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            if skipped.is_some_and(|parent| body.is_empty() || indent > parent) {
                continue;
            }
            skipped = None;
            let entry = body.trim_start_matches("- ");
            let Some((key, value)) = entry.split_once(':') else {
                out.push_str(line);
                out.push('\n');
                continue;
            };
            if value.trim_start().starts_with(['{', '[', '&', '*', '!'])
                && !["{}", "[]"].contains(&value.trim())
            {
                return None;
            }
            let secret = is_secret(key) && !key.trim_start().starts_with('#');
            if key.trim_start().starts_with('#') {
                continue;
            }
            if secret && !value.trim().is_empty() {
                out.push_str(line.get(..line.len() - value.len())?);
                out.push_str(&format!(" {}\n", self.swap(value)));
                skipped = Some(indent);
            } else {
                out.push_str(line);
                out.push('\n');
            }
        }
        Some(self.urls(&out))
    }

    fn json(&self, text: &str) -> Option<String> {
        let mut value: Value = serde_json::from_str(text).ok()?;
        self.json_value(&mut value, false);
        serde_json::to_string_pretty(&value).ok()
    }

    fn json_value(&self, value: &mut Value, secret: bool) {
        match value {
            Value::String(text) if secret && !text.is_empty() => *text = self.swap(text).to_owned(),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json_value(item, secret)),
            Value::Object(fields) => {
                for (key, field) in fields {
                    let secret = secret && !field.is_object() || is_secret(key) || in_environment(key);
                    self.json_value(field, secret);
                }
            }
            _ => {}
        }
    }

    /// Words, of which the one after `password` or `account` is secret. A macro may hold anything: then there is no copy.
    fn netrc(&self, text: &str) -> Option<String> {
        // The keyword whose value comes next.
        let mut keyword = None;
        let mut out = String::new();
        for line in text.lines() {
            for word in line.split_whitespace() {
                let space = if out.is_empty() || out.ends_with('\n') { "" } else { " " };
                out.push_str(space);
                match keyword.take() {
                    Some("password" | "account") => out.push_str(self.swap(word)),
                    Some(_) => out.push_str(word),
                    None if word == "macdef" => return None,
                    None => {
                        keyword = Some(word).filter(|word| *word != "default");
                        out.push_str(word);
                    }
                }
            }
            out.push('\n');
        }
        Some(out)
    }

    /// Every `scheme://user:password@` in the text.
    fn urls(&self, text: &str) -> String {
        let mut parts = text.split("://");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push_str("://");
            let end = part.find(|c: char| c.is_whitespace() || "/?#\"'".contains(c)).unwrap_or(part.len());
            let (authority, rest) = part.split_at(end);
            match authority.rsplit_once('@') {
                Some((login, host)) => {
                    let (user, secret) = login.split_once(':').unwrap_or((login, ""));
                    // A token may stand in the user's place.
                    let user = if secret.is_empty() && user != "git" { self.swap(user) } else { user };
                    out.push_str(user);
                    if !secret.is_empty() {
                        out.push(':');
                        out.push_str(self.swap(secret));
                    }
                    out.push('@');
                    out.push_str(host);
                }
                None => out.push_str(authority),
            }
            out.push_str(rest);
        }
        out
    }

    fn pgpass<'l>(&self, line: &'l str) -> Cow<'l, str> {
        if line.starts_with('#') || line.trim().is_empty() {
            return Cow::Borrowed(line);
        }
        let mut fields: Vec<&str> = line.splitn(5, ':').collect();
        if let Some(secret) = fields.get_mut(4) {
            *secret = self.swap(secret);
        }
        Cow::Owned(fields.join(":"))
    }
}

/// The settings of tools that an agent starts (MCP servers) have keys under names of variables.
fn in_environment(key: &str) -> bool {
    key.ends_with("_KEY") || key.ends_with("_TOKEN") || key.ends_with("_SECRET")
}

fn last_word(key: &str) -> &str {
    key.trim().trim_start_matches(['#', ';']).rsplit([' ', ':']).next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use writ_core::Placeholder;

    use super::*;

    const SECRET: &str = "ghp_0123456789abcdefSECRET";

    fn check(form: Form, content: &str, expected: Expect) {
        let replacement = |name: &str, prefixes: &[&str]| Replacement {
            placeholder: Placeholder::try_from(name.to_owned()).unwrap(),
            key_prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        };
        let replacements = [replacement("gh_writ_1", &["gh"]), replacement("ghp_writ_2", &["ghp_", ""])];
        let copy = copy(form, content.as_bytes(), &replacements);
        let copy = copy.map_or("absent".to_owned(), |copy| String::from_utf8(copy).unwrap());
        // Whether members keep their order is a matter of what else is linked.
        let copy = match serde_json::from_str::<serde_json::Value>(&copy) {
            Ok(mut value) if form == Form::Json => {
                value.sort_all_objects();
                format!("{value:#}")
            }
            _ => copy,
        };
        assert!(!copy.contains("SECRET"), "{copy}");
        expected.assert_eq(&copy);
    }

    #[test]
    fn every_form_keeps_the_rest_and_loses_the_secret() {
        check(
            Form::Netrc,
            &format!(
                "machine github.com\n login ada password {SECRET}\nmachine x login password password SECRET\n"
            ),
            expect![[r#"
                machine github.com
                login ada password ghp_writ_2
                machine x login password password writ_withheld
            "#]],
        );
        check(Form::Netrc, "macdef init\ncd SECRET\n", expect!["absent"]);
        check(
            Form::Urls,
            &format!("https://ada:{SECRET}@github.com\nhttps://SECRET@host/path?a=b\n"),
            expect![[r#"
                https://ada:ghp_writ_2@github.com
                https://writ_withheld@host/path?a=b
            "#]],
        );
        check(
            Form::Pgpass,
            "# note\ndb:5432:*:ada:SECRET:SECRET\n",
            expect![[r#"
                # note
                db:5432:*:ada:writ_withheld
            "#]],
        );
    }

    #[test]
    fn lines_of_every_tool_lose_the_secret() {
        check(
            Form::Lines,
            &format!(
                "registry=https://u:SECRET@r.example/\n//r.example/:_authToken={SECRET}\n# token = SECRET\n; kept\n\
                 email = a@b\naws_secret_access_key = SECRET\ntoken = \"SECRET\"\nmavenPassword=SECRET\n"
            ),
            expect![[r##"
                registry=https://u:writ_withheld@r.example/
                //r.example/:_authToken=ghp_writ_2
                #
                ; kept
                email = a@b
                aws_secret_access_key = writ_withheld
                token = "writ_withheld"
                mavenPassword=writ_withheld
            "##]],
        );
    }

    #[test]
    fn yaml_is_copied_as_far_as_it_is_understood() {
        check(
            Form::Yaml,
            &format!(
                "github.com:\n    users:\n        ada:\n            oauth_token: {SECRET}\n    user: ada\n    # oauth_token: SECRET\n\
                 - name: x\n  token: |\n    SECRET\n    SECRET\n  server: https://1.2.3.4\n  \"token\": SECRET\n- token: >-\n    SECRET\n"
            ),
            expect![[r#"
                github.com:
                    users:
                        ada:
                            oauth_token: ghp_writ_2
                    user: ada
                - name: x
                  token: writ_withheld
                  server: https://1.2.3.4
                  "token": writ_withheld
                - token: writ_withheld
            "#]],
        );
        check(Form::Yaml, "user: {token: SECRET}\n", expect!["absent"]);
        check(
            Form::Yaml,
            r#"{"users": [{"user": {"token": "SECRET"}}]}"#,
            expect![[r#"
                {
                  "users": [
                    {
                      "user": {
                        "token": "writ_withheld"
                      }
                    }
                  ]
                }"#]],
        );
    }

    #[test]
    fn json_is_copied_with_unknown_fields() {
        check(
            Form::Json,
            r#"{"auths": {"ghcr.io": {"auth": "SECRET"}}, "n": 1, "env": {"A_KEY": "SECRET"}, "tokens": {"a_token": ["SECRET"]}}"#,
            expect![[r#"
                {
                  "auths": {
                    "ghcr.io": {
                      "auth": "writ_withheld"
                    }
                  },
                  "env": {
                    "A_KEY": "writ_withheld"
                  },
                  "n": 1,
                  "tokens": {
                    "a_token": [
                      "writ_withheld"
                    ]
                  }
                }"#]],
        );
        check(Form::Json, "{\"auth\": \"SECRET", expect!["absent"]);
    }

    #[test]
    fn private_keys_are_known_by_content_and_by_name() {
        let begin = b"-----BEGIN OPENSSH PRIVATE KEY-----";
        for (name, begin, private) in [
            ("work", Some(&begin[..]), true),
            ("id_rsa", None, true),
            ("id_rsa.pub", Some(b"ssh-rsa A"), false),
            ("config", Some(b"Host *"), false),
        ] {
            assert_eq!(is_private_key(Path::new(name), begin), private, "{name}");
        }
    }
}
