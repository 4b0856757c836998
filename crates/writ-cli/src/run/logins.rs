//! Logins that the program holds: how they reach it, as a pure function of what the broker revealed.
//!
//! ```text
//!   Revealed, sealed ─open─► Login ─┬─ environment    PG* variables, the password among them
//!                                   ├─ passfile       PG* variables, and PGPASSFILE names a file with the password
//!                                   └─ service-file   PGSERVICEFILE, with a section for each such target
//! ```
//!
//! The names are those of libpq (PostgreSQL documentation, §34.15 "Environment Variables", §34.16 "The Password File", §34.17 "The
//! Connection Service File"), which most drivers read as well. TLS runs from the program to the server: writ terminates nothing, so the
//! trust anchors are the server's own or the system's, never the session's.
//!
//! Below `confined` the way to a server is a door on loopback. The name stays the server's, for its certificate; `hostaddr` says where
//! to connect. A driver that knows no `hostaddr` cannot use such a door.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use writ_api::{
    run::{Opened, Revealed},
    seal::{Place, Recipient},
};
use writ_core::{Authority, Reveal, Secret};
use writ_run::Delivered;
use zeroize::Zeroizing;

use crate::fault::Fault;

/// Everything that tells libpq where and how to connect. What the caller has of these would mix with a login of the program's own.
pub const PROGRAMS_OWN: &[&str] = &[
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGSERVICE",
    "PGSYSCONFDIR",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLNEGOTIATION",
    "PGREQUIREPEER",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGTARGETSESSIONATTRS",
    "PGAPPNAME",
];
/// Credentials of the caller's, and files that hold them. No program gets those.
pub const CREDENTIALS: &[&str] = &["PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY"];
const PASSFILE: &str = "pgpass";
const SERVICE_FILE: &str = "pg_service.conf";
/// libpq's words, and the variables that say the same.
const VARIABLES: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("application_name", "PGAPPNAME"),
];
/// What a URL has in its query; the rest is in the URL's other parts, or is a label.
const IN_QUERY: &[&str] = &["hostaddr", "sslmode", "sslrootcert"];

/// A login, opened.
#[derive(Debug)]
pub struct Login<'a> {
    revealed: &'a Revealed,
    password: Secret,
}

/// Where the program finds things.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The directory of the files, by the name that the program uses.
    pub directory: &'a Path,
    /// The system's certificates alone, by that name.
    pub system: Option<&'a Path>,
    /// Doors on loopback. Empty where names lead to doors by themselves.
    pub doors: &'a [(Authority, SocketAddr)],
}

/// What the program gets.
#[derive(Default)]
pub struct Delivery {
    pub variables: Vec<(String, Zeroizing<String>)>,
    pub files: Vec<Delivered>,
}

/// Opens what was revealed to this launcher.
pub fn open<'a>(opened: &'a Opened, recipient: Option<&Recipient>) -> Result<Vec<Login<'a>>, Fault> {
    let damaged = |revealed: &Revealed| {
        Fault::new(format!("the login for {} does not open", revealed.target), "start a new run")
    };
    let open = |revealed: &'a Revealed| {
        let place = Place::Lease { session: opened.session, lease: revealed.lease };
        let password = recipient.and_then(|recipient| recipient.open(&revealed.sealed, &place).ok());
        let password = password.filter(|password| std::str::from_utf8(password.expose()).is_ok());
        Ok(Login { revealed, password: password.ok_or_else(|| damaged(revealed))? })
    };
    opened.revealed.iter().map(open).collect()
}

/// What the program gets for its logins.
pub fn deliver(logins: &[Login<'_>], way: &Way<'_>) -> Delivery {
    let mut delivery = Delivery::default();
    let (mut passfile, mut services) = (Zeroizing::new(String::new()), Zeroizing::new(String::new()));
    for login in logins {
        let words = login.words(way);
        match login.revealed.reveal {
            Reveal::Environment => {
                delivery.name(&words);
                delivery.set("PGPASSWORD", login.password().to_owned());
            }
            Reveal::Passfile => {
                delivery.name(&words);
                delivery.set("PGPASSFILE", text(&way.directory.join(PASSFILE)));
                passfile.push_str(&login.passfile_line(&words));
            }
            Reveal::ServiceFile => services.push_str(&login.section(&words)),
        }
        for name in &login.revealed.env {
            delivery.set(name, login.url(&words));
        }
        if let Some(pem) = &login.revealed.tls_ca {
            delivery.file(&login.ca_name(), pem);
        }
    }
    if !passfile.is_empty() {
        delivery.file(PASSFILE, &passfile);
    }
    if !services.is_empty() {
        delivery.set("PGSERVICEFILE", text(&way.directory.join(SERVICE_FILE)));
        delivery.file(SERVICE_FILE, &services);
    }
    // Nothing else would say which one is meant.
    if let [Login { revealed: Revealed { reveal: Reveal::ServiceFile, target, .. }, .. }] = logins {
        delivery.set("PGSERVICE", target.to_string());
    }
    delivery
}

impl Delivery {
    fn name(&mut self, words: &[(&'static str, String)]) {
        for (word, value) in words {
            if let Some((_, name)) = VARIABLES.iter().find(|(known, _)| known == word) {
                self.set(name, value.clone());
            }
        }
    }

    fn set(&mut self, name: &str, value: String) {
        self.variables.push((name.to_owned(), Zeroizing::new(value)));
    }

    fn file(&mut self, name: &str, content: &str) {
        self.files.push(Delivered { name: name.to_owned(), content: content.into() });
    }
}

impl Login<'_> {
    /// What libpq is told, but for the password.
    fn words(&self, way: &Way<'_>) -> Vec<(&'static str, String)> {
        let Revealed { authority, login, lease, tls, .. } = self.revealed;
        let door = way.doors.iter().find(|(known, _)| known == authority).map(|(_, door)| *door);
        let mut words = vec![("host", authority.host().to_string())];
        words.extend(door.map(|door| ("hostaddr", door.ip().to_string())));
        words.push(("port", door.map_or(authority.port(), |door| door.port()).to_string()));
        words.push(("user", login.user.clone()));
        words.push(("dbname", login.database.clone()));
        words.push(("sslmode", if *tls { "verify-full" } else { "disable" }.to_owned()));
        if *tls && let Some(anchors) = self.anchors(way) {
            words.push(("sslrootcert", text(&anchors)));
        }
        words.push(("application_name", format!("writ:{lease}")));
        words
    }

    fn anchors(&self, way: &Way<'_>) -> Option<PathBuf> {
        match self.revealed.tls_ca {
            Some(_) => Some(way.directory.join(self.ca_name())),
            None => way.system.map(Path::to_path_buf),
        }
    }

    fn ca_name(&self) -> String {
        format!("{}-ca.pem", self.revealed.target)
    }

    /// `host:port:database:user:password`. For this server alone, whatever else the program connects to.
    fn passfile_line(&self, words: &[(&'static str, String)]) -> String {
        let fields = ["host", "port"].map(|word| escaped(value(words, word)));
        let user = escaped(value(words, "user"));
        format!("{}:*:{user}:{}\n", fields.join(":"), escaped(self.password()))
    }

    fn section(&self, words: &[(&'static str, String)]) -> String {
        let mut section = format!("[{}]\n", self.revealed.target);
        let words = words.iter().map(|(word, value)| (*word, value.as_str()));
        for (word, value) in words.chain([("password", self.password())]) {
            let _ = writeln!(section, "{word}={value}");
        }
        section
    }

    /// The login as a URL; without the password where a file has it.
    fn url(&self, words: &[(&'static str, String)]) -> String {
        if self.revealed.reveal == Reveal::ServiceFile {
            return format!("postgres:///?service={}", encoded(self.revealed.target.as_str()));
        }
        let password = match self.revealed.reveal {
            Reveal::Environment => format!(":{}", encoded(self.password())),
            Reveal::Passfile | Reveal::ServiceFile => String::new(),
        };
        let query = words.iter().filter(|(word, _)| IN_QUERY.contains(word));
        let query: Vec<String> = query.map(|(word, value)| format!("{word}={}", encoded(value))).collect();
        let [user, host, port, database] = ["user", "host", "port", "dbname"].map(|word| value(words, word));
        let (user, database) = (encoded(user), encoded(database));
        format!("postgres://{user}{password}@{host}:{port}/{database}?{}", query.join("&"))
    }

    fn password(&self) -> &str {
        std::str::from_utf8(self.password.expose()).unwrap_or_default()
    }
}

fn value<'a>(words: &'a [(&'static str, String)], word: &str) -> &'a str {
    words.iter().find(|(known, _)| *known == word).map_or("", |(_, value)| value)
}

/// As the password file wants it.
fn escaped(field: &str) -> String {
    field.replace('\\', r"\\").replace(':', r"\:")
}

/// Percent-encoded, but for unreserved characters (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use writ_api::seal;
    use writ_core::{LeaseId, Login as Account, SessionId, Timestamp};

    use super::*;

    fn revealed(recipient: &Recipient, target: &str, reveal: Reveal) -> Revealed {
        let (session, lease) = ids();
        let place = Place::Lease { session, lease };
        let password = Secret::new(br"p:w\/ d%".to_vec());
        Revealed {
            target: target.parse().unwrap(),
            credential: "orders".parse().unwrap(),
            lease,
            reveal,
            env: vec!["DATABASE_URL".into()],
            authority: format!("{target}.example:5432").parse().unwrap(),
            tls: true,
            tls_ca: (target == "db").then(|| "PEM".into()),
            login: Account { user: "writ_u".into(), database: "or/ders".into() },
            expires_at: Timestamp::from_millis(0),
            sealed: seal::seal(&password, recipient.key(), &place).unwrap(),
        }
    }

    fn ids() -> (SessionId, LeaseId) {
        let at = Timestamp::from_millis(0);
        (SessionId::new(at, &[0; 10]), LeaseId::new(at, &[1; 10]))
    }

    fn opened(revealed: Vec<Revealed>) -> Opened {
        Opened {
            session: ids().0,
            workload: "spiffe://writ.local/a".parse().unwrap(),
            role: "dev".parse().unwrap(),
            expires_at: Timestamp::from_millis(0),
            ca_pem: String::new(),
            variables: Vec::new(),
            withhold: Vec::new(),
            hosts: Vec::new(),
            named: Vec::new(),
            local: Vec::new(),
            caches: Vec::new(),
            readable: Vec::new(),
            presets: Vec::new(),
            revealed,
            keepsake: String::new(),
        }
    }

    fn check(targets: &[(&str, Reveal)], doors: bool, expect: Expect) {
        let recipient = Recipient::generate().unwrap();
        let opened = opened(targets.iter().map(|(name, how)| revealed(&recipient, name, *how)).collect());
        let doors: Vec<(Authority, SocketAddr)> = opened
            .revealed
            .iter()
            .filter(|_| doors)
            .map(|one| (one.authority.clone(), "127.0.0.1:40001".parse().unwrap()))
            .collect();
        let way =
            Way { directory: Path::new("/run/writ"), system: Some(Path::new("/etc/ca.crt")), doors: &doors };
        let delivery = deliver(&open(&opened, Some(&recipient)).unwrap(), &way);
        let mut shown = String::new();
        for (name, value) in &delivery.variables {
            writeln!(shown, "{name}={}", value.as_str()).unwrap();
        }
        for file in &delivery.files {
            writeln!(shown, "--- {}\n{}", file.name, file.content.os().display().to_string().trim_end())
                .unwrap();
        }
        expect.assert_eq(&shown);
    }

    #[test]
    fn in_the_environment() {
        check(
            &[("db", Reveal::Environment)],
            false,
            expect![[r#"
            PGHOST=db.example
            PGPORT=5432
            PGUSER=writ_u
            PGDATABASE=or/ders
            PGSSLMODE=verify-full
            PGSSLROOTCERT=/run/writ/db-ca.pem
            PGAPPNAME=writ:00000000-0000-7101-8101-010101010101
            PGPASSWORD=p:w\/ d%
            DATABASE_URL=postgres://writ_u:p%3Aw%5C%2F%20d%25@db.example:5432/or%2Fders?sslmode=verify-full&sslrootcert=%2Frun%2Fwrit%2Fdb-ca.pem
            --- db-ca.pem
            PEM
        "#]],
        );
        check(
            &[("db", Reveal::Environment)],
            true,
            expect![[r#"
            PGHOST=db.example
            PGHOSTADDR=127.0.0.1
            PGPORT=40001
            PGUSER=writ_u
            PGDATABASE=or/ders
            PGSSLMODE=verify-full
            PGSSLROOTCERT=/run/writ/db-ca.pem
            PGAPPNAME=writ:00000000-0000-7101-8101-010101010101
            PGPASSWORD=p:w\/ d%
            DATABASE_URL=postgres://writ_u:p%3Aw%5C%2F%20d%25@db.example:40001/or%2Fders?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%2Frun%2Fwrit%2Fdb-ca.pem
            --- db-ca.pem
            PEM
        "#]],
        );
    }

    #[test]
    fn in_a_password_file() {
        check(
            &[("wide", Reveal::Passfile)],
            true,
            expect![[r#"
            PGHOST=wide.example
            PGHOSTADDR=127.0.0.1
            PGPORT=40001
            PGUSER=writ_u
            PGDATABASE=or/ders
            PGSSLMODE=verify-full
            PGSSLROOTCERT=/etc/ca.crt
            PGAPPNAME=writ:00000000-0000-7101-8101-010101010101
            PGPASSFILE=/run/writ/pgpass
            DATABASE_URL=postgres://writ_u@wide.example:40001/or%2Fders?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%2Fetc%2Fca.crt
            --- pgpass
            wide.example:40001:*:writ_u:p\:w\\/ d%
        "#]],
        );
    }

    #[test]
    fn in_a_service_file() {
        check(
            &[("db", Reveal::ServiceFile)],
            false,
            expect![[r#"
            DATABASE_URL=postgres:///?service=db
            PGSERVICEFILE=/run/writ/pg_service.conf
            PGSERVICE=db
            --- db-ca.pem
            PEM
            --- pg_service.conf
            [db]
            host=db.example
            port=5432
            user=writ_u
            dbname=or/ders
            sslmode=verify-full
            sslrootcert=/run/writ/db-ca.pem
            application_name=writ:00000000-0000-7101-8101-010101010101
            password=p:w\/ d%
        "#]],
        );
        check(
            &[("db", Reveal::ServiceFile), ("wide", Reveal::ServiceFile)],
            true,
            expect![[r#"
            DATABASE_URL=postgres:///?service=db
            DATABASE_URL=postgres:///?service=wide
            PGSERVICEFILE=/run/writ/pg_service.conf
            --- db-ca.pem
            PEM
            --- pg_service.conf
            [db]
            host=db.example
            hostaddr=127.0.0.1
            port=40001
            user=writ_u
            dbname=or/ders
            sslmode=verify-full
            sslrootcert=/run/writ/db-ca.pem
            application_name=writ:00000000-0000-7101-8101-010101010101
            password=p:w\/ d%
            [wide]
            host=wide.example
            hostaddr=127.0.0.1
            port=40001
            user=writ_u
            dbname=or/ders
            sslmode=verify-full
            sslrootcert=/etc/ca.crt
            application_name=writ:00000000-0000-7101-8101-010101010101
            password=p:w\/ d%
        "#]],
        );
    }

    #[test]
    fn it_opens_for_this_launcher_alone_and_is_not_shown() {
        let (ours, other) = (Recipient::generate().unwrap(), Recipient::generate().unwrap());
        let opened = opened(vec![revealed(&ours, "db", Reveal::Environment)]);
        assert!(open(&opened, Some(&other)).is_err() && open(&opened, None).is_err());
        let logins = open(&opened, Some(&ours)).unwrap();
        let way = Way { directory: Path::new("/run/writ"), system: None, doors: &[] };
        let files = deliver(&logins, &way).files;
        assert!(!format!("{logins:?} {files:?}").contains("p:w"));
    }

    #[test]
    fn without_tls_only_where_the_configuration_says_so() {
        let recipient = Recipient::generate().unwrap();
        let mut one = revealed(&recipient, "db", Reveal::Environment);
        one.tls = false;
        let opened = opened(vec![one]);
        let way = Way { directory: Path::new("/run/writ"), system: None, doors: &[] };
        let delivery = deliver(&open(&opened, Some(&recipient)).unwrap(), &way);
        let mode = delivery.variables.iter().find(|(name, _)| name == "PGSSLMODE").unwrap();
        assert_eq!(mode.1.as_str(), "disable");
    }
}
