-- Version 3: a session may go on where another life of the broker left it; a lease may be without a credential.

ALTER TABLE sessions ADD COLUMN resumed_from BLOB CHECK (resumed_from IS NULL OR length(resumed_from) = 16);

-- A column cannot lose its NOT NULL, so the table is made anew.
CREATE TABLE leases_3 (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    session     BLOB NOT NULL REFERENCES sessions (id),
    boot        BLOB NOT NULL CHECK (length(boot) = 16),
    workload    TEXT NOT NULL,
    role        TEXT NOT NULL,
    target      TEXT NOT NULL,
    credential  TEXT,
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

INSERT INTO leases_3 (id, session, boot, workload, role, target, credential, engine, version, scope, receipt, state, end_reason,
    revoked, issued_at, expires_at, revoking_at, ended_at)
SELECT id, session, boot, workload, role, target, credential, engine, version, scope, receipt, state, end_reason,
    revoked, issued_at, expires_at, revoking_at, ended_at
FROM leases;

DROP TABLE leases;
ALTER TABLE leases_3 RENAME TO leases;

CREATE INDEX leases_alive ON leases (id) WHERE state <> 'ended';
CREATE INDEX leases_by_session ON leases (session);
