#!/bin/sh
# Waits for the Temporal server, then makes the namespace and our search attributes where they are missing. Again changes
# nothing: a namespace that is there keeps its retention.
#
#   TEMPORAL_ADDRESS, TEMPORAL_TLS_..., TEMPORAL_API_KEY   as the Temporal command line reads them
#   TEMPORAL_CLI   default temporal
#   NAMESPACE      default default
#   WAIT_SECONDS   how long the server is waited for, default 60
set -eu

cli=${TEMPORAL_CLI:-temporal}
namespace=${NAMESPACE:-default}
deadline=$(($(date +%s) + ${WAIT_SECONDS:-60}))

# Again and again until the deadline: a server that starts refuses, and a new namespace takes seconds to be seen everywhere.
patiently() {
  until answer=$("$cli" "$@" --command-timeout 5s 2>&1); do
    if [ "$(date +%s)" -ge "$deadline" ]; then
      echo "temporal $* at ${TEMPORAL_ADDRESS:-127.0.0.1:7233}: $answer" >&2
      exit 1
    fi
    sleep 1
  done
}

patiently operator cluster health

# 30 days: closed runs stay visible in Temporal Web that long. The ledger keeps its own record.
"$cli" operator namespace describe --namespace "$namespace" >/dev/null 2>&1 ||
  "$cli" operator namespace create --namespace "$namespace" --retention 720h

# Before any worker starts: a run that sets an attribute that its namespace does not know hangs. Those that are there stay.
patiently operator search-attribute create --namespace "$namespace" \
  --name HoldpointStatus --type Keyword \
  --name HoldpointAgent --type Keyword \
  --name HoldpointStopReason --type Keyword
echo "namespace $namespace is ready"
