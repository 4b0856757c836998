//! Names that would be SQL if they were not quoted.

use serde_json::json;
use writ_core::Revoked;

use crate::bench::Bench;

/// Quotes, another script, a keyword, the longest there is, a semicolon.
fn hostile() -> Vec<String> {
    vec![
        "it's \"odd\"".to_owned(),
        "ünïcødé 数据".to_owned(),
        "select".to_owned(),
        "x".repeat(63),
        "a\"; DROP TABLE orders; --".to_owned(),
        "$$ \\ %s {}".to_owned(),
    ]
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[tokio::test]
async fn databases_templates_and_heirs_may_have_any_name() {
    for name in hostile() {
        let bench = Bench::new();
        let (template, database) = (quoted(&name), quoted(&name));
        bench.admin(&format!("CREATE ROLE {template} IN ROLE {}", bench.place.template));
        bench.admin(&format!("CREATE DATABASE {database}"));
        let mut bench = bench.with(json!({ "member_of": [name], "owned": format!("reassign:{name}") }));
        bench.place.config["database"] = json!(name);
        let issued = bench.issue().await;
        assert_eq!(issued.login.database, name);
        let me = &issued.login.user;
        let there = |sql: &str| bench.place.server.run(&name, sql).unwrap();
        there(&format!("GRANT CREATE ON SCHEMA public TO {me}"));
        let agent = bench.session(&issued).await;
        agent.batch_execute(&format!("CREATE TABLE {template} (id int); SET ROLE {template}")).await.unwrap();
        // And one in the place's own database, which is found and entered by its name.
        bench.admin(&format!("GRANT CREATE ON SCHEMA public TO {me}"));
        assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone, "{name}");
        assert!(agent.batch_execute("SELECT 1").await.is_err());
        assert_eq!(bench.roles(), "0");
        assert_eq!(there("SELECT tableowner FROM pg_tables WHERE schemaname = 'public'"), name);
        assert_eq!(bench.admin("SELECT id FROM orders"), "7");
        bench.admin(&format!("DROP DATABASE {database} WITH (FORCE)"));
        bench.admin(&format!("DROP ROLE {template}"));
    }
}

#[tokio::test]
async fn a_survey_finds_what_is_ours_and_nothing_else() {
    let bench = Bench::new();
    let issued = [bench.issue().await, bench.issue().await];
    let user = &issued[0].login.user;
    bench.admin(&format!("ALTER ROLE {user} NOLOGIN"));
    // Names that a pattern with unescaped underscores, or a careless reader, would take for ours.
    let digits = "0".repeat(32);
    let mark = &user[5..13];
    let alike = [
        format!("writx{mark}x{digits}"),
        format!("writ_{mark}_{}", "z".repeat(32)),
        format!("writ_{mark}_{digits}0"),
        format!("writ_ffffffff_{digits}"),
    ];
    for name in &alike {
        bench.admin(&format!("CREATE ROLE {name}"));
    }
    let credential = "orders".parse().unwrap();
    let found = bench.engine.survey(&credential, &bench.place.config, &bench.broker).await.unwrap().unwrap();
    let mut names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [issued[0].login.user.as_str(), issued[1].login.user.as_str()]);
    for one in &found {
        assert_eq!(one.lease.to_string().replace('-', ""), one.name[14..]);
        assert!(issued.iter().any(|issued| issued.receipt == one.receipt));
        assert_eq!(bench.revoke(&one.receipt).await.unwrap(), Revoked::Gone);
    }
    let left = bench.engine.survey(&credential, &bench.place.config, &bench.broker).await.unwrap().unwrap();
    assert!(left.is_empty());
    for name in &alike {
        bench.admin(&format!("DROP ROLE {name}"));
    }
}
