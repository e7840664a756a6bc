-- A subscription lets go of these events: one that nobody holds any more is gone, or history.
CREATE FUNCTION postbus.finish(seqs bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_gone bigint;
BEGIN
    DELETE FROM postbus.event e WHERE e.seq = ANY (seqs) AND e.routes <= 1 AND e.keep_until IS NULL;
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    IF v_gone < cardinality(seqs) THEN
        -- Locked first: of two subscriptions that finish at once, the later one sees that it is the last.
        PERFORM FROM postbus.event e WHERE e.seq = ANY (seqs) ORDER BY e.seq FOR UPDATE;
        WITH gone AS (
            DELETE FROM postbus.event e
            WHERE e.seq = ANY (seqs)
                AND NOT EXISTS (SELECT FROM postbus.delivery d WHERE d.seq = e.seq)
                AND NOT EXISTS (SELECT FROM postbus.dead x WHERE x.seq = e.seq)
            RETURNING e.*
        )
        INSERT INTO postbus.history SELECT g.* FROM gone g WHERE g.keep_until > clock_timestamp();
    END IF;
END $$;

-- Of several ordered subscriptions, each is locked in the order of its id: no deadlocks.
CREATE FUNCTION postbus.lock(subscriptions integer[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(LOCKCLASS, o.id)
    FROM (SELECT s.id FROM postbus.subscription s WHERE s.id = ANY (subscriptions) AND s.ordered ORDER BY s.id) o;
END $$;

-- Only what is leased has an owner; asking for its state as well would tempt the planner to scan what is leased.

-- All done.  Returns which (from 1) were still held.
CREATE FUNCTION postbus.ack(the_owner text, seqs bigint[], subscriptions integer[], fences bigint[])
RETURNS integer[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now timestamptz;
    v_held integer[];
    v_seqs bigint[];
    v_subscriptions integer[];
    v_lanes text[];
BEGIN
    PERFORM postbus.lock(subscriptions);
    v_now := clock_timestamp();
    WITH gone AS (
        DELETE FROM postbus.delivery d
        USING unnest(seqs, subscriptions, fences) WITH ORDINALITY AS i(seq, subscription, fence, place)
        WHERE d.seq = i.seq AND d.subscription = i.subscription AND d.owner = the_owner
            AND d.fence = i.fence AND d.until > v_now
        RETURNING i.place, d.seq, d.subscription, d.lane
    )
    SELECT array_agg(g.place::integer), array_agg(DISTINCT g.seq), array_agg(g.subscription) FILTER (WHERE g.lane IS NOT NULL),
        array_agg(g.lane) FILTER (WHERE g.lane IS NOT NULL)
    INTO v_held, v_seqs, v_subscriptions, v_lanes FROM gone g;
    IF v_held IS NULL THEN
        RETURN '{}';
    END IF;
    IF v_lanes IS NOT NULL THEN
        PERFORM postbus.advance(v_subscriptions, v_lanes, v_now);
    END IF;
    PERFORM postbus.finish(v_seqs);
    RETURN v_held;
END $$;

-- At the start of a transactional run: 0 it is somebody else's by now, 1 it is marked as done, 2 it is to be done.
CREATE FUNCTION postbus.look(
    the_owner text, the_seq bigint, the_subscription integer, the_fence bigint, the_id uuid
) RETURNS integer LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM postbus.delivery d WHERE d.seq = the_seq AND d.subscription = the_subscription
            AND d.owner = the_owner AND d.fence = the_fence AND d.until > clock_timestamp()
    ) THEN
        RETURN 0;
    END IF;
    IF EXISTS (
        SELECT FROM postbus.done x WHERE x.id = the_id
            AND x.subscription = (SELECT s.public FROM postbus.subscription s WHERE s.id = the_subscription)
    ) THEN
        RETURN 1;
    END IF;
    RETURN 2;
END $$;

-- The end of a transactional run: done, and marked as done, or an error.  PB001: it is somebody else's by now.
-- The same as `ack` of one, by plain values, which cost half.
CREATE FUNCTION postbus.done(
    the_owner text, the_seq bigint, the_subscription integer, the_fence bigint, the_id uuid, is_repeated boolean
) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_public uuid;
    v_ordered boolean;
    v_lane text;
BEGIN
    SELECT s.public, s.ordered INTO v_public, v_ordered FROM postbus.subscription s WHERE s.id = the_subscription;
    IF v_ordered THEN
        PERFORM pg_advisory_xact_lock(LOCKCLASS, the_subscription);
    END IF;
    DELETE FROM postbus.delivery d
    WHERE d.seq = the_seq AND d.subscription = the_subscription AND d.owner = the_owner AND d.fence = the_fence
        AND d.until > clock_timestamp()
    RETURNING d.lane INTO v_lane;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease is lost' USING ERRCODE = 'PB001';
    END IF;
    IF v_lane IS NOT NULL THEN
        PERFORM postbus.advance(ARRAY[the_subscription], ARRAY[v_lane], clock_timestamp());
    END IF;
    DELETE FROM postbus.event e WHERE e.seq = the_seq AND e.routes <= 1 AND e.keep_until IS NULL;
    IF NOT FOUND THEN
        PERFORM postbus.finish(ARRAY[the_seq]);
    END IF;
    INSERT INTO postbus.done (subscription, id, done_at) VALUES (v_public, the_id, clock_timestamp())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND AND NOT is_repeated THEN
        RAISE EXCEPTION 'another transaction has done it' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;

-- An id that grows with time, by the server's clock.
CREATE FUNCTION postbus.letter_id(the_now timestamptz) RETURNS uuid LANGUAGE sql AS $$
    SELECT (
        lpad(to_hex(floor(extract(epoch FROM the_now) * 1000)::bigint), 12, '0') || '7'
        || lpad(to_hex((extract(microseconds FROM the_now)::bigint % 1000) * 4), 3, '0')
        || '8' || lpad(to_hex(nextval('postbus.letter')), 15, '0')
    )::uuid
$$;

-- Outcomes: 0 done, 1 later, 2 dead, 3 handed back.  Returns which (from 1) were still held.
CREATE FUNCTION postbus.settle(
    the_owner text, seqs bigint[], subscriptions integer[], fences bigint[], outcomes integer[],
    afters double precision[], suspicions boolean[], failures text[], reasons text[]
) RETURNS integer[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now timestamptz;
    v_held integer[];
    v_done bigint[];
    v_subscriptions integer[];
    v_lanes text[];
BEGIN
    PERFORM postbus.lock(subscriptions);
    v_now := clock_timestamp();
    SELECT coalesce(array_agg(h.place::integer), '{}') INTO v_held FROM (
        SELECT i.place
        FROM unnest(seqs, subscriptions, fences) WITH ORDINALITY AS i(seq, subscription, fence, place)
        JOIN postbus.delivery d ON d.seq = i.seq AND d.subscription = i.subscription
        WHERE d.owner = the_owner AND d.fence = i.fence AND d.until > v_now
        FOR UPDATE OF d
    ) h;

    UPDATE postbus.delivery d
    SET state = CASE WHEN i.suspicious AND i.after <= 0 THEN 4 ELSE 3 END,
        due = v_now + least(i.after, 3e9) * interval '1 second', delayed = false, owner = NULL,
        suspect = i.suspicious, attempt = d.attempt + (i.failure IS NOT NULL)::integer,
        failure = coalesce(i.failure::jsonb, d.failure)
    FROM unnest(seqs, subscriptions, outcomes, afters, suspicions, failures) WITH ORDINALITY
        AS i(seq, subscription, outcome, after, suspicious, failure, place)
    WHERE i.outcome = 1 AND i.place IN (SELECT unnest(v_held)) AND d.seq = i.seq AND d.subscription = i.subscription;

    UPDATE postbus.delivery d
    SET state = CASE WHEN d.alone THEN 4 WHEN d.attempt = 1 AND d.failure IS NULL THEN 1 ELSE 3 END,
        due = CASE WHEN d.alone OR (d.attempt = 1 AND d.failure IS NULL) THEN NULL ELSE v_now END,
        delayed = false, owner = NULL
    FROM unnest(seqs, subscriptions, outcomes) WITH ORDINALITY AS i(seq, subscription, outcome, place)
    WHERE i.outcome = 3 AND i.place IN (SELECT unnest(v_held)) AND d.seq = i.seq AND d.subscription = i.subscription;

    WITH gone AS (
        DELETE FROM postbus.delivery d
        USING unnest(seqs, subscriptions, outcomes, failures, reasons) WITH ORDINALITY
            AS i(seq, subscription, outcome, failure, reason, place)
        WHERE i.outcome IN (0, 2) AND i.place IN (SELECT unnest(v_held)) AND d.seq = i.seq AND d.subscription = i.subscription
        RETURNING i.place, i.outcome, i.failure, i.reason, d.seq, d.subscription, d.attempt, d.failure AS carried, d.lane
    ), buried AS (
        INSERT INTO postbus.dead (id, subscription, seq, attempts, reason, failure, buried_at, lane)
        SELECT postbus.letter_id(v_now), g.subscription, g.seq, g.attempt - (g.failure IS NULL)::integer, g.reason,
            coalesce(g.failure::jsonb, g.carried), v_now,
            CASE WHEN g.first AND NOT EXISTS (
                SELECT FROM postbus.dead x WHERE x.subscription = g.subscription AND x.lane = g.lane
            ) THEN g.lane END
        FROM (
            SELECT b.*, s.parks AND row_number() OVER (PARTITION BY b.subscription, b.lane ORDER BY b.place) = 1 AS first
            FROM gone b JOIN postbus.subscription s ON s.id = b.subscription
            WHERE b.outcome = 2 ORDER BY b.place
        ) g
    )
    SELECT array_agg(DISTINCT g.seq) FILTER (WHERE g.outcome = 0),
        array_agg(g.subscription) FILTER (WHERE g.lane IS NOT NULL), array_agg(g.lane) FILTER (WHERE g.lane IS NOT NULL)
    INTO v_done, v_subscriptions, v_lanes FROM gone g;

    IF v_lanes IS NOT NULL THEN
        PERFORM postbus.advance(v_subscriptions, v_lanes, v_now);
    END IF;
    IF v_done IS NOT NULL THEN
        PERFORM postbus.finish(v_done);
    END IF;
    RETURN v_held;
END $$;

-- Extend leases.  Returns which (from 1) are held; one that is being settled just now counts as held.
CREATE FUNCTION postbus.renew(
    owners text[], seqs bigint[], subscriptions integer[], fences bigint[], the_lease double precision
) RETURNS integer[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_held integer[];
BEGIN
    WITH item AS MATERIALIZED (
        SELECT * FROM unnest(owners, seqs, subscriptions, fences) WITH ORDINALITY
            AS i(owner, seq, subscription, fence, place)
    ), free AS MATERIALIZED (
        SELECT d.seq, d.subscription FROM item i
        JOIN postbus.delivery d ON d.seq = i.seq AND d.subscription = i.subscription
        WHERE d.owner = i.owner AND d.fence = i.fence AND d.until > v_now
        FOR UPDATE OF d SKIP LOCKED
    ), renewed AS (
        UPDATE postbus.delivery d
        SET until = v_now + the_lease * interval '1 second'
        FROM free f WHERE d.seq = f.seq AND d.subscription = f.subscription
    )
    SELECT coalesce(array_agg(i.place::integer), '{}') INTO v_held
    FROM item i JOIN postbus.delivery d ON d.seq = i.seq AND d.subscription = i.subscription
    WHERE d.owner = i.owner AND d.fence = i.fence AND d.until > v_now;
    RETURN v_held;
END $$;
