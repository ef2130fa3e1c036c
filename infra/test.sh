#!/bin/sh
# Install into .venv if needed, check style and types, run the tests. Arguments go to pytest: sh infra/test.sh -k corm
set -eu
cd "$(dirname "$0")/.."
. infra/install.sh

install test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .

# Types, and the kernels on small shapes in Triton's interpreter: in the gaps that the tests leave, see below.
log=$(mktemp)
nice -n 19 sh -euc '
    .venv/bin/python -m mypy
    if [ $# -eq 0 ] && .venv/bin/python -c "import triton" 2>/dev/null; then
        TRITON_INTERPRET=1 .venv/bin/python -m pytest -q -r f -p no:cacheprovider tests/ops
    fi
' checks "$@" >"$log" 2>&1 &
checks=$!
trap 'kill "$checks" 2>/dev/null || true; rm -f "$log"' EXIT  # without `true` its status would be the script's
trap 'exit 130' INT TERM

status=0
# Two files at a time: half of the time a test waits, for clusters to start and for limits to pass. In the order of
# tests/conftest.py, slow files first: pytest-xdist by itself leaves those of few tests to the end. A process that is
# lost ends the run, with the name of its test: started anew, pytest-xdist would wait for ever for tests of that file.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@" || status=$?
wait "$checks" || status=$?
cat "$log"
exit "$status"
