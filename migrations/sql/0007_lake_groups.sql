-- Parts of the lake by day, audience and language, and the compaction of small ones.

-- Day of the labels (UTC), counted from 1970-01-01, audience and language of all pairs of a part. NULL, all three of
-- them: pairs of several, or a part of a release that did not tell them apart.
ALTER TABLE lake_parts ADD COLUMN day BIGINT;
ALTER TABLE lake_parts ADD COLUMN audience TEXT;
ALTER TABLE lake_parts ADD COLUMN language TEXT;
-- How often what lies in the part was written again.
ALTER TABLE lake_parts ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
-- How many data keys of the tenant had been destroyed when it was last made sure that no pair of the part is sealed
-- under one of them.
ALTER TABLE lake_parts ADD COLUMN erasures BIGINT NOT NULL DEFAULT 0;
CREATE INDEX lake_parts_by_day ON lake_parts (tenant, day, audience, language);
CREATE INDEX lake_parts_by_object ON lake_parts (digest);

-- Objects of parts that compaction has replaced, or that were past retention. Kept for whoever has listed them before, then removed.
CREATE TABLE lake_replaced (
    digest          TEXT     NOT NULL PRIMARY KEY,
    tenant          TEXT     NOT NULL,
    part_id         TEXT     NOT NULL,
    -- Real time.
    replaced_at     BIGINT   NOT NULL
);
CREATE INDEX lake_replaced_in_order ON lake_replaced (replaced_at);

-- Up to which label pairs have left the lake because of their age: the newest label among them. An audit tells by it
-- what is past retention from what is lost.
CREATE TABLE lake_expired (
    tenant          TEXT     NOT NULL PRIMARY KEY,
    labeled_until   BIGINT   NOT NULL
);
