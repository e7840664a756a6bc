-- Make dead letters ready again; in an ordered subscription they take their turn, and one that held its key has it.
-- Returns how many were.
CREATE FUNCTION postbus.replay(the_subscription integer, ids uuid[]) RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_count bigint;
    v_lanes text[];
BEGIN
    PERFORM pg_advisory_xact_lock(LOCKCLASS, the_subscription);
    WITH letter AS (
        DELETE FROM postbus.dead x USING postbus.event e, postbus.subscription s
        WHERE x.id = ANY (ids) AND x.subscription = the_subscription AND e.seq = x.seq AND s.id = the_subscription
        RETURNING x.seq, x.lane IS NOT NULL AS held, CASE WHEN s.ordered THEN e.topic || '/' || e.key END AS lane
    ), offered AS (
        INSERT INTO postbus.delivery (seq, subscription, state, lane)
        SELECT l.seq, the_subscription, CASE WHEN l.held OR l.lane IS NULL THEN 1 ELSE 2 END, l.lane FROM letter l
    )
    SELECT count(*), array_agg(l.lane) FILTER (WHERE l.lane IS NOT NULL) INTO v_count, v_lanes FROM letter l;
    IF v_lanes IS NOT NULL THEN
        PERFORM postbus.advance(array_fill(the_subscription, ARRAY[cardinality(v_lanes)]), v_lanes, clock_timestamp());
    END IF;
    RETURN v_count;
END $$;

-- Delete dead letters; a key that one of them held goes on.  Returns how many were.
CREATE FUNCTION postbus.discard(the_subscription integer, ids uuid[]) RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_seqs bigint[];
    v_lanes text[];
BEGIN
    PERFORM pg_advisory_xact_lock(LOCKCLASS, the_subscription);
    WITH gone AS (
        DELETE FROM postbus.dead x WHERE x.id = ANY (ids) AND x.subscription = the_subscription
        RETURNING x.seq, x.lane
    )
    SELECT array_agg(g.seq), array_agg(g.lane) FILTER (WHERE g.lane IS NOT NULL) INTO v_seqs, v_lanes FROM gone g;
    IF v_lanes IS NOT NULL THEN
        PERFORM postbus.advance(array_fill(the_subscription, ARRAY[cardinality(v_lanes)]), v_lanes, clock_timestamp());
    END IF;
    IF v_seqs IS NOT NULL THEN
        PERFORM postbus.finish(v_seqs);
    END IF;
    RETURN coalesce(cardinality(v_seqs), 0);
END $$;

-- Let a dead letter hold another event, which no other subscription sees.  Returns whether there is such a letter.
CREATE FUNCTION postbus.amend(
    the_subscription integer, the_letter uuid, the_id uuid, the_name text, the_topic text, the_key text,
    the_micros bigint, the_version integer, the_format text, the_body bytea, the_expires bigint, the_headers text
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_old bigint;
    v_new bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(LOCKCLASS, the_subscription);
    SELECT x.seq INTO v_old FROM postbus.dead x WHERE x.id = the_letter AND x.subscription = the_subscription;
    IF v_old IS NULL THEN
        RETURN false;
    END IF;
    v_new := nextval('postbus.event_seq');
    INSERT INTO postbus.event
        (seq, id, name, topic, key, micros, version, format, body, expires, headers, routes)
    VALUES (v_new, the_id, the_name, the_topic, the_key, the_micros, the_version, the_format, the_body, the_expires,
        the_headers::jsonb, 1);
    UPDATE postbus.dead x SET seq = v_new WHERE x.id = the_letter;
    PERFORM postbus.finish(ARRAY[v_old]);
    RETURN true;
END $$;
