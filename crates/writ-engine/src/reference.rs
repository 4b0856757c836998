//! The reference page of the secrets engines and sources, made from the registries so that it cannot be behind.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use crate::{engines, sources};

/// `docs/reference/engines.md`
pub fn page() -> String {
    let mut page = String::from(
        "# Secrets engines and sources\n\n<!-- Generated from the registries; the test of writ-engine keeps it true. -->\n\n\
         A credential's `engine` says how it comes to be; left out, it is `static`.\n\n| engine | example of what it is told |\n|---|---|\n",
    );
    for engine in engines() {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{}` | `{}` |", engine.name(), table(&engine.example()));
    }
    page.push_str("\nA `source` reads a value from where it is kept already, at each acquisition.\n\n| scheme | example |\n|---|---|\n");
    for source in sources() {
        let _ = writeln!(page, "| `{}://` | `{}` |", source.scheme(), source.example());
    }
    page.push_str(POSTGRES);
    page
}

/// A table as it is written in `writ.toml`, by key: text, numbers and lists of them look the same in JSON.
fn table(example: &Value) -> String {
    let keys: BTreeMap<_, _> = example.as_object().into_iter().flatten().collect();
    let written: Vec<String> = keys.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", written.join(", "))
}

/// What an operator prepares for the engine `postgres`, and what each of its keys means.
const POSTGRES: &str = r#"
## `postgres`: a login for each lease

A login `writ_<mark>_<lease>` is made for the lease and is a member of the roles in `member_of`. Its end is that of the lease, by
the server's own clock as well (`VALID UNTIL`, one minute later). Revoking it bars the login, ends its sessions, undoes what it
prepared, drops what it owns in every database of the server, drops the role, and looks whether all of it is gone. The lease
stands in the role's comment and in its `application_name`.

| key | meaning |
|---|---|
| `server` | `host:port`; the port is 5432 where none is named. The certificate is for this host. No directory of Unix sockets |
| `dial` | address and port to connect to, where the host's name does not say it |
| `database` | the database that the login is for |
| `user` | the administrator: the role that makes the logins |
| `password` | the name of the stored credential that is the administrator's password |
| `member_of` | 1 to 16 template roles: what a login may do |
| `tls` | `verify-full`, where passwords are given by SCRAM with channel binding and no other way, or `disable` for a server on a loopback address |
| `tls_ca` | a file with the certificates to verify the server with; the system's where it is left out |
| `connection_limit` | sessions that one login may have at once; 20 where it is left out |
| `owned` | `drop`: what a login made goes with it. `reassign:ROLE`: it goes to ROLE, one of `member_of` |
| `allow_privileged` | `true` accepts a template that could free a login of its end |

An administrator need not be a superuser. PostgreSQL 14 and 15:

```sql
CREATE ROLE orders_read NOLOGIN;
GRANT USAGE ON SCHEMA public TO orders_read;
GRANT SELECT ON orders, customers TO orders_read;

CREATE ROLE writ_admin LOGIN CREATEROLE CONNECTION LIMIT 20 PASSWORD '…';
GRANT orders_read TO writ_admin WITH ADMIN OPTION;
GRANT pg_signal_backend TO writ_admin;
```

PostgreSQL 16 and later, where the administrator need not have the rights that it grants:

```sql
GRANT orders_read TO writ_admin WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
GRANT pg_signal_backend TO writ_admin;
```

The administrator connects to the server itself, not through a pooler, and must be let into every database in which a login may
make something (`CONNECT`, `pg_hba.conf`).

What a template role may do, a login may do, and as its template (`SET ROLE`) it may leave behind what the template then owns:
give a template `CREATE` on a schema only where that is meant. A template that is a superuser, may create roles, replicates,
passes row security or reaches the server's files and programs is refused, also where it only leads to such a role.
A right that somebody else gave to a login by name can only be taken back by who gave it or by a superuser: an administrator
that is none says what is in the way, the lease stays `revoking`, and the login is barred.
With `owned = "drop"`, what others built upon (a view on a login's table) is kept, and what it needs goes to the role
`writ_estate_<mark>`, which may nothing; functions that ran as their owner run as their caller from then on.
"#;

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        expect_test::expect_file!["../../../docs/reference/engines.md"].assert_eq(&super::page());
    }
}
