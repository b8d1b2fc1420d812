-- Models, their versions with lineage, rollouts with the evidence that decides them, and the audit log.
-- Times are microseconds since 1970 UTC.

CREATE TABLE models (
    tenant         TEXT             NOT NULL,
    model          TEXT             NOT NULL,
    -- Grows by one with every change and guards it (compare-and-set); audit_log has one row for each value.
    revision       BIGINT           NOT NULL,
    last_version   BIGINT           NOT NULL,
    -- Share of all persons that keep the reference, over all rollouts.
    holdback_share DOUBLE PRECISION NOT NULL,
    -- The routing table as JSON, rewritten with every change, so that reading it is one look-up; NULL before there is
    -- a current version.
    routing        TEXT,
    created_at     BIGINT           NOT NULL,
    PRIMARY KEY (tenant, model)
);

CREATE TABLE model_versions (
    tenant          TEXT   NOT NULL,
    model           TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    artifact_digest TEXT   NOT NULL,
    manifest        TEXT   NOT NULL, -- JSON
    parent          BIGINT,
    anchor          BIGINT,
    snapshot_digest TEXT,
    run_id          TEXT,
    code_version    TEXT   NOT NULL,
    method          TEXT   NOT NULL,
    audience        TEXT,            -- NULL: may be served to everybody
    evaluation      TEXT   NOT NULL, -- JSON
    evaluation_digest TEXT NOT NULL, -- of the evaluation, when it was registered
    registered_at   BIGINT NOT NULL,
    registered_by   TEXT   NOT NULL,
    promoted_at     BIGINT,          -- when it last became current
    -- Of two promotions in the same microsecond the later one.
    promotion       BIGINT,
    PRIMARY KEY (tenant, model, version),
    FOREIGN KEY (tenant, model) REFERENCES models (tenant, model)
);
-- A run that is registered twice gives one version.
CREATE UNIQUE INDEX model_versions_by_run ON model_versions (tenant, model, run_id) WHERE run_id IS NOT NULL;
-- From a data set to the versions that learned from it.
CREATE INDEX model_versions_by_snapshot ON model_versions (snapshot_digest) WHERE snapshot_digest IS NOT NULL;

CREATE TABLE model_aliases (
    tenant     TEXT   NOT NULL,
    model      TEXT   NOT NULL,
    alias      TEXT   NOT NULL CHECK (alias IN ('current', 'reference')),
    version    BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, model, alias),
    FOREIGN KEY (tenant, model, version) REFERENCES model_versions (tenant, model, version)
);

CREATE TABLE rollouts (
    rollout_id       TEXT   NOT NULL PRIMARY KEY,
    tenant           TEXT   NOT NULL,
    model            TEXT   NOT NULL,
    candidate        BIGINT NOT NULL,
    baseline         BIGINT NOT NULL, -- current when it began
    reference        BIGINT,
    policy           TEXT   NOT NULL, -- JSON
    state            TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,          -- start of block 0
    finished_at      BIGINT,
    blocks_complete  BIGINT NOT NULL,
    projected_blocks BIGINT,
    reason           TEXT   NOT NULL,
    decided_by       TEXT,            -- the person who decided, if one did
    evidence         TEXT,            -- JSON, as of the last complete block; what a decision was made on
    FOREIGN KEY (tenant, model, candidate) REFERENCES model_versions (tenant, model, version)
);
CREATE INDEX rollouts_by_model ON rollouts (tenant, model, created_at);
-- One at a time for a model.
CREATE UNIQUE INDEX rollouts_active ON rollouts (tenant, model)
    WHERE state IN ('pending', 'canary', 'awaiting_approval');

-- What each person did in each complete block, frozen when the block was judged: an outcome that comes later changes
-- no evidence that was acted on.
CREATE TABLE rollout_tallies (
    rollout_id      TEXT             NOT NULL REFERENCES rollouts (rollout_id),
    block           BIGINT           NOT NULL,
    arm             TEXT             NOT NULL,
    person          TEXT             NOT NULL,
    opportunities   BIGINT           NOT NULL,
    utility         DOUBLE PRECISION NOT NULL,
    shown           BIGINT           NOT NULL,
    accepted        BIGINT           NOT NULL,
    kept_characters BIGINT           NOT NULL,
    PRIMARY KEY (rollout_id, block, arm, person)
);
CREATE INDEX rollout_tallies_by_person ON rollout_tallies (person);

CREATE TABLE audit_log (
    tenant   TEXT   NOT NULL,
    model    TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    -- The API key, the reconciler, or the person a decision names.
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    subject  TEXT   NOT NULL,
    detail   TEXT   NOT NULL, -- JSON: numbers and ids
    PRIMARY KEY (tenant, model, revision)
);
