#!/bin/sh
# The suite of a Debian guest, run from the checkout as root: what needs a mount, what
# reads the running kernel, and what loads and unloads modules. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
export KSYMSFS_GUEST=1 KSYMSFS_REQUIRE=fuse,kernel,guest PYTHONDONTWRITEBYTECODE=1
exec python3 -m pytest -q -p no:cacheprovider -m "fuse or kernel or guest" "$@"
