-- Store events of some kinds, each of which goes to the subscriptions that `to_kinds` and `to_subscriptions` pair it
-- with.  Returns which items (from 1) are new, or NULL when these subscriptions are not those of today any more.
CREATE FUNCTION postbus.append(
    the_revision bigint, the_retain double precision,
    kind_names text[], kind_topics text[], kind_versions integer[], kind_formats text[], kind_routes integer[],
    to_kinds integer[], to_subscriptions integer[],
    ids uuid[], kinds integer[], keys text[], times bigint[], bodies bytea[],
    expiries bigint[], headings text[], delays double precision[]
) RETURNS integer[] LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now timestamptz;
    v_new integer[];
BEGIN
    IF (SELECT m.revision FROM postbus.meta m) <> the_revision THEN
        RETURN NULL;
    END IF;
    v_now := clock_timestamp();
    WITH item AS MATERIALIZED (
        SELECT * FROM unnest(ids, kinds, keys, times, bodies, expiries, headings, delays)
            WITH ORDINALITY AS i(id, kind, key, micros, body, expires, headers, delay, place)
    ), fresh AS (
        INSERT INTO postbus.seen (id, at) SELECT i.id, v_now FROM item i ORDER BY i.id  -- in one order: no deadlocks
        ON CONFLICT DO NOTHING RETURNING seen.id
    ), numbered AS MATERIALIZED (
        SELECT nextval('postbus.event_seq') AS seq, x.* FROM (
            SELECT i.*, v_now + i.delay * interval '1 second' AS due,
                kind_names[i.kind] AS name, kind_topics[i.kind] AS topic, kind_versions[i.kind] AS version,
                kind_formats[i.kind] AS format, kind_routes[i.kind] AS routes
            FROM item i JOIN fresh f ON f.id = i.id
            WHERE kind_routes[i.kind] > 0 OR the_retain IS NOT NULL
            ORDER BY i.place
        ) x
    ), stored AS (
        INSERT INTO postbus.event
            (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
        SELECT n.seq, n.id, n.name, n.topic, n.key, n.micros, n.version, n.format, n.body, n.expires,
            n.headers::jsonb, n.due, v_now + the_retain * interval '1 second', n.routes
        FROM numbered n
    ), offered AS (
        INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
        SELECT n.seq, s.id, CASE WHEN s.ordered THEN 0 WHEN n.due IS NULL THEN 1 ELSE 3 END, n.due, n.due IS NOT NULL
        FROM numbered n
        JOIN unnest(to_kinds, to_subscriptions) AS t(kind, subscription) ON t.kind = n.kind
        JOIN postbus.subscription s ON s.id = t.subscription
    )
    SELECT coalesce(array_agg(i.place::integer), '{}') INTO v_new FROM item i JOIN fresh f ON f.id = i.id;
    RETURN v_new;
END $$;

-- The same for one event, by plain values, which cost a third.  Returns {1} when it is new, {}, or NULL.
CREATE FUNCTION postbus.append_one(
    the_revision bigint, the_retain double precision, the_name text, the_topic text, the_version integer,
    the_format text, to_subscriptions integer[], the_id uuid, the_key text, the_time bigint, the_body bytea,
    the_expiry bigint, the_headings text, the_delay double precision
) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_due timestamptz;
    v_seq bigint;
BEGIN
    IF (SELECT m.revision FROM postbus.meta m) <> the_revision THEN
        RETURN NULL;
    END IF;
    v_now := clock_timestamp();
    INSERT INTO postbus.seen (id, at) VALUES (the_id, v_now) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    IF cardinality(to_subscriptions) > 0 OR the_retain IS NOT NULL THEN
        v_seq := nextval('postbus.event_seq');
        v_due := v_now + the_delay * interval '1 second';
        INSERT INTO postbus.event
            (seq, id, name, topic, key, micros, version, format, body, expires, headers, due, keep_until, routes)
        VALUES (v_seq, the_id, the_name, the_topic, the_key, the_time, the_version, the_format, the_body, the_expiry,
            the_headings::jsonb, v_due, v_now + the_retain * interval '1 second', cardinality(to_subscriptions));
        INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
        SELECT v_seq, s.id, CASE WHEN s.ordered THEN 0 WHEN v_due IS NULL THEN 1 ELSE 3 END, v_due, v_due IS NOT NULL
        FROM postbus.subscription s WHERE s.id = ANY (to_subscriptions);
    END IF;
    RETURN '{1}';
END $$;
