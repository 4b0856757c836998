-- Version 2: files as they were before writ rewrote them.
--
-- A file is named by its path and by the hash of what it was rewritten to, so that one that was rewritten twice has two.

CREATE TABLE originals (
    path            TEXT NOT NULL,
    written_sha256  BLOB NOT NULL CHECK (length(written_sha256) = 32),
    original_sha256 BLOB NOT NULL CHECK (length(original_sha256) = 32),
    sealed          BLOB NOT NULL,
    kept_at         INTEGER NOT NULL,
    PRIMARY KEY (path, written_sha256)
) STRICT, WITHOUT ROWID;
