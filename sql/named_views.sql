-- Views of a destination with its custom dimensions under the names that they have in Matomo.

CREATE FUNCTION matomo_create_named_views(destination regclass) RETURNS SETOF regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source record;
    dimension record;
    qualified text;
    known regclass;
    own name[];
    taken name[];
    value text;
    suffix text;
    attempt integer;
    column_name text;
    columns text;
    change text;
    sites bigint;
BEGIN
    IF destination IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "destination" must not be null';
    END IF;
    IF NOT EXISTS (SELECT FROM @extschema@.matomo_dimensions d
                   WHERE d.destination = matomo_create_named_views.destination AND d.name <> '') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('no names of custom dimensions of %s are known', destination),
            HINT = 'Read them with matomo_refresh_metadata, or with a sync of a registered site.';
    END IF;
    sites := (SELECT count(*) FROM (
        SELECT s.idsite FROM @extschema@.matomo_site_details s WHERE s.destination = matomo_create_named_views.destination
        UNION SELECT s.idsite FROM @extschema@.matomo_days s WHERE s.destination = matomo_create_named_views.destination) s);
    FOR source IN
        SELECT s.of_visits, c.oid, c.relname, c.relnamespace::regnamespace AS of_schema, c.relacl,
               format(CASE WHEN s.of_visits THEN 'Matomo visits of %s with named custom dimensions'
                      ELSE 'Matomo actions of %s with named custom dimensions' END, destination) AS comment
        FROM (SELECT false, destination UNION ALL
              -- After a restore both are known by name until the first sync, as in src/store/companions.rs.
              SELECT true, CASE m.companion::oid WHEN 0::oid THEN
                  (SELECT f.oid FROM @extschema@.matomo_find_table(m.companion_name) AS f(oid)
                   WHERE NOT EXISTS (SELECT FROM @extschema@.matomo_companion o WHERE o.companion::oid = f.oid))
                  ELSE m.companion::oid END
              FROM @extschema@.matomo_companion m
              WHERE m.kind = 'visits' AND CASE m.destination::oid WHEN 0::oid
                  THEN @extschema@.matomo_find_table(m.destination_name)
                  ELSE m.destination::oid END = matomo_create_named_views.destination) AS s(of_visits, oid)
        JOIN pg_class c ON c.oid = s.oid
    LOOP
        IF octet_length(source.relname || '_named') > 63 THEN
            RAISE name_too_long USING
                MESSAGE = format('view name "%s_named" is too long', source.relname),
                HINT = 'Give the table a shorter name.';
        END IF;
        qualified := format('%s.%I', source.of_schema, source.relname || '_named');
        known := to_regclass(qualified);
        -- The destination may have had another name.
        IF known IS NOT NULL
           AND (coalesce(obj_description(known, 'pg_class') NOT LIKE 'Matomo % of % with named custom dimensions', true)
                -- Its owner could give it any columns at any time.
                OR NOT EXISTS (SELECT FROM pg_class v WHERE v.oid = known AND v.relkind = 'v'
                    AND v.relowner IN ((SELECT d.relowner FROM pg_class d WHERE d.oid = source.oid), current_user::regrole))) THEN
            RAISE duplicate_table USING
                MESSAGE = format('relation %s already exists', qualified),
                HINT = 'Drop it or rename it.';
        END IF;
        own := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = source.oid AND a.attnum > 0 AND NOT a.attisdropped
                       ORDER BY a.attnum);
        taken := own;
        columns := (SELECT string_agg(format('t.%I', c.name), ', ' ORDER BY c.place) FROM unnest(own) WITH ORDINALITY AS c(name, place));
        -- A column for each name. Sites may have one name for different numbers, and one site for several.
        FOR dimension IN
            WITH configured AS (
                SELECT d.idsite, d.iddimension AS number, d.name, row_number() OVER (PARTITION BY d.idsite, d.name ORDER BY d.iddimension) AS place
                FROM @extschema@.matomo_dimensions d
                WHERE d.destination = matomo_create_named_views.destination AND d.name <> ''
                  AND (d.scope = 'visit' OR NOT source.of_visits)
            )
            -- Where all sites of the table have it alike, its rows need no distinction.
            SELECT c.name, min(c.number) AS number, min(c.number) = max(c.number) AND count(*) = sites AS is_one,
                   array_agg(c.idsite ORDER BY c.idsite) AS of_sites, array_agg(c.number ORDER BY c.idsite) AS numbers
            FROM configured c GROUP BY c.name, c.place ORDER BY min(c.number), min(c.idsite), c.name
        LOOP
            SELECT string_agg(CASE WHEN v.value IS NOT NULL THEN
                       CASE WHEN dimension.is_one THEN v.value ELSE format('WHEN %L THEN %s::text', v.idsite, v.value) END END,
                       ' ' ORDER BY v.idsite)
            INTO value
            FROM (SELECT u.idsite, CASE
                      WHEN 'dimension' || u.number = ANY (own) THEN format('t.%I', 'dimension' || u.number)
                      WHEN 'usercustomdimensions' = ANY (own) THEN format('(t.usercustomdimensions::jsonb->>%L)', 'dimension' || u.number)
                      WHEN 'dimensions' = ANY (own) THEN format('(t.dimensions::jsonb->>%L)', 'dimension' || u.number) END
                  FROM unnest(dimension.of_sites, dimension.numbers) AS u(idsite, number)
                  LIMIT CASE WHEN dimension.is_one THEN 1 END) AS v(idsite, value);
            CONTINUE WHEN value IS NULL;
            IF NOT dimension.is_one THEN
                value := format('CASE t.idsite %s END', value);
            END IF;
            -- A name has at most 63 bytes, and a column of the table may have it.
            suffix := '';
            attempt := 0;
            LOOP
                column_name := dimension.name;
                WHILE octet_length(column_name || suffix) > 63 LOOP
                    column_name := left(column_name, -1);
                END LOOP;
                column_name := column_name || suffix;
                EXIT WHEN column_name <> ALL (taken);
                attempt := attempt + 1;
                suffix := '_dimension' || dimension.number || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            END LOOP;
            taken := taken || column_name::name;
            columns := columns || format(', %s AS %I', value, column_name);
        END LOOP;
        -- Rights on the table are those of whoever reads the view.
        change := format('VIEW %s WITH (security_invoker) AS SELECT %s FROM %s t', qualified, columns, source.oid::regclass);
        IF known IS NOT NULL THEN
            BEGIN
                EXECUTE 'CREATE OR REPLACE ' || change;
            EXCEPTION WHEN invalid_table_definition THEN
                -- Names or columns have changed.
                source.relacl := (SELECT c.relacl FROM pg_class c WHERE c.oid = known);
                EXECUTE format('DROP VIEW %s', known);
                known := NULL;
            END;
        END IF;
        IF known IS NULL THEN
            EXECUTE 'CREATE ' || change;
            known := qualified::regclass;
            FOR change IN
                SELECT format('GRANT SELECT ON %s TO %s', known, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
                FROM aclexplode(source.relacl) a WHERE a.privilege_type = 'SELECT'
            LOOP
                EXECUTE change;
            END LOOP;
        END IF;
        EXECUTE format('COMMENT ON VIEW %s IS %L', known, source.comment);
        RETURN NEXT known;
    END LOOP;
END
$$;

COMMENT ON FUNCTION matomo_create_named_views(regclass) IS
    'Makes or renews the views <destination>_named and <destination>_visits_named, which have the custom dimensions under their names; returns them';
