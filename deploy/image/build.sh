#!/bin/sh
# Install offkey into a virtual environment of its own: build.sh SOURCE TARGET
#
# SOURCE is a checkout, TARGET a folder that is not there yet; TARGET/sbom.cdx.json then lists what is in it, for
# whoever looks for packages with known holes. It is what the Dockerfile runs, and what tests/deploy/test_image.py runs
# in an empty folder. Where pip looks for torch is PIP_EXTRA_INDEX_URL's to say.
set -eu

# By its address: pip would take a bare name for a package of an index.
source=$(cd "$1" && pwd)
target=$2

python3 -m venv "$target"
"$target/bin/pip" install --no-cache-dir --disable-pip-version-check \
  --constraint "$source/constraints.txt" "offkey[arrow] @ file://$source"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv --without-pip "$tools"
"$target/bin/pip" --python "$tools/bin/python" install --no-cache-dir --disable-pip-version-check \
  --constraint "$source/constraints.txt" cyclonedx-bom
# Nothing installs anything where it runs.
"$target/bin/pip" uninstall --yes --disable-pip-version-check setuptools pip > /dev/null
# The test holds it against the schema, which takes long.
"$tools/bin/python" -m cyclonedx_py environment --no-validate --output-reproducible \
  --pyproject "$source/pyproject.toml" --output-file "$target/sbom.cdx.json" "$target/bin/python"
"$target/bin/offkey" --version
