//! A PostgreSQL login born for one run: unmodified clients of a real server, at every level, and the end of the login.
//!
//! Order and outcome are asserted, never times: [`PATIENCE`] is only when a test gives up.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy does not see that the helpers here are tests")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use writ_testkit::{Home, Ran, Who, ended, postgres::Postgres, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(60);
const TARGET: &str = "orders-db";
/// Who it is, whether TLS is spoken, and what the read-only role may see.
const LOOK: &str = r#"
q() { psql -X -A -t -w -v ON_ERROR_STOP=1 -c "$1"; }
echo "user $(q 'select current_user')"
echo "tls $(q 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')"
echo "application $(q "select current_setting('application_name')")"
echo "orders $(q 'select count(*) from orders')"
echo "payments $(q 'select count(*) from payments' 2>&1)"
echo "insert $(q "insert into orders values (9)" 2>&1)"
echo "environment $(env | grep -c "$PGPASSWORD")"
"#;

/// A database with a read-only role, and a place whose configuration reveals logins of it.
struct Shop {
    server: &'static Postgres,
    database: String,
    admin: String,
    home: Home,
}

impl Shop {
    fn open(writ: &Path, who: Who, reveal: &str) -> Self {
        let (server, _) = Postgres::shared().unwrap();
        let database = server.database().unwrap();
        let (admin, reader) = (format!("admin_{database}"), format!("read_{database}"));
        server
            .run(
                &database,
                &format!(
                    "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'a-password-of-{admin}'; CREATE ROLE {reader} NOLOGIN;
                     GRANT {reader} TO {admin} WITH ADMIN OPTION;
                     CREATE TABLE orders (id int); CREATE TABLE payments (card text);
                     INSERT INTO orders VALUES (1), (2); GRANT SELECT ON orders TO {reader}"
                ),
            )
            .unwrap();
        let home = Home::of(writ, who).unwrap();
        let config = home.writ_home().join("writ.toml");
        let ca = home.writ_home().join("db-ca.pem");
        fs::write(&ca, fs::read(server.ca_file()).unwrap()).unwrap();
        let (port, uid) = (server.port(), who.uid());
        fs::write(
            &config,
            format!(
                r#"version = 1
egress = "listed"
[seal]
kind = "key-file"
accept_below_confined = true
[[credential]]
name = "db-admin"
[[credential]]
name = "orders"
engine = "postgres"
env = ["DATABASE_URL"]
config = {{ server = "db.example:5432", dial = "127.0.0.1:{port}", database = "{database}", user = "{admin}", password = "db-admin", member_of = ["{reader}"], tls_ca = "db-ca.pem" }}
[[target]]
name = "{TARGET}"
host = "db.example:5432"
credential = "orders"
reveal = "{reveal}"
dial = "127.0.0.1:{port}"
allow_private = ["127.0.0.0/8"]
[[role]]
name = "dev"
grants = [{{ target = "{TARGET}" }}]
[[workload]]
spiffe_id = "spiffe://writ.local/dev/test"
selectors = ["unix:uid:{uid}"]
role = "dev"
"#
            ),
        )
        .unwrap();
        for file in [&config, &ca] {
            who.own(file).unwrap();
        }
        let shop = Self { server, database, admin, home };
        let set = shop.home.writ(&["credential", "set", "db-admin"], shop.password().as_bytes()).unwrap();
        assert_eq!(set.code, Some(0), "{}", set.told());
        shop
    }

    fn password(&self) -> String {
        format!("a-password-of-{}", self.admin)
    }

    fn run(&self, options: &[&str], script: &str) -> Ran {
        let run =
            self.home.spawn_with(&[&["--role", "dev"], options].concat(), &["sh", "-c", script]).unwrap();
        run.wait(PATIENCE).unwrap()
    }

    /// Logins of this shop's database that exist.
    fn logins(&self) -> Vec<String> {
        let sql = format!(
            "select r.rolname from pg_roles r join pg_auth_members m on m.member = r.oid \
             where m.roleid = 'read_{0}'::regrole and r.rolname <> 'admin_{0}'",
            self.database
        );
        self.server.run("postgres", &sql).unwrap().lines().map(str::to_owned).collect()
    }

    fn all_gone(&self) -> bool {
        until(PATIENCE, || self.logins().is_empty())
    }

    fn leases(&self) -> Vec<serde_json::Value> {
        self.home.json(&["lease", "list"]).unwrap().as_array().unwrap().clone()
    }

    /// What the program was revealed, in files of writ's own: there must be none of it.
    fn found(&self, secret: &str) -> Vec<String> {
        let grep = Command::new("grep")
            .args(["-rlaF", "-e", secret])
            .arg(self.home.writ_home())
            .arg(self.home.home())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(grep.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn said<'a>(ran: &'a str, start: &str) -> &'a str {
    ran.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("no {start:?} in {ran}"))
}

fn looks(shop: &Shop, options: &[&str], level: &str) {
    let ran = shop.run(options, LOOK);
    let (out, err) = (ran.out(), ran.err());
    assert!(said(&out, "user ").starts_with("writ_"), "{}", ran.told());
    assert_eq!((said(&out, "tls "), said(&out, "orders ")), ("t", "2"), "{}", ran.told());
    assert!(said(&out, "application ").starts_with("writ:"), "{}", ran.told());
    assert!(said(&out, "payments ").contains("permission denied"), "{}", ran.told());
    assert!(said(&out, "insert ").contains("permission denied"), "{}", ran.told());
    assert!(err.contains(&format!("({level})")) && err.contains("orders-db is revealed"), "{err}");
    assert!(shop.all_gone(), "the login outlived its run: {:?}", shop.logins());
}

#[test]
fn psql_just_works_for_root_and_for_a_user_and_cannot_see_the_payments() {
    for who in Who::ALL {
        let shop = Shop::open(Path::new(WRIT), who, "environment");
        looks(&shop, &["--require", "confined"], "confined");
        looks(&shop, &["--no-confine"], "advisory");
        shop.home.close().unwrap();
    }
}

#[test]
fn psql_just_works_where_namespaces_are_refused() {
    let shop = Shop::open(Path::new(WRIT), Who::Caller, "environment");
    let shop = std::thread::spawn(move || {
        writ_testkit::refuse_namespaces().unwrap();
        looks(&shop, &["--require", "restricted"], "restricted");
        shop
    });
    shop.join().unwrap().home.close().unwrap();
}

/// The password is in a file that only the program sees, and nowhere in its environment.
#[test]
fn a_password_file_keeps_the_password_out_of_the_environment() {
    let script = r#"
        psql -X -A -t -w -c "select 'user ' || current_user"
        psql -X -A -t -w -d "$DATABASE_URL" -c "select 'url ' || current_user"
        password=$(cut -d: -f5 "$PGPASSFILE")
        echo "file $PGPASSFILE $(stat -c %a "$PGPASSFILE")"
        echo "length ${#password}"
        echo "environment $(env | grep -c -F -e "$password")"
        echo changed 2> /dev/null > "$PGPASSFILE" && echo "written" || echo "refused""#;
    for (who, options, place) in [
        (Who::User, ["--require", "confined"], "/run/writ/pgpass 600"),
        (Who::Caller, ["--require", "advisory"], "/pgpass 600"),
    ] {
        let options = if place.starts_with("/run") { options.to_vec() } else { vec!["--no-confine"] };
        let shop = Shop::open(Path::new(WRIT), who, "passfile");
        let ran = shop.run(&options, script);
        let out = ran.out();
        assert!(said(&out, "user ").starts_with("writ_"), "{}", ran.told());
        assert_eq!(said(&out, "user "), said(&out, "url "), "{}", ran.told());
        assert!(said(&out, "file ").ends_with(place), "{}", ran.told());
        assert!(said(&out, "length ").parse::<usize>().unwrap() >= 16, "{}", ran.told());
        assert_eq!(said(&out, "environment "), "0", "{}", ran.told());
        if place.starts_with("/run") {
            assert!(out.contains("refused"), "the program could write what writ delivers: {}", ran.told());
        }
        let left =
            fs::read_dir(shop.home.writ_home().join("run")).unwrap().map(|one| one.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with("login-")).collect();
        assert!(left.is_empty(), "{left:?} outlived the run");
        assert!(shop.all_gone());
        shop.home.close().unwrap();
    }
}

/// The password is in no file of writ's, in no record, log or answer, and not in the plan that `--dry-run` shows.
#[test]
fn the_password_is_nowhere_in_writs_files() {
    let shop = Shop::open(Path::new(WRIT), Who::Caller, "environment");
    let mut run = shop
        .home
        .spawn_with(&["--role", "dev"], &["sh", "-c", "psql -X -A -t -w -c 'select 1' > /dev/null; echo \"password $PGPASSWORD\"; echo \"url $DATABASE_URL\"; exec sleep 600"])
        .unwrap();
    let password = run.line("password ", PATIENCE).unwrap();
    assert!(password.len() >= 16);
    assert!(run.line("url ", PATIENCE).unwrap().starts_with("postgres://writ_"));
    assert_eq!(shop.found(&password), Vec::<String>::new(), "while it runs");
    for shown in [["lease", "list"], ["audit", "query"]] {
        let shown = shop.home.writ(&shown, b"").unwrap();
        assert!(shown.code == Some(0) && !shown.told().contains(&password), "{}", shown.told());
    }
    let listed = shop.home.writ(&["lease", "list"], b"").unwrap().out();
    assert!(listed.contains("orders, revealed"), "{listed}");
    assert_eq!(shop.leases()[0]["revealed"], true);
    drop(run);
    assert!(shop.all_gone(), "the launcher was killed, and its login lives: {:?}", shop.logins());
    assert_eq!(shop.found(&password), Vec::<String>::new(), "afterwards");
    let dry = shop.home.writ(&["run", "--dry-run", "--", "psql"], b"").unwrap();
    assert_eq!(dry.code, Some(0), "{}", dry.told());
    assert!(shop.logins().is_empty() && !dry.told().contains("PGPASSWORD="), "{}", dry.told());
    shop.home.close().unwrap();
}

#[test]
fn revoking_the_lease_ends_the_open_session_and_the_login() {
    let shop = Shop::open(Path::new(WRIT), Who::Caller, "environment");
    let script = r#"
        (echo "select 'open';"; echo "select 'still ' || pg_sleep(600);") | psql -X -A -t -w 2>&1 | sed -u 's/^/psql /'
        echo "again $(psql -X -A -t -w -c 'select 1' 2>&1 | tr '\n' ' ')""#;
    let mut run = shop.home.spawn_with(&["--role", "dev"], &["sh", "-c", script]).unwrap();
    assert_eq!(run.line("psql open", PATIENCE).as_deref(), Some(""));
    let lease = shop.leases()[0]["lease"].as_str().unwrap().to_owned();
    let revoked = shop.home.writ(&["lease", "revoke", &lease], b"").unwrap();
    assert_eq!(revoked.code, Some(0), "{}", revoked.told());
    let again = run.line("again ", PATIENCE).expect("the open session was cut");
    assert!(again.contains("error") || again.contains("refused") || again.contains("closed"), "{again:?}");
    assert!(shop.all_gone());
    run.wait(PATIENCE).unwrap();
    let records = shop.home.writ(&["audit", "query", "--lease", &lease, "--json"], b"").unwrap().out();
    assert!(records.contains("lease-revoked"), "the relay was cut, and the record says why: {records}");
    assert!(records.contains("\"reveal\""), "the record says that it was revealed: {records}");
    shop.home.close().unwrap();
}

#[test]
fn a_killed_daemon_and_launcher_leave_no_login_behind() {
    let shop = Shop::open(Path::new(WRIT), Who::Caller, "environment");
    let mut run = shop
        .home
        .spawn_with(&["--role", "dev"], &["sh", "-c", "echo \"user $PGUSER\"; exec sleep 600"])
        .unwrap();
    let user = run.line("user ", PATIENCE).unwrap();
    assert_eq!(shop.logins(), [user]);
    let daemon: Pid = shop.home.daemon().unwrap();
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    // The launcher must not call the next daemon to go on.
    rustix::process::kill_process(run.pid().unwrap(), Signal::STOP).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    assert!(ended(&process, PATIENCE));
    run.kill().unwrap();
    drop(run);
    assert_eq!(shop.logins().len(), 1, "nobody was there to end it");
    shop.leases(); // starts the next daemon
    assert!(shop.all_gone(), "the next daemon left {:?}", shop.logins());
    shop.home.close().unwrap();
}

/// The daemon dies under a program that runs. The old login ends, and the service file has a new one at the same path.
#[test]
fn a_service_file_outlives_the_daemon() {
    let script = r#"
        who() { psql -X -A -t -w -c 'select current_user' 2>&1 | tr '\n' ' '; }
        echo "first $(who)"
        read go
        echo "second $(who)""#;
    for options in [["--require", "confined"].as_slice(), &["--no-confine"]] {
        let shop = Shop::open(Path::new(WRIT), Who::Caller, "service-file");
        let gate = shop.home.work().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let script = script.replace("read go", "read go < gate");
        let mut run =
            shop.home.spawn_with(&[&["--role", "dev"], options].concat(), &["sh", "-c", &script]).unwrap();
        let first = run.line("first ", PATIENCE).unwrap();
        assert!(first.starts_with("writ_"), "{first}");
        kill_process(shop.home.daemon().unwrap(), Signal::KILL).unwrap();
        assert!(run.says("a new login is in the service file", PATIENCE));
        assert!(until(PATIENCE, || !shop.logins().contains(&first)), "the old one lives");
        fs::write(&gate, "go\n").unwrap();
        let second = run.line("second ", PATIENCE).unwrap();
        assert!(second.starts_with("writ_") && second != first, "{first} {second}");
        run.wait(PATIENCE).unwrap();
        assert!(shop.all_gone());
        shop.home.close().unwrap();
    }
}

/// A database that does not answer costs its login, not the run; and none of the caller's own credentials gets in.
#[test]
fn without_the_database_the_program_runs_and_the_person_is_told() {
    let shop = Shop::open(Path::new(WRIT), Who::Caller, "environment");
    let config = shop.home.writ_home().join("writ.toml");
    let text = fs::read_to_string(&config).unwrap();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let here = format!("dial = \"127.0.0.1:{}\", database", shop.server.port());
    fs::write(&config, text.replace(&here, &format!("dial = \"{dead}\", database"))).unwrap();
    let mut command = shop.home.command(Path::new(WRIT));
    command.args(["run", "--", "sh", "-c", "echo \"password <$PGPASSWORD$PGPASSFILE$PGSERVICEFILE>\""]);
    for name in ["PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE"] {
        command.env(name, "the-callers-own");
    }
    let ran = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said(&out, "password "), "<>", "{err}");
    assert!(err.contains("no login for orders-db") && err.contains("PGPASSWORD is withheld"), "{err}");
    assert!(shop.logins().is_empty());
    shop.home.close().unwrap();
}

/// A driver, not `psql`: by libpq's variables, and by the URL.
#[test]
fn psycopg_just_works() {
    let script = r#"
import os, psycopg
for name, where in [("variables", ""), ("url", os.environ["DATABASE_URL"])]:
    with psycopg.connect(where) as connection:
        print(name, connection.execute("select current_user").fetchone()[0], flush=True)
        try:
            connection.execute("select * from payments")
        except psycopg.errors.InsufficientPrivilege:
            print(name + "-payments refused", flush=True)
"#;
    for (reveal, options) in [
        ("environment", ["--require", "confined"].as_slice()),
        ("environment", &["--no-confine"]),
        ("service-file", &["--require", "confined"]),
    ] {
        let shop = Shop::open(Path::new(WRIT), Who::Caller, reveal);
        let python = writ_testkit::clients::python(&shop.home).unwrap();
        let run =
            shop.home.spawn_with(&[&["--role", "dev"], options].concat(), &[&python, "-c", script]).unwrap();
        let ran = run.wait(PATIENCE).unwrap();
        let out = ran.out();
        assert!(said(&out, "variables ").starts_with("writ_"), "{reveal} {options:?}: {}", ran.told());
        assert!(said(&out, "url ").starts_with("writ_"), "{reveal} {options:?}: {}", ran.told());
        assert_eq!(out.matches("-payments refused").count(), 2, "{reveal} {options:?}: {}", ran.told());
        assert!(shop.all_gone());
        shop.home.close().unwrap();
    }
}
