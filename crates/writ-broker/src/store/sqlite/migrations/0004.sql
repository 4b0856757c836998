-- Version 4: revocations queue by lane, a credential may have a next value, and some are in the program's hands.

ALTER TABLE leases ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN revealed INTEGER NOT NULL DEFAULT 0 CHECK (revealed IN (0, 1));
-- When the next attempt to settle it is due; NULL: at once.
ALTER TABLE leases ADD COLUMN retry_at INTEGER;

UPDATE leases SET lane = engine;

CREATE INDEX leases_revoking ON leases (lane, retry_at) WHERE state = 'revoking';

-- What a dead boot left alive, and what has been revoking for long.
CREATE INDEX leases_owned ON leases (boot) WHERE state IN ('pending', 'active');
CREATE INDEX leases_stuck ON leases (revoking_at, role, credential) WHERE state = 'revoking';

CREATE TABLE pending_values (
    name    TEXT PRIMARY KEY,
    version INTEGER NOT NULL CHECK (version >= 1),
    sealed  BLOB NOT NULL,
    set_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
