-- What every service stands on: who we are, who may call, who leads, what must still be told to the bus.
-- Column types are the ones that mean the same on SQLite and PostgreSQL. Times are microseconds since 1970 UTC.

CREATE TABLE tenants (
    tenant          TEXT     NOT NULL PRIMARY KEY,
    -- AES-256-GCM under the key file; the pseudonyms and record keys of the tenant hang on it.
    wrapped_secret  BYTEA    NOT NULL,
    -- The widest consent tier that the tenant allows: none, usage or code.
    consent_ceiling TEXT     NOT NULL DEFAULT 'usage' CHECK (consent_ceiling IN ('none', 'usage', 'code')),
    -- When that was decided; 0 while nobody has.
    ceiling_decided_at BIGINT NOT NULL DEFAULT 0,
    created_at      BIGINT   NOT NULL
);

CREATE TABLE person_keys (
    key_id          TEXT     NOT NULL PRIMARY KEY,
    tenant          TEXT     NOT NULL,
    person          TEXT     NOT NULL,
    -- NULL once erased: without it, everything sealed under this key is noise.
    wrapped_key     BYTEA,
    created_at      BIGINT   NOT NULL,
    erased_at       BIGINT,
    CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL))
);
CREATE UNIQUE INDEX person_keys_living ON person_keys (tenant, person) WHERE erased_at IS NULL;

CREATE TABLE api_keys (
    id              TEXT     NOT NULL PRIMARY KEY,
    tenant          TEXT     NOT NULL,
    name            TEXT     NOT NULL,
    -- Words separated by one space, sorted.
    scopes          TEXT     NOT NULL,
    -- Lower-case hex SHA-256 of the whole key. The key itself is shown once and stored nowhere.
    key_sha256      TEXT     NOT NULL UNIQUE,
    created_at      BIGINT   NOT NULL,
    revoked_at      BIGINT
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, created_at);

CREATE TABLE leases (
    name            TEXT     NOT NULL PRIMARY KEY,
    holder          TEXT     NOT NULL,
    -- Grows by one with every change of holder; what an older epoch still writes is refused.
    epoch           BIGINT   NOT NULL,
    expires_at      BIGINT   NOT NULL
);

CREATE TABLE outbox (
    id              TEXT     NOT NULL PRIMARY KEY,
    topic           TEXT     NOT NULL,
    -- A record has a key; a control record has a kind and a subject and goes into every partition.
    record_key      BYTEA,
    control_kind    TEXT,
    control_subject TEXT,
    value           BYTEA    NOT NULL,
    created_at      BIGINT   NOT NULL,
    CHECK ((record_key IS NULL) = (control_kind IS NOT NULL)),
    CHECK ((control_kind IS NULL) = (control_subject IS NULL))
);
CREATE INDEX outbox_in_order ON outbox (created_at, id);

CREATE TABLE consents (
    tenant          TEXT     NOT NULL,
    person          TEXT     NOT NULL,
    tier            TEXT     NOT NULL CHECK (tier IN ('none', 'usage', 'code')),
    decided_at      BIGINT   NOT NULL,
    PRIMARY KEY (tenant, person)
);

-- The allow-list. No row, no training.
CREATE TABLE audience_rules (
    tenant          TEXT     NOT NULL,
    -- A name, or a pattern with * for any run of characters.
    repository      TEXT     NOT NULL,
    audience        TEXT     NOT NULL,
    trainable       SMALLINT NOT NULL CHECK (trainable IN (0, 1)),
    updated_at      BIGINT   NOT NULL,
    PRIMARY KEY (tenant, repository)
);

CREATE TABLE settings (
    tenant          TEXT     NOT NULL,
    name            TEXT     NOT NULL,
    value           TEXT     NOT NULL,
    updated_at      BIGINT   NOT NULL,
    PRIMARY KEY (tenant, name)
);
