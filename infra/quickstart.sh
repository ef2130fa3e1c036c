#!/bin/sh
# Install into .venv if needed, then answer the questions of jobs/quickstart about its documents. Safe to run again: what
# is installed and what is answered is not done twice.
set -eu
cd "$(dirname "$0")/.."
. infra/install.sh

install
exec .venv/bin/corm-batch run jobs/quickstart/job.yaml --expect expected "$@"
