-- Two releases run on one database while it is upgraded. Which ones may is written down here by whoever migrated it.

CREATE TABLE schema_compatibility (
    -- There is one row.
    id            BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Releases whose newest migration has a lower number must not use this database any more.
    oldest_schema BIGINT NOT NULL
);
INSERT INTO schema_compatibility (id, oldest_schema) VALUES (1, 4);
