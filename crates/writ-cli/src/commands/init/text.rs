//! The configuration that `writ init` writes.

use super::Service;

const EXAMPLE: &str = r#"
# A credential, a target that takes it, and a grant for a role:
#
# [[credential]]
# name  = "wiki"
# env   = ["WIKI_TOKEN"]
#
# [[target]]
# name       = "wiki"
# host       = "wiki.corp.example"
# inject     = { kind = "header", name = "X-Key" }
# credential = "wiki"
#
# and in the role: { target = "wiki", methods = ["GET"], paths = ["/api/*"] }
# then: writ credential set wiki
"#;

/// `writ.toml` for the keys that were taken over.
pub(super) fn configuration(taken: &[&Service], accept_below_confined: bool) -> String {
    let uid = rustix::process::getuid().as_raw();
    let mut text = format!(
        "# writ's configuration. It is yours: agents may not change it. Format: docs/reference/configuration.md\n\
         version = 1\n\
         # Hosts that no target names: public ones pass untouched, without credentials, and writ seen lists them. Private and\n\
         # metadata addresses do not. With \"listed\", programs reach declared targets only.\n\
         egress = \"public\"\n\n\
         [seal]\nkind = \"key-file\"\n\
         # Below the level confined, programs may be able to read the key file: with false, such sessions are refused.\n\
         accept_below_confined = {accept_below_confined}\n\n[run]\nrole = \"dev\"\n"
    );
    let mut grants = Vec::new();
    for service in taken {
        text.push_str(&format!(
            "\n[[credential]]\nname = \"{}\"\nenv = {:?}\n",
            service.name, service.variables
        ));
        for preset in &service.presets {
            text.push_str(&format!(
                "\n[[target]]\nname = \"{0}\"\npreset = \"{0}\"\ncredential = \"{1}\"\n",
                preset.name, service.name
            ));
            grants.push(format!("  {{ target = \"{}\", paths = {:?} }},\n", preset.name, preset.paths));
        }
    }
    text.push_str(EXAMPLE);
    text.push_str(&format!(
        "\n[[role]]\nname = \"dev\"\nttl = \"15m\"\nttl_max = \"8h\"\ngrants = [\n{}]\n",
        grants.concat()
    ));
    text.push_str(&format!(
        "\n# Who gets the role: every program that you start with writ run.\n[[workload]]\nspiffe_id = \"spiffe://writ.local/dev/me\"\n\
         selectors = [\"unix:uid:{uid}\"]\nrole = \"dev\"\n"
    ));
    text
}
