-- Who may do what in a Dovetail registry on PostgreSQL.
--
-- Run it as the owner of the tables, in the registry's database, after every `dovetail db upgrade`:
--
--     dovetail db roles | psql "$ADMIN_URL"
--     psql "$ADMIN_URL" -c 'GRANT dovetail_publisher TO training; GRANT dovetail_promoter TO release'
--
-- role                 may
-- dovetail_reader      look at everything: list, show, search, compare, history, pull, verify
-- dovetail_publisher   also register, evaluate and edit; not move an alias, nor delete
-- dovetail_promoter    also promote, roll back, require, drop aliases, delete and restore; not
--                      register, nor edit
-- dovetail_admin       all of it, and collect garbage, import and change rows by hand
--
-- Nobody but the owner changes the schema. Nobody but an administrator changes or removes a line of
-- the history, a version, a file or a score.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['reader', 'publisher', 'promoter', 'admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dovetail_' || role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', 'dovetail_' || role);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), 'dovetail_' || role);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), 'dovetail_' || role);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), 'dovetail_' || role);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I', current_schema(), 'dovetail_' || role);
    END LOOP;
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO dovetail_publisher, dovetail_admin', current_schema());
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %I TO dovetail_admin', current_schema());
END
$$;

-- The history is written by everybody who changes something, and rewritten by nobody.
GRANT INSERT ON events TO dovetail_publisher, dovetail_promoter;

GRANT INSERT ON base_models, adapters, versions, files, blobs, evaluations, scores, intents, intent_blobs
    TO dovetail_publisher;
GRANT UPDATE (task, description, tags, updated_at, deleted_at) ON adapters TO dovetail_publisher;
GRANT UPDATE (description, tags, updated_at) ON versions TO dovetail_publisher;
GRANT UPDATE (expires_at) ON intents TO dovetail_publisher;
GRANT DELETE ON intents TO dovetail_publisher;

GRANT INSERT, UPDATE, DELETE ON aliases, requirements TO dovetail_promoter;
GRANT UPDATE (deleted_at) ON versions TO dovetail_promoter;
GRANT UPDATE (updated_at, deleted_at) ON adapters TO dovetail_promoter;

REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM dovetail_admin;
