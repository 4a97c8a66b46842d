# Sourced by the scripts beside it: leaves a working environment in $venv and the checkout's folder in $root.
#
# The environment is made on first use, in .venv of the checkout or in $NTELEPORT_VENV. A file in it says how far that
# got: "unfinished PID" (while that process runs we wait for it; if it was killed, all is made again), "stale" (pip
# failed: pip runs again) or a digest of what was installed (pip runs again when that changes). A virtual environment
# that somebody else made in $NTELEPORT_VENV is never emptied; nteleport is installed into it from this checkout.
# $NTELEPORT_EXTRAS says which extras of the package go in (default: dev).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${NTELEPORT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
extras=${NTELEPORT_EXTRAS:-dev}
state_file=$venv/.nteleport-state
made_file=$venv/.nteleport-made

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "nteleport needs Python 3.11 or later, and none was found (set PYTHON to its path if it is not on PATH)"
}

# What the environment should hold: the requirements, and the checkout that is installed in it.
wanted_state() {
    "$venv/bin/python" - "$root" "$extras" <<'PYTHON'
import hashlib, pathlib, sys
root, extras = sys.argv[1:]
requirements = pathlib.Path(root, "pyproject.toml").read_text()
content = "\0".join([sys.version, root, extras, requirements]).encode()
print(hashlib.sha256(content).hexdigest())
PYTHON
}

state() { cat "$state_file" 2>/dev/null || true; }

is_ready() {
    local wanted
    wanted=$(wanted_state 2>/dev/null) &&
        [ "$(state)" = "$wanted" ] &&
        "$venv/bin/python" -I -c 'import nteleport' 2>/dev/null
}

is_usable() { [[ $(state) != unfinished* ]] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

# The folder may be emptied: it is not there yet, or empty, or was made by this script.
is_ours() {
    [ "$venv" = "$root/.venv" ] || [ -e "$made_file" ] || [ -z "$(ls -A "$venv" 2>/dev/null)" ]
}

make_environment() {
    local python
    is_ours || fail "$venv is not a working virtual environment: remove it, or set NTELEPORT_VENV to another folder"
    python=$(find_python) || exit 1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
    { mkdir -p "$venv" && find "$venv" -mindepth 1 -delete && touch "$made_file" && echo "unfinished $$" >"$state_file"; } ||
        fail "cannot write to $venv"
    "$python" -m venv "$venv" || fail "could not make a virtual environment in $venv"
}

# Where the package in the environment comes from, if it has one.
installed_root() {
    "$venv/bin/python" -I -c 'import nteleport; print(nteleport.__path__[0].rpartition("/")[0])' 2>/dev/null || true
}

install_package() {
    local made_here=no quiet=()
    [ -e "$made_file" ] && made_here=yes
    [ -t 2 ] && [ -z "${CI:-}" ] || quiet=(--quiet)
    [ "$made_here" = no ] || echo "unfinished $$" >"$state_file"
    if ! "$venv/bin/python" -m pip install ${quiet[@]+"${quiet[@]}"} --disable-pip-version-check \
        --editable "$root[$extras]" >&2; then
        [ "$made_here" = no ] || echo stale >"$state_file"
        fail "pip could not install nteleport into $venv; the reason is above"
    fi
    wanted_state >"$state_file.new" && mv "$state_file.new" "$state_file"
}

wait_for_another() {
    local word pid
    read -r word pid <<<"$(state)"
    [ "$word" = unfinished ] && kill -0 "$pid" 2>/dev/null || return 0
    say "Waiting for process $pid, which is setting up $venv ..."
    while kill -0 "$pid" 2>/dev/null; do sleep 1; done
}

ensure_environment() {
    wait_for_another
    is_ready && return
    if ! is_usable; then
        say "Making an environment in $venv ..."
        make_environment
    fi
    local other
    other=$(installed_root)
    [ -z "$other" ] || [ "$other" = "$root" ] || say "$venv had nteleport from $other; from now on it has that of $root"
    say "Installing nteleport and what it needs; the first time this downloads PyTorch and takes minutes ..."
    install_package
}

ensure_environment
