# Sourced by the scripts beside it. `setup EXTRAS` makes .venv with those extras, once, and again when pyproject.toml changes.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python_found() { # the first interpreter that is new enough; PRECEPTOR_PYTHON names one outright
    local name
    for name in ${PRECEPTOR_PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$name" && return; fi
    done
    echo "Preceptor needs Python 3.11 or newer, and none was found: install one, or name it in PRECEPTOR_PYTHON." >&2
    return 1
}

setup() {
    local extras=$1 stamp=".venv/.has-$1" python
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(python_found)
        echo "Making .venv with $("$python" --version)" >&2
        # Debian ships venv without ensurepip: there the outer pip puts pip into the new environment.
        "$python" -m venv --clear .venv 2>/dev/null || {
            "$python" -m venv --clear --without-pip .venv && "$python" -m pip -qq --python .venv/bin/python install pip
        }
    fi
    export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH" PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    if { pwd && cat pyproject.toml; } | cmp -s - "$stamp"; then return; fi
    echo "Installing preceptor[$extras] into .venv (minutes at first, seconds later)" >&2
    if [[ ",$extras," == *,trainer,* ]]; then
        # torch comes first and by its exact version, so that no other requirement makes pip choose another build of it.
        python -m pip install -qq "torch==2.13.0"
        python -m pip install -qq pycosat==0.6.6 2>/dev/null || {
            echo "pycosat cannot be compiled here (no C compiler?): reasoning-gym's zebra puzzles will be missing." >&2
            python -m pip install -qq scripts/pycosat/
        }
    fi
    python -m pip install -qq -e ".[$extras]"
    { pwd && cat pyproject.toml; } >"$stamp"
}
