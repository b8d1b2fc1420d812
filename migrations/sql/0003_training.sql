-- Data-set snapshots and training runs. Times are microseconds since the epoch.

CREATE TABLE snapshots (
    snapshot_digest      TEXT   NOT NULL PRIMARY KEY,
    tenant               TEXT   NOT NULL,
    model                TEXT   NOT NULL,
    audience             TEXT   NOT NULL,
    label_policy_version BIGINT NOT NULL,
    code_version         TEXT   NOT NULL,
    filters              TEXT   NOT NULL, -- JSON
    training_pairs       BIGINT NOT NULL,
    gate_pairs           BIGINT NOT NULL,
    first_labeled_at     BIGINT NOT NULL,
    last_labeled_at      BIGINT NOT NULL,
    last_signal_at       BIGINT NOT NULL,
    created_at           BIGINT NOT NULL
);

CREATE INDEX snapshots_by_model ON snapshots (tenant, model, created_at);

-- Forward lineage: from a person or a pair to every data set that holds it.
CREATE TABLE snapshot_pairs (
    snapshot_digest TEXT NOT NULL REFERENCES snapshots (snapshot_digest),
    pair_id         TEXT NOT NULL,
    content_digest  TEXT NOT NULL,
    person          TEXT NOT NULL,
    purpose         TEXT NOT NULL, -- training | gate
    PRIMARY KEY (snapshot_digest, pair_id)
);

CREATE INDEX snapshot_pairs_by_person ON snapshot_pairs (person);
CREATE INDEX snapshot_pairs_by_pair ON snapshot_pairs (pair_id);

-- The lake parts that were read. Listed beside the digest, not inside: compaction may rewrite parts, not pairs.
CREATE TABLE snapshot_parts (
    snapshot_digest TEXT   NOT NULL REFERENCES snapshots (snapshot_digest),
    part_digest     TEXT   NOT NULL,
    partition       BIGINT NOT NULL,
    first_position  TEXT   NOT NULL,
    last_position   TEXT   NOT NULL,
    PRIMARY KEY (snapshot_digest, part_digest)
);

CREATE TABLE training_runs (
    run_id          TEXT   NOT NULL PRIMARY KEY,
    tenant          TEXT   NOT NULL,
    model           TEXT   NOT NULL,
    snapshot_digest TEXT   NOT NULL REFERENCES snapshots (snapshot_digest),
    parent_version  BIGINT NOT NULL,
    anchor_version  BIGINT NOT NULL,
    method          TEXT   NOT NULL,
    seed            BIGINT NOT NULL,
    state           TEXT   NOT NULL, -- queued | running | succeeded | failed
    outcome         TEXT,            -- eligible | held | failed, with detail
    detail          TEXT   NOT NULL, -- JSON: numbers and codes, never text of pairs
    attempt         BIGINT NOT NULL,
    owner_epoch     BIGINT NOT NULL, -- fence: a write of an older epoch changes no row
    last_signal_at  BIGINT NOT NULL, -- the clock of a turn starts here
    deadline_at     BIGINT NOT NULL, -- real time; from the newest signal to the beginning of the rollout
    created_at      BIGINT NOT NULL,
    started_at      BIGINT,
    finished_at     BIGINT,
    version         BIGINT,
    rollout_id      TEXT
);

CREATE INDEX training_runs_by_model ON training_runs (tenant, model, created_at);
-- One run at a time for a model.
CREATE UNIQUE INDEX training_runs_active ON training_runs (tenant, model) WHERE state IN ('queued', 'running');
