#!/bin/sh
# Creates Temporal's two databases and brings their schema up to the version of the tool. Again changes nothing.
#
#   SQL_HOST, SQL_USER   the server, and a role that owns the databases, or may create them
#   SQL_PASSWORD_FILE    file with that role's password
#   SQL_PORT             default 5432
#   SQL_TOOL             default temporal-sql-tool; the schema is inside it
#   DBNAME, VISIBILITY_DBNAME   default temporal and temporal_visibility, as in the server's image
#
# The tool reads SQL_TLS and the other SQL_TLS_ variables by itself.
set -eu

: "${SQL_HOST:?}" "${SQL_USER:?}" "${SQL_PASSWORD_FILE:?}"
# By the environment, not by arguments: those can be read by everybody on the machine.
SQL_PASSWORD=$(cat "$SQL_PASSWORD_FILE")
SQL_PORT=${SQL_PORT:-5432}
SQL_PLUGIN=postgres12
export SQL_HOST SQL_PORT SQL_USER SQL_PASSWORD SQL_PLUGIN

set_up() { # database, schema
  SQL_DATABASE=$1
  export SQL_DATABASE
  "${SQL_TOOL:-temporal-sql-tool}" create-database
  "${SQL_TOOL:-temporal-sql-tool}" setup-schema --version 0.0
  "${SQL_TOOL:-temporal-sql-tool}" update-schema --schema-name "postgresql/v12/$2"
  echo "database $1 on $SQL_HOST:$SQL_PORT is up to date"
}

set_up "${DBNAME:-temporal}" temporal
set_up "${VISIBILITY_DBNAME:-temporal_visibility}" visibility
