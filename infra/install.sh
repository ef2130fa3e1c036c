# Sourced by quickstart.sh and test.sh: `install [EXTRA]` makes .venv in the checkout and installs corm-batch into it with
# the exact versions of constraints.txt. Does nothing when both files it depends on are as they were at the last install.

find_python() {
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "corm-batch needs Python 3.11, 3.12 or 3.13; none of python3.11, python3.12, python3.13, python3 is one." >&2
    return 1
}

make_venv() {
    python=$(find_python) || exit 1
    echo "Making .venv with $("$python" --version)"
    if ! "$python" -m venv --clear .venv; then
        rm -rf .venv
        echo "$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
}

install() {
    extra=${1:-}
    .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv
    stamp=".venv/installed${extra:+-$extra}"
    wanted=$(pwd; cat pyproject.toml infra/constraints.txt | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "Installing corm-batch and what it needs into .venv (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        --constraint infra/constraints.txt --editable ".${extra:+[$extra]}"
    # pip compiles on one core, and what hardly anybody imports too: what is left out here is compiled when it is first
    # imported. Templates that are no Python cannot be compiled.
    .venv/bin/python -m compileall -qq -j 0 \
        -x '/tests?/|/transformers/models/|/ray/(data|rllib|serve|train|tune)/|/moto/|/torch/testing/' .venv/lib || true
    echo "$wanted" >"$stamp"
}
