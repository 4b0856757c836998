-- Version 1: what SQLite has after its version 4, and what several daemons on one store need.
--
-- Identifiers are UUIDs of version 7, so primary keys are in order of time. Instants that a daemon judges are milliseconds since
-- the Unix epoch; those that daemons judge each other by are the server's own. Scope and receipt are JSON in a text, since
-- nothing is searched in them and `jsonb` refuses U+0000.

CREATE TABLE writ.meta (
    key   text PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE writ.credential_versions (
    name      text NOT NULL,
    version   bigint NOT NULL CHECK (version >= 1),
    sealed    bytea,
    reference text,
    set_at    bigint NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((sealed IS NULL) <> (reference IS NULL))
);

CREATE TABLE writ.pending_values (
    name    text PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    sealed  bytea NOT NULL,
    set_at  bigint NOT NULL
);

CREATE TABLE writ.originals (
    path            text NOT NULL,
    written_sha256  bytea NOT NULL CHECK (length(written_sha256) = 32),
    original_sha256 bytea NOT NULL CHECK (length(original_sha256) = 32),
    sealed          bytea NOT NULL,
    kept_at         bigint NOT NULL,
    PRIMARY KEY (path, written_sha256)
);

CREATE TABLE writ.sessions (
    id            uuid PRIMARY KEY,
    boot          uuid NOT NULL,
    workload      text NOT NULL,
    role          text NOT NULL,
    requester     text NOT NULL,
    program       text NOT NULL,
    directory     text NOT NULL,
    pid           integer NOT NULL,
    level         text NOT NULL,
    prompt_sha256 text,
    resumed_from  uuid,
    opened_at     bigint NOT NULL,
    expires_at    bigint NOT NULL,
    ended_at      bigint,
    end_reason    text
);

CREATE INDEX sessions_alive ON writ.sessions (id) WHERE ended_at IS NULL;

CREATE TABLE writ.leases (
    id            uuid PRIMARY KEY,
    session       uuid NOT NULL REFERENCES writ.sessions (id),
    boot          uuid NOT NULL,
    workload      text NOT NULL,
    role          text NOT NULL,
    target        text NOT NULL,
    credential    text,
    engine        text NOT NULL,
    version       bigint NOT NULL,
    scope         text NOT NULL,
    receipt       text NOT NULL,
    lane          text NOT NULL,
    revealed      boolean NOT NULL,
    state         text NOT NULL CHECK (state IN ('pending', 'active', 'revoking', 'ended')),
    end_reason    text,
    revoked       text,
    issued_at     bigint NOT NULL,
    expires_at    bigint NOT NULL,
    revoking_at   bigint,
    ended_at      bigint,
    -- When the next attempt to settle it is due; NULL: at once.
    retry_at      bigint,
    -- Who settles it, and until when nobody else may.
    claimed_by    uuid,
    claimed_until timestamptz
);

CREATE INDEX leases_alive ON writ.leases (id) WHERE state <> 'ended';
CREATE INDEX leases_by_session ON writ.leases (session);
CREATE INDEX leases_owned ON writ.leases (boot) WHERE state IN ('pending', 'active');
CREATE INDEX leases_stuck ON writ.leases (revoking_at, role, credential) WHERE state = 'revoking';
CREATE INDEX leases_revoking ON writ.leases (lane, retry_at NULLS FIRST) WHERE state = 'revoking';

-- The lives of the daemons that share the store.
CREATE TABLE writ.boots (
    boot    uuid PRIMARY KEY,
    -- The state directory that it works on, which has one daemon at a time.
    node    text,
    beat_at timestamptz NOT NULL,
    -- Since when its heartbeat has had no gap: only who was heard all the time can say who was not.
    steady_since timestamptz NOT NULL,
    -- Set by another daemon, for ever: what it owned is ended.
    dead_at timestamptz
);

-- What one daemon did to what another one owns: a row is there until its receiver has acted on it.
CREATE TABLE writ.news (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    boot    uuid NOT NULL,
    kind    text NOT NULL CHECK (kind IN ('lease', 'session', 'credential')),
    subject text NOT NULL,
    detail  text NOT NULL
);

CREATE INDEX news_by_boot ON writ.news (boot, id);

CREATE FUNCTION writ.ring() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('writ_news', NEW.boot::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER ring AFTER INSERT ON writ.news FOR EACH ROW EXECUTE FUNCTION writ.ring();
