-- Ways to write a batch of rows, given as texts, into a table: the reason for `src/store/copy_from.rs`.
-- Run by `tests/bench/run candidates`, which sets :file (rows in COPY format).
\set ON_ERROR_STOP 1
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SET jit = off;
CREATE EXTENSION IF NOT EXISTS matomo_postgres;

CREATE TEMP TABLE source (LIKE matomo_action);
COPY source FROM :'file';
ALTER TABLE source ADD n serial;
CREATE TEMP TABLE stage (LIKE matomo_action);

SELECT string_agg(format('array_agg(%I::text ORDER BY n) AS c%s', attname, attnum), ', ' ORDER BY attnum) AS arrays,
       string_agg(format('u.c%s::%s', attnum, atttypid::regtype), ', ' ORDER BY attnum) AS typed,
       string_agg('c' || attnum, ', ' ORDER BY attnum) AS places,
       string_agg(format('b.c%s', attnum), ', ' ORDER BY attnum) AS of_batch,
       string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS names
FROM pg_attribute WHERE attrelid = 'matomo_action'::regclass AND attnum > 0 \gset

-- Batches of 1,500 rows, about a page of 500 visits.
CREATE TEMP TABLE arrays AS SELECT n / 1500 AS batch, :arrays FROM source GROUP BY 1;
CREATE TEMP TABLE jsons AS SELECT n / 1500 AS batch, json_agg(to_jsonb(source) - 'n') AS rows FROM source GROUP BY 1;

CREATE PROCEDURE pg_temp.timed(what text, statement text) LANGUAGE plpgsql AS $$
DECLARE since timestamptz;
BEGIN
    DROP TABLE IF EXISTS candidate;
    PERFORM matomo_create_table('candidate');
    COMMIT;
    since := clock_timestamp();
    FOR batch IN 0 .. (SELECT max(a.batch) FROM arrays a) LOOP
        EXECUTE replace(statement, ':batch', batch::text);
    END LOOP;
    COMMIT;
    INSERT INTO timing VALUES (what, extract(epoch FROM clock_timestamp() - since));
    ASSERT (SELECT count(*) FROM candidate) = (SELECT count(*) FROM source);
END $$;
CREATE TEMP TABLE timing (what text, seconds numeric);

SELECT format($$CALL pg_temp.timed('one COPY of all', $q$DO $do$ BEGIN IF :batch = 0 THEN COPY candidate FROM %L; END IF; END $do$ $q$)$$, :'file') AS all,
       format($$CALL pg_temp.timed('COPY of a batch', $q$COPY candidate FROM '%s.:batch'$q$)$$, :'file') AS batches,
       format($$CALL pg_temp.timed('COPY of a batch into a stage, INSERT … SELECT … ON CONFLICT', $q$DO $do$ BEGIN TRUNCATE stage; COPY stage FROM '%s.:batch'; INSERT INTO candidate SELECT * FROM stage ON CONFLICT (action_id) DO UPDATE SET idvisit = excluded.idvisit; END $do$ $q$)$$, :'file') AS staged,
       format($$CALL pg_temp.timed('INSERT … SELECT FROM unnest(43 arrays)', $q$INSERT INTO candidate (%s) SELECT %s FROM arrays b, unnest(%s) AS u(%s) WHERE b.batch = :batch$q$)$$, :'names', :'typed', :'of_batch', :'places') AS unnest,
       $$CALL pg_temp.timed('INSERT … SELECT FROM json_populate_recordset', $q$INSERT INTO candidate SELECT r.* FROM jsons b, json_populate_recordset(NULL::matomo_action, b.rows) r WHERE b.batch = :batch$q$)$$ AS json \gset
SELECT format($$COPY (SELECT %s FROM source WHERE n / 1500 = %s ORDER BY n) TO '%s.%s'$$, :'names', batch, :'file', batch) FROM arrays \gexec
:all; :batches; :staged; :unnest; :json;
:json; :unnest; :staged; :batches; :all;
:staged; :all; :json; :batches; :unnest;
SELECT format('%-62s %s of %s s', what, round(median / first_value(median) OVER (ORDER BY median), 2), round(min(median) OVER (), 2))
FROM (SELECT what, percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS median FROM timing GROUP BY what) m
ORDER BY median;
DROP TABLE candidate;
