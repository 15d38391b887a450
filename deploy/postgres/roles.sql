-- Run once by psql, as superuser, on a new server: who may do what before Temporal and Holdpoint make their schemas.
-- Each lives in databases of its own that the other cannot even enter; nobody but the container's own start is superuser.
CREATE ROLE temporal LOGIN CREATEDB PASSWORD :'temporal_password';

-- CREATEROLE: `holdpoint migrate` makes holdpoint_worker and holdpoint_serve, and gives them what each needs.
CREATE ROLE holdpoint_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE DATABASE holdpoint OWNER holdpoint_owner;
REVOKE CONNECT, TEMPORARY ON DATABASE holdpoint FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE postgres FROM PUBLIC;
