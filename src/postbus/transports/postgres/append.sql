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
