-- What is stored.  A delivery is one row that changes its state; what is done is deleted.
-- States: 0 not yet sorted by key, 1 ready, 2 waiting behind its key, 3 due later, 4 suspect, 5 leased.
CREATE SEQUENCE postbus.fence;
CREATE SEQUENCE postbus.letter;
CREATE SEQUENCE postbus.event_seq;

CREATE TABLE postbus.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL,
    revision bigint NOT NULL,
    identity uuid NOT NULL DEFAULT gen_random_uuid()
);

CREATE TABLE postbus.subscription (
    id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    public uuid NOT NULL DEFAULT gen_random_uuid(),
    name text UNIQUE,
    spec jsonb NOT NULL,
    ordered boolean NOT NULL,
    parks boolean NOT NULL,
    fingerprint bytea NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    declared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE postbus.declaration (
    subscription integer NOT NULL,
    fingerprint bytea NOT NULL,
    PRIMARY KEY (subscription, fingerprint)
);

-- `routes` is for how many subscriptions it was ever stored, so that the last of one need not ask for others.
CREATE TABLE postbus.event (
    seq bigint PRIMARY KEY,
    id uuid NOT NULL,
    micros bigint NOT NULL,
    expires bigint,
    due timestamptz,
    keep_until timestamptz,
    routes integer NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    topic text NOT NULL,
    key text,
    format text NOT NULL,
    headers jsonb CHECK (jsonb_typeof(headers) = 'object'),
    body bytea NOT NULL
);

-- What is finished and kept (`retain=`): a partition for each day on which something is to go, dropped when it is over.
CREATE TABLE postbus.history (LIKE postbus.event) PARTITION BY RANGE (keep_until);
CREATE INDEX history_seq ON postbus.history (seq);
CREATE INDEX history_id ON postbus.history (id);
CREATE TABLE postbus.history_other PARTITION OF postbus.history DEFAULT;

CREATE VIEW postbus.stored AS
    SELECT * FROM postbus.event UNION ALL SELECT * FROM postbus.history WHERE keep_until > statement_timestamp();

CREATE TABLE postbus.seen (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL
);
CREATE INDEX seen_at ON postbus.seen USING brin (at) WITH (pages_per_range = 16);

CREATE TABLE postbus.delivery (
    seq bigint NOT NULL,
    subscription integer NOT NULL,
    state smallint NOT NULL,
    attempt integer NOT NULL DEFAULT 1,
    delayed boolean NOT NULL DEFAULT false,
    suspect boolean NOT NULL DEFAULT false,
    alone boolean NOT NULL DEFAULT false,
    due timestamptz,
    until timestamptz,
    fence bigint,
    owner text,
    lane text,
    failure jsonb,
    PRIMARY KEY (seq, subscription)
);
-- Each index costs every append, used or not: one for the three states whose rows are taken in their order.
CREATE INDEX delivery_next ON postbus.delivery (subscription, state, seq) WHERE state IN (0, 1, 4);
CREATE INDEX delivery_later ON postbus.delivery (subscription, due, seq) WHERE state = 3;
CREATE INDEX delivery_leased ON postbus.delivery (subscription, until) WHERE state = 5;
CREATE INDEX delivery_holder ON postbus.delivery (subscription, lane) WHERE lane IS NOT NULL AND state <> 2;
CREATE INDEX delivery_waiting ON postbus.delivery (subscription, lane, seq) WHERE state = 2;

-- A letter with a lane parks it.
CREATE TABLE postbus.dead (
    id uuid PRIMARY KEY,
    subscription integer NOT NULL,
    seq bigint NOT NULL,
    attempts integer NOT NULL,
    reason text NOT NULL,
    failure jsonb,
    buried_at timestamptz NOT NULL,
    lane text
);
CREATE UNIQUE INDEX dead_of ON postbus.dead (seq, subscription);
CREATE INDEX dead_listed ON postbus.dead (subscription, id);
CREATE UNIQUE INDEX dead_parking ON postbus.dead (subscription, lane) WHERE lane IS NOT NULL;

CREATE TABLE postbus.done (
    subscription uuid NOT NULL,
    id uuid NOT NULL,
    done_at timestamptz NOT NULL,
    PRIMARY KEY (subscription, id)
);
CREATE INDEX done_when ON postbus.done USING brin (done_at) WITH (pages_per_range = 16);

CREATE TABLE postbus.worker (
    owner text PRIMARY KEY,
    until timestamptz NOT NULL,
    info text NOT NULL
);

-- Rows live for seconds: what is left of them is to go soon, before it slows the next claim.
ALTER TABLE postbus.delivery SET (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2
);
ALTER TABLE postbus.event SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE postbus.seen SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE postbus.worker SET (fillfactor = 50);
-- Revisions begin anywhere, so that one that fits says that this is the schema somebody thinks it is.
INSERT INTO postbus.meta (format, revision)
VALUES (1, ('x' || substr(md5(gen_random_uuid()::text), 1, 15))::bit(60)::bigint);
