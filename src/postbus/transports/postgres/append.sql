-- In a transaction that goes on seeing what it saw first, a subscription that was declared since then would be passed
-- over: such a transaction fails, as by any other change since its snapshot, and is to be run again.
CREATE FUNCTION postbus.refuse_old() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM postbus.meta FOR SHARE;
    RAISE EXCEPTION USING ERRCODE = 'PB002';  -- and let go of the lock: a declaration must not wait for this transaction
EXCEPTION WHEN SQLSTATE 'PB002' THEN
    RETURN;
END $$;

-- Store events of some kinds, each of which goes to the subscriptions that `to_kinds` and `to_subscriptions` pair it
-- with.  Returns which items (from 1) are new, or NULL when these subscriptions are not those of today any more.
CREATE FUNCTION postbus.append(
    the_revision bigint, the_retain double precision,
    kind_names text[], kind_topics text[], kind_versions integer[], kind_formats text[], kind_routes integer[],
    to_kinds integer[], to_subscriptions integer[], to_ordered boolean[],
    ids uuid[], kinds integer[], keys text[], times bigint[], bodies bytea[],
    expiries bigint[], headings text[], delays double precision[]
) RETURNS integer[] LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now timestamptz;
    v_fresh uuid[];
    v_new integer[];
    v_seqs bigint[];
BEGIN
    IF (SELECT m.revision FROM postbus.meta m) <> the_revision THEN
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM postbus.refuse_old();
    END IF;
    v_now := clock_timestamp();
    WITH fresh AS (
        INSERT INTO postbus.seen (id, at) SELECT i.id, v_now FROM unnest(ids) AS i(id) ORDER BY i.id  -- no deadlocks
        ON CONFLICT DO NOTHING RETURNING seen.id
    )
    SELECT array_agg(f.id) INTO v_fresh FROM fresh f;
    IF v_fresh IS NULL THEN
        RETURN '{}';
    END IF;
    v_new := ARRAY(SELECT generate_series(1, cardinality(ids)));
    IF cardinality(v_fresh) < cardinality(ids) THEN
        v_new := ARRAY(
            SELECT i.place::integer FROM unnest(ids) WITH ORDINALITY AS i(id, place)
            WHERE i.id = ANY (v_fresh) ORDER BY i.place
        );
    END IF;
    v_seqs := ARRAY(SELECT nextval('postbus.event_seq') FROM unnest(v_new));
    INSERT INTO postbus.event
        (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
    SELECT n.seq, ids[n.place], kind_names[kinds[n.place]], kind_topics[kinds[n.place]], keys[n.place],
        times[n.place], kind_versions[kinds[n.place]], kind_formats[kinds[n.place]], bodies[n.place],
        expiries[n.place], headings[n.place]::jsonb, v_now + delays[n.place] * interval '1 second',
        v_now + the_retain * interval '1 second', kind_routes[kinds[n.place]]
    FROM unnest(v_seqs, v_new) AS n(seq, place) WHERE kind_routes[kinds[n.place]] > 0;
    INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
    SELECT n.seq, t.subscription, CASE WHEN t.ordered THEN 0 WHEN delays[n.place] IS NULL THEN 1 ELSE 3 END,
        v_now + delays[n.place] * interval '1 second', delays[n.place] IS NOT NULL
    FROM unnest(v_seqs, v_new) AS n(seq, place)
    JOIN unnest(to_kinds, to_subscriptions, to_ordered) AS t(kind, subscription, ordered) ON t.kind = kinds[n.place];
    IF the_retain IS NOT NULL AND 0 = ANY (kind_routes) THEN
        INSERT INTO postbus.history
            (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
        SELECT n.seq, ids[n.place], kind_names[kinds[n.place]], kind_topics[kinds[n.place]], keys[n.place],
            times[n.place], kind_versions[kinds[n.place]], kind_formats[kinds[n.place]], bodies[n.place],
            expiries[n.place], headings[n.place]::jsonb, v_now + delays[n.place] * interval '1 second',
            v_now + the_retain * interval '1 second', 0
        FROM unnest(v_seqs, v_new) AS n(seq, place) WHERE kind_routes[kinds[n.place]] = 0;
    END IF;
    RETURN v_new;
END $$;

-- The same for one event, by plain values, which cost a third.  Returns whether it is new, or NULL.
CREATE FUNCTION postbus.append_one(
    the_revision bigint, the_retain double precision, the_name text, the_topic text, the_version integer,
    the_format text, to_subscriptions integer[], to_ordered boolean[], the_id uuid, the_key text, the_time bigint,
    the_body bytea, the_expiry bigint, the_headings text, the_delay double precision
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_due timestamptz;
    v_seq bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM postbus.refuse_old();
    END IF;
    v_now := clock_timestamp();
    INSERT INTO postbus.seen (id, at) SELECT the_id, v_now FROM postbus.meta m WHERE m.revision = the_revision
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT FROM postbus.meta m WHERE m.revision = the_revision) THEN false END;
    END IF;
    v_due := v_now + the_delay * interval '1 second';
    v_seq := nextval('postbus.event_seq');
    IF cardinality(to_subscriptions) > 0 THEN
        INSERT INTO postbus.event
            (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
        VALUES (v_seq, the_id, the_name, the_topic, the_key, the_time, the_version, the_format, the_body, the_expiry,
            the_headings::jsonb, v_due, v_now + the_retain * interval '1 second', cardinality(to_subscriptions));
    ELSIF the_retain IS NOT NULL THEN
        INSERT INTO postbus.history
            (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
        VALUES (v_seq, the_id, the_name, the_topic, the_key, the_time, the_version, the_format, the_body, the_expiry,
            the_headings::jsonb, v_due, v_now + the_retain * interval '1 second', 0);
    END IF;
    IF cardinality(to_subscriptions) = 1 THEN
        INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
        VALUES (v_seq, to_subscriptions[1], CASE WHEN to_ordered[1] THEN 0 WHEN v_due IS NULL THEN 1 ELSE 3 END,
            v_due, v_due IS NOT NULL);
    ELSIF cardinality(to_subscriptions) > 1 THEN
        INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
        SELECT v_seq, t.subscription, CASE WHEN t.ordered THEN 0 WHEN v_due IS NULL THEN 1 ELSE 3 END,
            v_due, v_due IS NOT NULL
        FROM unnest(to_subscriptions, to_ordered) AS t(subscription, ordered);
    END IF;
    RETURN true;
END $$;

-- The same, and right behind its commit a NOTIFY with a commit of its own, which need not wait for the disk.
CREATE PROCEDURE postbus.append_and_notify(
    the_revision bigint, the_retain double precision, the_name text, the_topic text, the_version integer,
    the_format text, to_subscriptions integer[], to_ordered boolean[], the_id uuid, the_key text, the_time bigint,
    the_body bytea, the_expiry bigint, the_headings text, the_delay double precision,
    the_channel text, the_payload text, INOUT is_new boolean
) LANGUAGE plpgsql AS $$
BEGIN
    is_new := postbus.append_one(
        the_revision, the_retain, the_name, the_topic, the_version, the_format, to_subscriptions, to_ordered, the_id,
        the_key, the_time, the_body, the_expiry, the_headings, the_delay
    );
    IF is_new THEN
        COMMIT;
        SET LOCAL synchronous_commit = off;
        PERFORM pg_notify(the_channel, the_payload);
    END IF;
END $$;
