-- What the sinks of the labeler conclude from the log: parts of the pair lake, the ledger, closed opportunities.
-- A sink writes its effect and its positions in one transaction.

CREATE TABLE sink_positions (
    sink            TEXT     NOT NULL,
    topic           TEXT     NOT NULL,
    partition_index BIGINT   NOT NULL,
    -- Text form of the next position to read. Moves by compare-and-set: a second sink of that name loses.
    next_position   TEXT     NOT NULL,
    PRIMARY KEY (sink, topic, partition_index)
);

-- One row per Parquet part: the pairs of one tenant in one range of positions of one partition.
CREATE TABLE lake_parts (
    part_id         TEXT     NOT NULL PRIMARY KEY,
    tenant          TEXT     NOT NULL,
    topic           TEXT     NOT NULL,
    partition_index BIGINT   NOT NULL,
    first_position  TEXT     NOT NULL,
    last_position   TEXT     NOT NULL,
    -- SHA-256 of the object in the artifact store.
    digest          TEXT     NOT NULL,
    pairs           BIGINT   NOT NULL,
    bytes           BIGINT   NOT NULL,
    min_labeled_at  BIGINT   NOT NULL,
    max_labeled_at  BIGINT   NOT NULL,
    UNIQUE (tenant, topic, partition_index, first_position)
);
CREATE INDEX lake_parts_by_label ON lake_parts (tenant, min_labeled_at);

-- One row per distinct event id. `entered` is NULL while only a disposition was read, and must not stay so.
CREATE TABLE ledger_events (
    tenant          TEXT     NOT NULL,
    event_id        TEXT     NOT NULL,
    received_hour   BIGINT   NOT NULL,
    -- admitted, filtered_at_door or exposed.
    entered         TEXT,
    -- How many raw records carried this id; more than one are duplicates.
    copies          BIGINT   NOT NULL,
    -- clean, filtered, quarantined, dead_lettered, erased or lost; NULL is pending.
    disposition     TEXT,
    reason          TEXT,
    -- How many dispositions were read; more than one is an anomaly.
    dispositions    BIGINT   NOT NULL,
    -- How often the clean topic said the same disposition again: a dead letter of a later step was redriven.
    repeats         BIGINT   NOT NULL,
    PRIMARY KEY (tenant, event_id)
);
CREATE INDEX ledger_events_by_hour ON ledger_events (tenant, received_hour);

-- Hours whose events were folded: the same counts without the ids. `copies` and `dispositions` are those beyond one. What
-- comes later of an event without an id is a repetition and stands in a row of 0 events with three empty texts.
CREATE TABLE ledger_hours (
    tenant          TEXT     NOT NULL,
    received_hour   BIGINT   NOT NULL,
    entered         TEXT     NOT NULL,
    disposition     TEXT     NOT NULL,
    reason          TEXT     NOT NULL,
    events          BIGINT   NOT NULL,
    copies          BIGINT   NOT NULL,
    dispositions    BIGINT   NOT NULL,
    repeats         BIGINT   NOT NULL,
    PRIMARY KEY (tenant, received_hour, entered, disposition, reason)
);

-- The label policy that the log was told last, as the control record says it; without a row it was told none.
CREATE TABLE label_policy (
    subject         TEXT     NOT NULL PRIMARY KEY,
    value           TEXT     NOT NULL
);

-- One row per closed opportunity, as the labeler published it.
CREATE TABLE opportunity_outcomes (
    tenant           TEXT             NOT NULL,
    opportunity_id   TEXT             NOT NULL,
    suggestion_id    TEXT,
    person           TEXT             NOT NULL,
    model            TEXT             NOT NULL,
    model_version    BIGINT           NOT NULL,
    rollout_id       TEXT,
    arm              TEXT             NOT NULL,
    block            BIGINT,
    decision         TEXT             NOT NULL,
    signal           TEXT             NOT NULL,
    utility          DOUBLE PRECISION NOT NULL,
    shown            SMALLINT         NOT NULL,
    accepted         SMALLINT         NOT NULL,
    kept_characters  BIGINT           NOT NULL,
    censored         SMALLINT         NOT NULL,
    exposure_missing SMALLINT         NOT NULL,
    explored         SMALLINT         NOT NULL,
    repository       TEXT             NOT NULL,
    exposed_at       BIGINT           NOT NULL,
    closed_at        BIGINT           NOT NULL,
    PRIMARY KEY (tenant, opportunity_id)
);
CREATE INDEX opportunity_outcomes_by_version ON opportunity_outcomes (tenant, model, model_version, exposed_at);
CREATE INDEX opportunity_outcomes_by_rollout ON opportunity_outcomes (rollout_id, arm, block);
