//! A server, a broker's home, and one trial in it.

use std::{collections::BTreeSet, fmt, fs, path::PathBuf, time::Duration};

use serde_json::Value;
use writ_testkit::{Home, Spawned, Who, postgres::Postgres, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ-faults");
/// When a command is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const RUNS: usize = 3;
/// Says that it is there, and goes when its standard input does.
const PROGRAM: &[&str] = &["sh", "-c", "echo ready; while read -r _; do :; done; exit 0"];

pub struct World {
    server: &'static Postgres,
    home: Home,
    reader: String,
    mark: PathBuf,
    /// When a trial is given up that does not come to rest.
    patience: Duration,
    /// Whether a trial has the server surveyed, which would repair what reversed order breaks.
    pub reconciles: bool,
}

/// What became of one.
#[derive(Debug)]
pub struct Trial {
    /// The point, if the daemon got that far.
    pub died_at: Option<String>,
    /// Leases that are active, each with its login, once all is quiet; or what did not agree.
    pub settled: Result<usize, String>,
    /// Logins that remain when everything has ended.
    pub left: BTreeSet<String>,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.settled {
            Ok(alive) => write!(f, "{alive} alive with their logins, {} left at the end", self.left.len()),
            Err(why) => write!(f, "not settled: {why}"),
        }
    }
}

impl World {
    pub fn open(name: &str, patience: Duration) -> Self {
        let (server, _) = Postgres::shared().unwrap();
        let database = server.database().unwrap();
        let (admin, reader) = (format!("admin_{database}"), format!("read_{database}"));
        let sql = format!(
            "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'a-password-of-{admin}'; CREATE ROLE {reader} NOLOGIN;
             GRANT {reader} TO {admin} WITH ADMIN OPTION; GRANT pg_signal_backend TO {admin};
             CREATE TABLE orders (id int); GRANT SELECT ON orders TO {reader}"
        );
        server.run(&database, &sql).unwrap();
        let home = Home::new(WRIT).unwrap();
        fs::write(home.writ_home().join("writ.toml"), config(server.port(), &database, &admin, &reader))
            .unwrap();
        fs::copy(server.ca_file(), home.writ_home().join("db-ca.pem")).unwrap();
        let set = home.writ(&["credential", "set", "admin"], format!("a-password-of-{admin}").as_bytes());
        let set = set.unwrap();
        assert_eq!(set.code, Some(0), "{name}: {}", set.told());
        let mark = home.writ_home().join("died");
        Self { server, home, reader, mark, patience, reconciles: true }
    }

    /// One trial, from a daemon that is not there to one that has stopped.
    pub fn trial(&mut self, variables: &[(&str, String)]) -> Trial {
        self.home.writ(&["stop"], b"").unwrap();
        let _ = fs::remove_file(&self.mark);
        let mark = self.mark.display().to_string();
        let mut all: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.push(("WRIT_FAULT_MARK", &mark));
        self.home.set_variables(&all);
        let runs = self.act();
        let settled = self.settle();
        for mut run in runs {
            run.end_input();
            let _ = run.wait(PATIENCE);
        }
        let nothing = || self.leases().is_some_and(|leases| leases.is_empty());
        let ended = until(PATIENCE, nothing);
        self.home.writ(&["stop"], b"").unwrap();
        let settled = if ended { settled } else { Err("leases did not end".to_owned()) };
        let died = fs::read_to_string(&self.mark).ok();
        let died_at = died.map(|text| text.split_whitespace().next().unwrap_or_default().to_owned());
        Trial { died_at, settled, left: self.logins() }
    }

    /// Three runs; a lease is revoked, one renewed, the administrator's password changed, the server surveyed; one run ends, the launcher of
    /// another is killed. What fails because the daemon died under it has failed. Those that go on.
    fn act(&self) -> Vec<Spawned> {
        let started: Vec<Spawned> =
            (0..RUNS).map(|_| self.home.spawn_open(&["--no-confine", "--quiet"], PROGRAM).unwrap()).collect();
        let mut runs = Vec::new();
        for mut run in started {
            if run.line("ready", PATIENCE).is_some() {
                runs.push(run);
            }
        }
        let leases: Vec<String> = self.leases().into_iter().flatten().collect();
        let asks = [
            leases.first().map(|lease| vec!["lease", "revoke", lease]),
            leases.last().map(|lease| vec!["lease", "renew", lease]),
            Some(vec!["credential", "rotate", "admin"]),
            self.reconciles.then(|| vec!["lease", "reconcile", "--yes"]),
        ];
        for ask in asks.iter().flatten() {
            let _ = self.home.writ(ask, b"");
        }
        if runs.len() > 1 {
            let mut run = runs.remove(0);
            run.end_input();
            let _ = run.wait(PATIENCE);
        }
        if runs.len() > 1 {
            let mut run = runs.remove(0);
            let _ = run.kill();
            let _ = run.wait(PATIENCE);
        }
        runs
    }

    /// Waits until nothing is on its way any more, and compares.
    fn settle(&self) -> Result<usize, String> {
        let mut last = String::from("no answer");
        let agreed = until(self.patience, || {
            let Some(rows) = self.rows() else { return false };
            let quiet = rows.iter().all(|row| row["state"] == "active");
            let leases: BTreeSet<String> = rows.iter().map(lease).collect();
            let logins = self.logins();
            last = format!("leases {leases:?}, quiet {quiet}, logins {logins:?}");
            quiet && leases == logins
        });
        if !agreed {
            return Err(last);
        }
        // Alive means that it works, or could.
        let dead = "AND NOT (r.rolcanlogin AND r.rolvaliduntil > now())";
        let dead = self.server.run("postgres", &self.sql(dead)).unwrap();
        if dead.is_empty() {
            Ok(self.logins().len())
        } else {
            Err(format!("dead logins of live leases: {dead}"))
        }
    }

    /// Leases that have not ended: `None` while nobody answers.
    fn rows(&self) -> Option<Vec<Value>> {
        self.home.json(&["lease", "list"]).ok()?.as_array().cloned()
    }

    fn leases(&self) -> Option<BTreeSet<String>> {
        Some(self.rows()?.iter().map(|row| row["lease"].as_str().unwrap().to_owned()).collect())
    }

    /// The leases in the names of the logins that the server has.
    fn logins(&self) -> BTreeSet<String> {
        let rows = self.server.run("postgres", &self.sql("")).unwrap();
        rows.lines().map(|name| name.rsplit('_').next().unwrap().to_owned()).collect()
    }

    fn sql(&self, more: &str) -> String {
        format!(
            "SELECT r.rolname FROM pg_roles r JOIN pg_auth_members m ON m.member = r.oid
             WHERE m.roleid = '{}'::regrole AND r.rolname LIKE 'writ\\_%' {more}",
            self.reader
        )
    }

    /// Has writ find what is left, and revoke it. Whether nothing remained.
    pub fn reconcile(&mut self) -> bool {
        self.home.set_variables(&[]);
        let ran = self.home.writ(&["lease", "reconcile", "--yes"], b"").unwrap();
        assert_eq!(ran.code, Some(0), "{}", ran.told());
        until(PATIENCE, || self.logins().is_empty())
    }

    /// The end of the daemon's log.
    pub fn told(&self) -> String {
        let log = fs::read_to_string(self.home.writ_home().join("state/daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub fn close(self) {
        self.home.close().unwrap();
    }
}

/// As it is in the name of its login.
fn lease(row: &Value) -> String {
    row["lease"].as_str().unwrap().chars().filter(char::is_ascii_hexdigit).collect()
}

fn config(port: u16, database: &str, admin: &str, reader: &str) -> String {
    let logins: String = (1..=2)
        .map(|number| {
            format!(
                r#"
[[credential]]
name = "login{number}"
engine = "postgres"
config = {{ server = "db.example:5432", dial = "127.0.0.1:{port}", database = "{database}", user = "{admin}", password = "admin", member_of = ["{reader}"], tls_ca = "db-ca.pem" }}
[[target]]
name = "db{number}"
host = "db{number}.example:5432"
credential = "login{number}"
reveal = "service-file"
dial = "127.0.0.1:{port}"
allow_private = ["127.0.0.0/8"]
"#
            )
        })
        .collect();
    let uid = Who::Caller.uid();
    format!(
        r#"version = 1
[seal]
kind = "key-file"
accept_below_confined = true
[run]
role = "dev"
[[credential]]
name = "admin"
{logins}
[[role]]
name = "dev"
grants = [{{ target = "db1" }}, {{ target = "db2" }}]
[[workload]]
spiffe_id = "spiffe://writ.local/dev/test"
selectors = ["unix:uid:{uid}"]
role = "dev"
"#
    )
}
