-- Tables in which nothing is stored for long are never what their statistics say: mostly that they are empty, and then
-- the planner goes through all of one for each row of another as soon as it may.  So what was locked is updated by its
-- place (ctid), and an event is looked up for each delivery (LATERAL, with OFFSET 0 so that it stays that way).

-- Of an ordered subscription: look at what has come since, and let the first of each free key go on.  The caller holds
-- the subscription's lock.  Returns how many were looked at.
CREATE FUNCTION postbus.sort(the_subscription integer, is_ordered boolean, the_now timestamptz, the_floor bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH fresh AS MATERIALIZED (
        SELECT l.place, l.seq, CASE WHEN is_ordered THEN e.topic || '/' || e.key END AS lane
        FROM (
            SELECT d.ctid AS place, d.seq FROM postbus.delivery d
            WHERE d.subscription = the_subscription AND d.state = 0 AND d.seq >= the_floor ORDER BY d.seq LIMIT 1000
            FOR UPDATE
        ) l CROSS JOIN LATERAL (SELECT e.topic, e.key FROM postbus.event e WHERE e.seq = l.seq OFFSET 0) e
    ), placed AS (
        SELECT f.place, f.lane,
            f.lane IS NULL OR (
                row_number() OVER (PARTITION BY f.lane ORDER BY f.seq) = 1
                AND NOT EXISTS (
                    SELECT FROM postbus.delivery h
                    WHERE h.subscription = the_subscription AND h.lane = f.lane AND h.lane IS NOT NULL AND h.state <> 2
                ) AND NOT EXISTS (
                    SELECT FROM postbus.dead x WHERE x.subscription = the_subscription AND x.lane = f.lane
                )
            ) AS free
        FROM fresh f
    )
    UPDATE postbus.delivery d
    SET lane = p.lane, state = CASE WHEN NOT p.free THEN 2 WHEN d.due > the_now THEN 3 ELSE 1 END
    FROM placed p WHERE d.ctid = p.place;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- These keys may be free: let the first that waits for each go on.
CREATE FUNCTION postbus.advance(subscriptions integer[], lanes text[], the_now timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE postbus.delivery d
    SET state = CASE WHEN d.due > the_now THEN 3 ELSE 1 END
    FROM (SELECT DISTINCT * FROM unnest(subscriptions, lanes) AS u(subscription, lane)) f
    CROSS JOIN LATERAL (
        SELECT w.seq FROM postbus.delivery w
        WHERE w.subscription = f.subscription AND w.lane = f.lane AND w.state = 2 ORDER BY w.seq LIMIT 1
    ) n
    WHERE d.seq = n.seq AND d.subscription = f.subscription
        AND NOT EXISTS (
            SELECT FROM postbus.delivery h
            WHERE h.subscription = f.subscription AND h.lane = f.lane AND h.lane IS NOT NULL AND h.state <> 2
        ) AND NOT EXISTS (
            SELECT FROM postbus.dead x WHERE x.subscription = f.subscription AND x.lane = f.lane
        );
END $$;

-- The last row says how the subscription stands: `what` is 0 unknown, 1 paused, 2 open; the others are deliveries.
-- What is done leaves entries in the indexes for as long as any transaction is open that began before it, and whoever
-- looks for the first that is ready walks over them.  So the last row also says which was the first, as `seq`, for how
-- many microseconds was looked, as `micros`, and whether there is an order, as `attempt`; and a claim may look only at
-- what is ready from `the_floor` on.
CREATE FUNCTION postbus.claim(
    the_name text, the_owner text, the_limit integer, the_lease double precision, is_alone boolean, sweeps boolean,
    the_floor bigint
) RETURNS TABLE (
    what integer, subscription integer, seq bigint, attempt integer, fence bigint, id bytea, name text, topic text,
    key text, micros bigint, version integer, format text, body bytea, expires bigint, headers text,
    wait double precision, suspects boolean
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_id integer;
    v_ordered boolean;
    v_paused boolean;
    v_now timestamptz;
    v_fence bigint;
    v_next timestamptz;
    v_unsorted boolean;
    v_suspects boolean;
    v_due boolean;
    v_first bigint;
    v_looked_for bigint;
BEGIN
    SELECT s.id, s.ordered, s.paused INTO v_id, v_ordered, v_paused FROM postbus.subscription s WHERE s.name = the_name;
    IF v_ordered THEN
        PERFORM pg_advisory_xact_lock(LOCKCLASS, v_id);
        SELECT s.id, s.ordered, s.paused INTO v_id, v_ordered, v_paused
        FROM postbus.subscription s WHERE s.name = the_name;
    END IF;
    IF v_id IS NULL OR v_paused THEN
        RETURN QUERY SELECT (v_id IS NOT NULL)::integer, v_id, 0::bigint, 0, 0::bigint, ''::bytea, '', '', '',
            0::bigint, 0, '', ''::bytea, 0::bigint, '', NULL::double precision, false;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    IF sweeps THEN
        UPDATE postbus.delivery d SET state = 4, attempt = d.attempt + d.alone::integer, owner = NULL
        FROM (
            SELECT l.ctid AS place FROM postbus.delivery l
            WHERE l.subscription = v_id AND l.state = 5 AND l.until <= v_now FOR UPDATE SKIP LOCKED
        ) ended WHERE d.ctid = ended.place;
    END IF;
    -- Most of the time nothing is due, and then most of what follows need not be asked.
    IF the_floor = 0 THEN
        SELECT EXISTS (SELECT FROM postbus.delivery f WHERE f.subscription = v_id AND f.state = 4),
            (SELECT l.due FROM postbus.delivery l WHERE l.subscription = v_id AND l.state = 3 ORDER BY l.due LIMIT 1)
        INTO v_suspects, v_next;
    END IF;
    SELECT EXISTS (SELECT FROM postbus.delivery f WHERE f.subscription = v_id AND f.state = 0 AND f.seq >= the_floor), (
            SELECT f.seq FROM postbus.delivery f
            WHERE f.subscription = v_id AND f.state = 1 AND f.seq >= the_floor ORDER BY f.seq LIMIT 1
        )
    INTO v_unsorted, v_first;
    v_looked_for := extract(epoch FROM clock_timestamp() - v_now) * 1e6;
    v_due := coalesce(v_next <= v_now, false);
    IF v_due THEN
        UPDATE postbus.delivery d SET state = 4
        FROM (
            SELECT l.ctid AS place FROM postbus.delivery l
            WHERE l.subscription = v_id AND l.state = 3 AND l.due <= v_now AND l.suspect FOR UPDATE SKIP LOCKED
        ) ready WHERE d.ctid = ready.place;
    END IF;
    IF NOT is_alone AND (v_ordered OR v_unsorted) THEN
        WHILE (
            SELECT count(*) FROM (
                SELECT FROM postbus.delivery r
                WHERE r.subscription = v_id AND r.state = 1 AND r.seq >= v_first LIMIT the_limit
            ) x
        ) < the_limit LOOP
            EXIT WHEN postbus.sort(v_id, v_ordered, v_now, the_floor) = 0;
            v_first := (
                SELECT f.seq FROM postbus.delivery f
                WHERE f.subscription = v_id AND f.state = 1 AND f.seq >= the_floor ORDER BY f.seq LIMIT 1
            );
        END LOOP;
    END IF;
    v_fence := nextval('postbus.fence');
    IF is_alone THEN
        RETURN QUERY
        WITH one AS MATERIALIZED (
            SELECT l.ctid AS place, l.seq FROM postbus.delivery l WHERE l.subscription = v_id AND l.state = 4
            ORDER BY l.seq LIMIT least(the_limit, 1) FOR UPDATE SKIP LOCKED
        )
        UPDATE postbus.delivery d
        SET state = 5, owner = the_owner, fence = v_fence, alone = true,
            until = v_now + the_lease * interval '1 second'
        FROM one CROSS JOIN LATERAL (SELECT e.* FROM postbus.event e WHERE e.seq = one.seq OFFSET 0) e
        WHERE d.ctid = one.place
        RETURNING 3, v_id, d.seq, d.attempt, v_fence, uuid_send(e.id), e.name, e.topic, e.key, e.micros, e.version,
            e.format, e.body, e.expires, e.headers::text, NULL::double precision, true;
    ELSIF v_due THEN
        RETURN QUERY
        WITH due AS MATERIALIZED (
            SELECT l.ctid AS place, l.seq, l.due FROM postbus.delivery l
            WHERE l.subscription = v_id AND l.state = 3 AND l.due <= v_now AND NOT l.suspect
            ORDER BY l.due, l.seq LIMIT the_limit FOR UPDATE SKIP LOCKED
        ), fresh AS MATERIALIZED (
            SELECT l.ctid AS place, l.seq FROM postbus.delivery l
            WHERE l.subscription = v_id AND l.state = 1 AND l.seq >= v_first
            ORDER BY l.seq LIMIT the_limit - (SELECT count(*) FROM due) FOR UPDATE SKIP LOCKED
        ), taken AS MATERIALIZED (
            SELECT u.place, u.seq, u.due FROM due u UNION ALL SELECT f.place, f.seq, NULL FROM fresh f
        ), leased AS (
            UPDATE postbus.delivery d
            SET state = 5, owner = the_owner, fence = v_fence, alone = false,
                until = v_now + the_lease * interval '1 second'
            FROM taken t CROSS JOIN LATERAL (SELECT e.* FROM postbus.event e WHERE e.seq = t.seq OFFSET 0) e
            WHERE d.ctid = t.place
            RETURNING d.seq, d.attempt, t.due, e.id, e.name, e.topic, e.key, e.micros, e.version, e.format, e.body,
                e.expires, e.headers
        )
        SELECT 3, v_id, x.seq, x.attempt, v_fence, uuid_send(x.id), x.name, x.topic, x.key, x.micros, x.version,
            x.format, x.body, x.expires, x.headers::text, NULL::double precision, false
        FROM leased x ORDER BY x.due NULLS LAST, x.seq;
    ELSE
        RETURN QUERY
        WITH fresh AS MATERIALIZED (
            SELECT l.ctid AS place, l.seq FROM postbus.delivery l
            WHERE l.subscription = v_id AND l.state = 1 AND l.seq >= v_first
            ORDER BY l.seq LIMIT the_limit FOR UPDATE SKIP LOCKED
        ), leased AS (
            UPDATE postbus.delivery d
            SET state = 5, owner = the_owner, fence = v_fence, alone = false,
                until = v_now + the_lease * interval '1 second'
            FROM fresh f CROSS JOIN LATERAL (SELECT e.* FROM postbus.event e WHERE e.seq = f.seq OFFSET 0) e
            WHERE d.ctid = f.place
            RETURNING d.seq, d.attempt, e.id, e.name, e.topic, e.key, e.micros, e.version, e.format, e.body,
                e.expires, e.headers
        )
        SELECT 3, v_id, x.seq, x.attempt, v_fence, uuid_send(x.id), x.name, x.topic, x.key, x.micros, x.version,
            x.format, x.body, x.expires, x.headers::text, NULL::double precision, false
        FROM leased x ORDER BY x.seq;
    END IF;
    IF the_floor = 0 AND (v_due OR v_unsorted OR v_ordered OR is_alone) THEN
        SELECT EXISTS (SELECT FROM postbus.delivery l WHERE l.subscription = v_id AND l.state = 4),
            (SELECT l.due FROM postbus.delivery l WHERE l.subscription = v_id AND l.state = 3 ORDER BY l.due LIMIT 1)
        INTO v_suspects, v_next;
    END IF;
    RETURN QUERY SELECT 2, v_id, v_first, v_ordered::integer, v_fence, ''::bytea, '', '', '', v_looked_for, 0, '', ''::bytea,
        0::bigint, '', extract(epoch FROM v_next - v_now)::double precision, coalesce(v_suspects, false);
END $$;
