//! Decisions as data, raw policies and their faults, and that slicing changes nothing.

use std::{collections::BTreeSet, path::PathBuf};

use cedar_policy::{Authorizer, PolicyId, Request, Response, Schema};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use writ_core::{
    Action, Asked, Context, Decision, Level, Policy, Principal, RefusalKind, SessionId, Timestamp, Ttl,
    authorize,
};

use super::{CedarPolicy, RolePolicy, SCHEMA, context, entities, raw, slices::Compiled};
use crate::config::{
    ConfigFault, PolicyFile, Resolved,
    tests::{FULL, load},
};

/// A Friday at noon in Berlin, and the Saturday after it.
const FRIDAY: i64 = 1_795_172_400_000;
const SATURDAY: i64 = FRIDAY + 24 * 3600 * 1000;

fn resolved(text: &str, raw: &str) -> Resolved {
    let mut resolved = load(text).unwrap();
    if !raw.is_empty() {
        resolved.policies =
            vec![PolicyFile { path: PathBuf::from("policies/team.cedar"), text: raw.to_owned() }];
    }
    resolved
}

fn principal(workload: &str, role: &str) -> Principal {
    Principal {
        workload: format!("spiffe://writ.local/{workload}").parse().unwrap(),
        session: SessionId::new(Timestamp::from_millis(FRIDAY), &[7; 10]),
        role: role.parse().unwrap(),
    }
}

fn asked(target: &str, credential: &str) -> Asked {
    Asked { action: Action::Inject, target: target.parse().unwrap(), credential: credential.parse().ok() }
}

fn circumstances(now: i64, level: Level) -> Context {
    let now = Timestamp::from_millis(now);
    Context {
        now,
        level,
        requester: "ada".into(),
        prompt_sha256: None,
        session_expires_at: now.saturating_add(Ttl::from_secs(3600).unwrap()),
    }
}

fn decide(raw: &str, role: &str, target: (&str, &str), context: &Context) -> Decision {
    let policy = CedarPolicy::new(&resolved(FULL, raw)).unwrap();
    policy.decide(&principal("dev/claude", role), &asked(target.0, target.1), context).unwrap()
}

fn check(raw: &str, role: &str, target: (&str, &str), now: i64, expected: Expect) {
    let said = match decide(raw, role, target, &circumstances(now, Level::Advisory)) {
        Decision::Allow { scope, ttl, rule } => format!("{} {scope}; {ttl}; {rule}", scope.authority),
        Decision::Deny { reason, next } => format!("{reason}: {next}"),
    };
    // With a line end the expectation is a block, which rustfmt leaves as it is.
    expected.assert_eq(&format!("{said}\n"));
}

const OPENAI: (&str, &str) = ("openai", "openai");
const WIKI: (&str, &str) = ("wiki", "wiki");
const GITHUB: (&str, &str) = ("github", "git");

#[test]
fn grants_become_a_scope() {
    check(
        "",
        "dev",
        OPENAI,
        SATURDAY,
        expect![[r#"
        api.openai.com POST /v1/*; GET /v1/models; 15m; role dev, grant 1 and grant 2
    "#]],
    );
    check(
        "",
        "dev",
        WIKI,
        FRIDAY,
        expect![[r#"
        wiki.corp.example:8443 any method /*; 15m; role dev, grant 3
    "#]],
    );
    check(
        "",
        "git",
        GITHUB,
        FRIDAY,
        expect![[r#"
        api.github.com any method /*; 15m; role git, grant 1
    "#]],
    );
}

#[test]
fn what_is_not_granted_is_denied_with_the_next_step() {
    check(
        "",
        "dev",
        WIKI,
        SATURDAY,
        expect![[r#"
        the role dev may use wiki only weekday 08:00-18:00 Europe/Berlin: try again then, or ask the operator for another time window
    "#]],
    );
    // The same workload may, under its other role.
    check(
        "",
        "dev",
        GITHUB,
        FRIDAY,
        expect![[r#"
        the role dev may not use github; it may use openai, wiki: ask the operator to add { target = "github" } to the grants of the role dev in writ.toml
    "#]],
    );
    check(
        "",
        "dev",
        ("nowhere", "openai"),
        FRIDAY,
        expect![[r#"
        the role dev may not use nowhere; it may use openai, wiki: ask the operator to add { target = "nowhere" } to the grants of the role dev in writ.toml
    "#]],
    );
    check(
        "",
        "guest",
        OPENAI,
        FRIDAY,
        expect![[r#"
        there is no role guest any more: start a new run under another role
    "#]],
    );
    check(
        "",
        "dev",
        ("openai", "git"),
        FRIDAY,
        expect![[r#"
        the target openai takes the credential openai, not git: start a new run: the configuration has changed
    "#]],
    );
    let policy = CedarPolicy::new(&resolved(FULL, "")).unwrap();
    let context = circumstances(FRIDAY, Level::Advisory);
    let refusal =
        authorize(&policy, &principal("dev/codex", "dev"), &asked("openai", "openai"), &context).unwrap_err();
    expect![[r#"
        spiffe://writ.local/dev/codex is not registered for the role dev: ask the operator for a [[workload]] entry in writ.toml, then start a new run
    "#]].assert_eq(&format!("{refusal}: {}\n", refusal.next));
    assert_eq!(refusal.kind, RefusalKind::Denied);
}

#[test]
fn only_grants_whose_time_it_is_are_in_the_scope() {
    let text = FULL.replace("paths = [\"/v1/models\"]", "when = \"weekend Europe/Berlin\"");
    let policy = CedarPolicy::new(&resolved(&text, "")).unwrap();
    let scope = |now| match policy.decide(
        &principal("dev/claude", "dev"),
        &asked("openai", "openai"),
        &circumstances(now, Level::Advisory),
    ) {
        Ok(Decision::Allow { scope, rule, .. }) => format!("{scope} by {rule}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(scope(FRIDAY), "POST /v1/* by role dev, grant 1");
    assert_eq!(scope(SATURDAY), "POST /v1/*; GET /* by role dev, grant 1 and grant 2");
}

#[test]
fn a_forbid_wins_and_is_named() {
    check(
        "forbid(principal, action, resource);",
        "dev",
        OPENAI,
        FRIDAY,
        expect![[r#"
        policy 1 of team.cedar forbids it: ask the operator, who can change that policy
    "#]],
    );
    check(
        r#"@id("no-friday") @reason("deployments are frozen")
        forbid(principal in Role::"dev", action == Action::"inject", resource == Target::"openai")
        when { context.now.weekday == "fri" && context.now.hour == 11 };"#,
        "dev",
        OPENAI,
        FRIDAY,
        expect![[r#"
            policy no-friday of team.cedar forbids it: deployments are frozen: ask the operator, who can change that policy
        "#]],
    );
    let confined = r#"forbid(principal == Workload::"spiffe://writ.local/dev/claude", action, resource in Credential::"git")
        unless { context.level_rank >= 2 && context.requester == "ada" };"#;
    assert!(matches!(
        decide(confined, "git", GITHUB, &circumstances(FRIDAY, Level::Restricted)),
        Decision::Deny { .. }
    ));
    assert!(matches!(
        decide(confined, "git", GITHUB, &circumstances(FRIDAY, Level::Confined)),
        Decision::Allow { .. }
    ));
}

#[test]
fn the_prompt_can_be_required() {
    let raw = r#"forbid(principal, action, resource) unless { context has prompt_sha256 && context.prompt_sha256 == "ab" };"#;
    let mut context = circumstances(FRIDAY, Level::Advisory);
    assert!(matches!(decide(raw, "dev", OPENAI, &context), Decision::Deny { .. }));
    context.prompt_sha256 = Some("ab".into());
    assert!(matches!(decide(raw, "dev", OPENAI, &context), Decision::Allow { .. }));
}

/// Cedar leaves a policy out that fails while it is evaluated: a forbid would turn into nothing.
#[test]
fn a_forbid_that_fails_refuses() {
    let raw = "forbid(principal, action, resource) when { context.now.millis * 9223372036854775807 > 0 };";
    let policy = CedarPolicy::new(&resolved(FULL, raw)).unwrap();
    let context = circumstances(FRIDAY, Level::Advisory);
    let (who, what) = (principal("dev/claude", "dev"), asked("openai", "openai"));
    assert!(policy.decide(&who, &what, &context).is_err());
    assert_eq!(authorize(&policy, &who, &what, &context).unwrap_err().kind, RefusalKind::Denied);
}

#[test]
fn a_raw_permit_lets_through_what_it_says() {
    check(
        r#"@id("read") @methods("GET HEAD") @paths("/repos/* /user")
        permit(principal in Role::"dev", action, resource == Target::"github");"#,
        "dev",
        GITHUB,
        FRIDAY,
        expect![[r#"
            api.github.com GET|HEAD /repos/* /user; 15m; policy read of team.cedar
        "#]],
    );
    let conditional =
        r#"permit(principal, action, resource == Target::"github") when { context.level == "confined" };"#;
    check(
        conditional,
        "dev",
        GITHUB,
        FRIDAY,
        expect![[r#"
        the role dev may use github under conditions only, which do not hold: ask the operator which policy beside writ.toml permits it, and when
    "#]],
    );
}

/// What loading these raw policies says.
fn check_raw(raw: &str, expected: Expect) {
    let said = match CedarPolicy::new(&resolved(FULL, raw)) {
        Ok(_) => "fine".to_owned(),
        Err(fault) => fault.to_string(),
    };
    expected.assert_eq(&format!("{said}\n"));
}

#[test]
fn raw_policies_are_checked_when_they_are_loaded() {
    check_raw(
        "permit(principal, action, resource);\nforbid(principal action, resource);",
        expect![[r#"
        policies/team.cedar:2:18: unexpected token `action`; correct it and try again
    "#]],
    );
    check_raw(
        "forbid(principal, action == Action::\"inject\", resource)\nwhen { context.hour > 3 };",
        expect![[r#"
        policies/team.cedar:2:8: for policy `policy0`, attribute `hour` in context for Action::"inject" not found; see spec/policy.md for what there is
    "#]],
    );
    check_raw(
        "forbid(principal, action == Action::\"approve\", resource);",
        expect![[r#"
        policies/team.cedar:1:29: for policy `policy0`, unrecognized action `Action::"approve"`; see spec/policy.md for what there is
    "#]],
    );
    check_raw(
        "\n\nforbid(principal in Role::\"def\", action, resource);",
        expect![[r#"
        policies/team.cedar:3:1: there is no Role::"def"; did you mean Role::"dev"?
    "#]],
    );
    check_raw(
        "permit(principal, action, resource);\nforbid(principal, action, resource == Target::\"x\");",
        expect![[r#"
            policies/team.cedar:2:1: there is no Target::"x"; name what writ.toml has
        "#]],
    );
    check_raw(
        "permit(principal in ?principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:21: templates are not linked here; write the policy without slots
    "#]],
    );
}

#[test]
fn annotations_are_checked_when_they_are_loaded() {
    check_raw(
        "@why(\"x\") permit(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: there is no annotation @why; use @id, @reason, @methods, @paths
    "#]],
    );
    check_raw(
        "@id(\"a b\") permit(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: "a b" is not the name of a policy; use 1 to 63 letters, digits, '-', '_' and '.'
    "#]],
    );
    check_raw(
        "@methods(\"\") permit(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: @methods bounds what a permit lets through; name at least one, on a permit
    "#]],
    );
    check_raw(
        "@methods(\"get\") permit(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: methods are case-sensitive: "get"; write "GET"
    "#]],
    );
    check_raw(
        "@paths(\"v1\") permit(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: a pattern begins with '/' and uses '*' only as a whole segment or as its last character: "v1"; correct it
    "#]],
    );
    check_raw(
        "@paths(\"/v1/*\") forbid(principal, action, resource);",
        expect![[r#"
        policies/team.cedar:1:1: @paths bounds what a permit lets through; name at least one, on a permit
    "#]],
    );
    check_raw(
        "@id(\"a\") permit(principal, action, resource);@id(\"a\") forbid(principal, action, resource);",
        expect![[r#"
            policies/team.cedar:1:1: policy a of team.cedar is there twice; rename one
        "#]],
    );
}

#[test]
fn questions_and_entities_fit_the_schema() {
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    assert_eq!(warnings.count(), 0);
    let resolved = resolved(FULL, "");
    let role = "dev".parse().unwrap();
    let all = entities::entities(&resolved, &role).unwrap();
    cedar_policy::Entities::from_entities(all.iter().cloned(), Some(&schema)).unwrap();
    let windows: Vec<_> =
        resolved.role(&role).unwrap().grants.iter().filter_map(|grant| grant.when.clone()).collect();
    for (prompt, now) in [(None, FRIDAY), (Some("ab".to_owned()), i64::MAX), (None, i64::MIN)] {
        let mut context = circumstances(now, Level::Confined);
        context.prompt_sha256 = prompt;
        let who = principal("dev/claude", "dev");
        let facts = context::facts(&who, &context, &windows).unwrap();
        let (action, target) = (entities::action(Action::Inject), entities::target(&"wiki".parse().unwrap()));
        Request::new(entities::workload(&who.workload), action, target, facts, Some(&schema)).unwrap();
    }
}

/// The grants' own templates pass the validator, too: a slip in one would deny silently.
#[test]
fn grants_fit_the_schema() {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    let compiled = Compiled::new(&resolved(FULL, ""), Vec::new()).unwrap();
    let set = compiled.unsliced().unwrap().policies;
    let verdict = cedar_policy::Validator::new(schema).validate(&set, cedar_policy::ValidationMode::Strict);
    assert!(verdict.validation_passed(), "{verdict}");
    assert_eq!(set.num_of_templates(), 2, "one template for each shape");
}

const WINDOWS: [&str; 3] = ["", "weekday UTC", "weekend 00:00-13:00 UTC"];
const PRINCIPALS: [&str; 8] = [
    "principal",
    "principal is Workload",
    "principal in Role::\"r0\"",
    "principal in Role::\"r1\"",
    "principal is Workload in Role::\"r2\"",
    "principal == Workload::\"spiffe://writ.local/w0\"",
    "principal in Workload::\"spiffe://writ.local/w1\"",
    "principal == Workload::\"spiffe://writ.local/w2\"",
];
const RESOURCES: [&str; 7] = [
    "resource",
    "resource is Target",
    "resource == Target::\"t0\"",
    "resource in Target::\"t1\"",
    "resource is Target in Credential::\"c0\"",
    "resource in Credential::\"c1\"",
    "resource == Target::\"t3\"",
];
const CONDITIONS: [&str; 6] = [
    "",
    "when { context.now.weekday == \"sat\" }",
    "when { context.level_rank > 0 }",
    "unless { resource has credential && resource.credential == Credential::\"c0\" }",
    "when { principal in Role::\"r0\" || resource.host == \"t2.example\" }",
    "when { context.now.millis * 9223372036854775807 > 0 }",
];

/// Three roles, four workloads (each in one or two roles), four targets of two credentials, and grants as drawn.
fn town(grants: &[(usize, usize, usize)]) -> String {
    let mut text = String::from("version = 1\n");
    for credential in 0..2 {
        text += &format!("[[credential]]\nname = \"c{credential}\"\n");
    }
    for target in 0..4 {
        text += &format!(
            "[[target]]\nname = \"t{target}\"\nhost = \"t{target}.example\"\ninject = {{ kind = \"bearer\" }}\ncredential = \"c{}\"\n",
            target % 2
        );
    }
    for role in 0..3 {
        text += &format!("[[role]]\nname = \"r{role}\"\ngrants = [\n");
        for (_, target, window) in grants.iter().filter(|(of, _, _)| *of == role) {
            let when = WINDOWS[*window];
            let when = if when.is_empty() { String::new() } else { format!(", when = \"{when}\"") };
            text += &format!("{{ target = \"t{target}\"{when} }},\n");
        }
        text += "]\n";
    }
    for (workload, role) in REGISTERED {
        text += &format!(
            "[[workload]]\nspiffe_id = \"spiffe://writ.local/w{workload}\"\nselectors = [\"unix:uid:{workload}\"]\nrole = \"r{role}\"\n"
        );
    }
    text
}

const REGISTERED: [(usize, usize); 6] = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2)];

/// What the whole set says, for one question.
fn unsliced(
    resolved: &Resolved,
    role: &RolePolicy,
    who: &Principal,
    what: &Asked,
    context: &Context,
) -> Response {
    let compiled = Compiled::new(resolved, raw::read(resolved).unwrap()).unwrap();
    let everything = compiled.unsliced().unwrap();
    let facts = context::facts(who, context, &everything.windows).unwrap();
    let request = Request::new(
        entities::workload(&who.workload),
        entities::action(what.action),
        entities::target(&what.target),
        facts,
        None,
    )
    .unwrap();
    Authorizer::new().is_authorized(&request, &everything.policies, &role.entities)
}

fn summary(response: &Response) -> (cedar_policy::Decision, BTreeSet<PolicyId>, BTreeSet<String>) {
    let diagnostics = response.diagnostics();
    (
        response.decision(),
        diagnostics.reason().cloned().collect(),
        diagnostics.errors().map(ToString::to_string).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slicing_changes_no_decision(
        grants in prop::collection::vec((0..3usize, 0..4usize, 0..WINDOWS.len()), 0..12),
        raws in prop::collection::vec(
            (any::<bool>(), 0..PRINCIPALS.len(), 0..RESOURCES.len(), 0..CONDITIONS.len()), 0..8),
        now in prop::sample::select(vec![FRIDAY, SATURDAY, SATURDAY + 6 * 3600 * 1000]),
        level in prop::sample::select(vec![Level::Advisory, Level::Confined]),
    ) {
        let text: String = raws.iter().map(|(permit, principal, resource, condition)| format!(
            "{}({}, action, {}) {};\n",
            if *permit { "permit" } else { "forbid" },
            PRINCIPALS[*principal], RESOURCES[*resource], CONDITIONS[*condition],
        )).collect();
        let resolved = resolved(&town(&grants), &text);
        let policy = CedarPolicy::new(&resolved).unwrap();
        let context = circumstances(now, level);
        for (workload, role) in REGISTERED {
            for target in 0..4 {
                let who = principal(&format!("w{workload}"), &format!("r{role}"));
                let what = asked(&format!("t{target}"), &format!("c{}", target % 2));
                let role = &policy.roles[&who.role];
                let whole = unsliced(&resolved, role, &who, &what, &context);
                let decision = policy.decide(&who, &what, &context);
                match role.slices.get(&what.target) {
                    Some(slice) => {
                        let sliced = policy.ask(role, slice, &who, &what, &context).unwrap();
                        prop_assert_eq!(summary(&sliced), summary(&whole));
                    }
                    None => prop_assert_eq!(whole.decision(), cedar_policy::Decision::Deny),
                }
                let allows = whole.decision() == cedar_policy::Decision::Allow
                    && whole.diagnostics().errors().next().is_none();
                prop_assert_eq!(matches!(decision, Ok(Decision::Allow { .. })), allows);
            }
        }
    }
}

/// Slices are small however many roles there are.
#[test]
fn a_slice_has_only_what_can_apply() {
    let grants: Vec<_> = (0..3).flat_map(|role| (0..4).map(move |target| (role, target, role))).collect();
    let raw = "forbid(principal, action, resource) when { context.level == \"none\" };\n\
               forbid(principal in Role::\"r0\", action, resource == Target::\"t0\") when { context.level == \"none\" };";
    let policy = CedarPolicy::new(&resolved(&town(&grants), raw)).unwrap();
    let size = |role: &str, target: &str| {
        policy.roles[&role.parse().unwrap()].slices[&target.parse().unwrap()].policies.num_of_policies()
    };
    assert_eq!((size("r0", "t0"), size("r0", "t1"), size("r1", "t0")), (3, 2, 2));
    let empty: Vec<(usize, usize, usize)> = Vec::new();
    let policy = CedarPolicy::new(&resolved(&town(&empty), raw)).unwrap();
    assert!(policy.roles.values().all(|role| role.slices.is_empty()), "a forbid alone needs no slice");
}

#[test]
fn a_fault_of_a_raw_policy_names_its_file() {
    let Err(ConfigFault::Entry(problem)) = CedarPolicy::new(&resolved(FULL, "permit(")) else {
        panic!("it must not load")
    };
    assert_eq!((problem.path, problem.line), (PathBuf::from("policies/team.cedar"), 1));
}

#[test]
fn the_specification_has_the_schema() {
    let page = include_str!("../../../../spec/policy.md");
    assert!(page.contains(SCHEMA), "put the schema into spec/policy.md as it is");
    for annotation in ["@id", "@reason", "@methods", "@paths"] {
        assert!(page.contains(annotation), "{annotation}");
    }
}
