-- Version 1: the installation's values, credentials, sessions, leases.
--
-- Identifiers are the 16 bytes of a UUID version 7, so primary keys are in order of time. Instants are milliseconds since the
-- Unix epoch. Scope and receipt are JSON: nothing is searched in them.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credential_versions (
    name      TEXT NOT NULL,
    version   INTEGER NOT NULL CHECK (version >= 1),
    sealed    BLOB,
    reference TEXT,
    set_at    INTEGER NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((sealed IS NULL) <> (reference IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id            BLOB PRIMARY KEY CHECK (length(id) = 16),
    boot          BLOB NOT NULL CHECK (length(boot) = 16),
    workload      TEXT NOT NULL,
    role          TEXT NOT NULL,
    requester     TEXT NOT NULL,
    program       TEXT NOT NULL,
    directory     TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    level         TEXT NOT NULL,
    prompt_sha256 TEXT,
    opened_at     INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    end_reason    TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_alive ON sessions (id) WHERE ended_at IS NULL;

CREATE TABLE leases (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    session     BLOB NOT NULL REFERENCES sessions (id),
    boot        BLOB NOT NULL CHECK (length(boot) = 16),
    workload    TEXT NOT NULL,
    role        TEXT NOT NULL,
    target      TEXT NOT NULL,
    credential  TEXT NOT NULL,
    engine      TEXT NOT NULL,
    version     INTEGER NOT NULL,
    scope       TEXT NOT NULL,
    receipt     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoking', 'ended')),
    end_reason  TEXT,
    revoked     TEXT,
    issued_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    revoking_at INTEGER,
    ended_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_alive ON leases (id) WHERE state <> 'ended';
CREATE INDEX leases_by_session ON leases (session);
