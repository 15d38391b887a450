-- Run once by psql, as superuser, on a new server: who may do what before Temporal and Holdpoint make their schemas.
-- Nobody but the container's own start is superuser.

-- CREATEDB: deploy/temporal/setup-schema.sh makes the databases temporal and temporal_visibility.
CREATE ROLE temporal LOGIN CREATEDB PASSWORD :'temporal_password';

-- CREATEROLE: `holdpoint migrate` makes holdpoint_worker and holdpoint_serve, and gives them what each needs.
CREATE ROLE holdpoint_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE DATABASE holdpoint OWNER holdpoint_owner;
-- The ledger lets in its owner and the two roles alone: Temporal's role could hold its locks otherwise.
REVOKE CONNECT, TEMPORARY ON DATABASE holdpoint FROM PUBLIC;
