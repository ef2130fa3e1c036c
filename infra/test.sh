#!/bin/sh
# Install into .venv if needed, check style and types, run the tests. Arguments go to pytest: sh infra/test.sh -k corm
set -eu
cd "$(dirname "$0")/.."
. infra/install.sh

install test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m mypy
# Two files at a time: half of the time a test waits, for clusters to start and for limits to pass.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
# The kernels, on small shapes, in Triton's interpreter
if [ $# -eq 0 ] && .venv/bin/python -c "import triton" 2>/dev/null; then
    TRITON_INTERPRET=1 .venv/bin/python -m pytest -n 2 -q -r f tests/ops
fi
