-- Make dead letters ready again; in an ordered subscription they take their turn.  Returns how many were.
CREATE FUNCTION postbus.replay(the_subscription integer, ids uuid[]) RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_count bigint;
    v_lanes text[];
BEGIN
    PERFORM pg_advisory_xact_lock(LOCKCLASS, the_subscription);
    WITH letter AS (
        DELETE FROM postbus.dead x USING postbus.event e, postbus.subscription s
        WHERE x.id = ANY (ids) AND x.subscription = the_subscription AND e.seq = x.seq AND s.id = the_subscription
        RETURNING x.seq, CASE WHEN s.ordered THEN e.topic || '/' || e.key END AS lane
    ), offered AS (
        INSERT INTO postbus.delivery (seq, subscription, state, lane)
        SELECT l.seq, the_subscription, CASE WHEN l.lane IS NULL THEN 1 ELSE 2 END, l.lane FROM letter l
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
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
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
