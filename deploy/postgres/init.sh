#!/bin/sh
# Runs once, when the volume of the postgres container is empty.
set -eu
for name in temporal_db_password owner_db_password; do
  [ -s "/run/secrets/$name" ] || {
    echo "the secret $name is missing or empty: make all secrets with: node deploy/make-secrets.mjs" >&2
    exit 1
  }
done
# psql reads the files itself: a password in its arguments would show in the list of processes.
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set temporal_password `cat /run/secrets/temporal_db_password`
\set owner_password `cat /run/secrets/owner_db_password`
\i /etc/holdpoint/roles.sql
SQL
