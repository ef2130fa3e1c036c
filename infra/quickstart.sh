#!/bin/sh
# Install into .venv if needed, then answer the questions of jobs/quickstart about its documents. Safe to run again: what
# is installed and what is answered is not done twice. With --released first, a released model answers jobs/released.
set -eu
cd "$(dirname "$0")/.."
. infra/install.sh

job=quickstart
if [ "${1:-}" = --released ]; then
    shift
    job=released
    install gguf
    .venv/bin/python -m infra.models.fetch
else
    install
fi
exec .venv/bin/corm-batch run "jobs/$job/job.yaml" --expect expected "$@"
