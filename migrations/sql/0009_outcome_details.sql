-- What the text of a closed opportunity says, in numbers and symbols; absent where it is not known or was not recorded.
ALTER TABLE opportunity_outcomes ADD COLUMN language TEXT;
-- What the proposed actions would do: insert, delete, replace or several_places.
ALTER TABLE opportunity_outcomes ADD COLUMN pattern TEXT;
ALTER TABLE opportunity_outcomes ADD COLUMN first_action_ms BIGINT;
-- How much of the accepted first action stood at each look, in thousandths of its characters.
ALTER TABLE opportunity_outcomes ADD COLUMN standing_30_s_permille BIGINT;
ALTER TABLE opportunity_outcomes ADD COLUMN standing_120_s_permille BIGINT;
ALTER TABLE opportunity_outcomes ADD COLUMN standing_300_s_permille BIGINT;

-- The pair that trains in the place of one that was merged. NULL: left out for another reason, or with that pair.
ALTER TABLE snapshot_left_out ADD COLUMN merged_into TEXT;
