-- What retention deleted before it was read, and what the ledger makes of it.

-- One row per range that a person let a step pass over.
CREATE TABLE lost_ranges (
    step            TEXT     NOT NULL,
    topic           TEXT     NOT NULL,
    partition_index BIGINT   NOT NULL,
    -- Text forms of the first position that was lost, and of the one at which the step went on.
    first_position  TEXT     NOT NULL,
    next_position   TEXT     NOT NULL,
    skipped_at      BIGINT   NOT NULL,
    skipped_by      TEXT     NOT NULL,
    PRIMARY KEY (step, topic, partition_index, first_position)
);

-- Where the raw records of an event stand: partition, first and last position, in text form. NULL: in more than one
-- partition, read by an older release, or not read yet.
ALTER TABLE ledger_events ADD COLUMN raw_partition BIGINT;
ALTER TABLE ledger_events ADD COLUMN raw_first TEXT;
ALTER TABLE ledger_events ADD COLUMN raw_last TEXT;
