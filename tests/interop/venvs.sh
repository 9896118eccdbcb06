#!/bin/sh
# Makes the virtual environments of the interop tests, where those look for them. Does nothing
# for one that is there already with the same requirements.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
for name in envoy grpc fuse websocket kubernetes; do
    venv=$target/interop/$name
    wanted=$here/requirements-$name.txt
    if cmp -s "$wanted" "$venv/requirements.txt"; then
        continue
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
done
