-- History has partitions from today up to this day; where one cannot be made, `history_other` holds its events.
CREATE FUNCTION postbus.prepare_history(the_last timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_day timestamp := date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC');
    v_name text;
BEGIN
    WHILE v_day <= the_last AT TIME ZONE 'UTC' LOOP
        v_name := 'history_' || to_char(v_day, 'YYYYMMDD');
        IF to_regclass(format('postbus.%I', v_name)) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE postbus.%I PARTITION OF postbus.history FOR VALUES FROM (%L) TO (%L)',
                v_name, v_day AT TIME ZONE 'UTC', (v_day + interval '1 day') AT TIME ZONE 'UTC'
            );
        END IF;
        v_day := v_day + interval '1 day';
    END LOOP;
END $$;

-- Drop the days that are over.  Returns how many.
CREATE FUNCTION postbus.drop_history() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_name text;
    v_count integer := 0;
BEGIN
    FOR v_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'postbus.history'::regclass AND c.relname ~ '^history_[0-9]{8}$'
            AND (substr(c.relname, 9)::date + 1)::timestamp AT TIME ZONE 'UTC' < clock_timestamp()
    LOOP
        EXECUTE format('DROP TABLE postbus.%I', v_name);
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END $$;
