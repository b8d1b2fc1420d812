-- What a data set made of the pairs that it was chosen from.

-- Persons and repositories that stand behind a pair, once equal corrections were merged into it.
ALTER TABLE snapshot_pairs ADD COLUMN support_people BIGINT NOT NULL DEFAULT 1;
ALTER TABLE snapshot_pairs ADD COLUMN support_repositories BIGINT NOT NULL DEFAULT 1;
-- Weight in training; absent in data sets of earlier releases, which left it to the pair.
ALTER TABLE snapshot_pairs ADD COLUMN weight_millionths BIGINT;

-- Candidates that were not taken, and why. A merged pair gave its weight to another one: it counts when a person's data
-- is traced.
CREATE TABLE snapshot_left_out (
    snapshot_digest TEXT NOT NULL REFERENCES snapshots (snapshot_digest),
    pair_id         TEXT NOT NULL,
    person          TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (snapshot_digest, pair_id)
);

CREATE INDEX snapshot_left_out_by_person ON snapshot_left_out (person);
CREATE INDEX snapshot_left_out_by_pair ON snapshot_left_out (pair_id);

-- Counts of every stage that made a data set, as JSON.
CREATE TABLE snapshot_compositions (
    snapshot_digest TEXT NOT NULL PRIMARY KEY REFERENCES snapshots (snapshot_digest),
    composition     TEXT NOT NULL
);
