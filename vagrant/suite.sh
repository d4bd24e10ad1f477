#!/bin/sh
# The suite of a guest, run from the checkout as root. On Debian: what needs a mount,
# what reads the running kernel, and what loads and unloads modules. On FreeBSD: what
# reads the real /dev/ksyms, and a mount beside it. Arguments (tests, options) go to
# pytest; `vagrant/suite.sh tests` runs all that can run there.
set -eu
cd "$(dirname "$0")/.."
case $(uname -s) in
Linux)
    markers=fuse,kernel,guest
    if [ $# -eq 0 ]; then
        # Without the checks that are thousands of opens long: they need no guest.
        set -- -k "not never_busy and not opens_are_told_apart" \
            tests/guest tests/conformance/test_conformance.py
        for name in mount changes kernel; do
            set -- "$@" "tests/integration/test_$name.py"
        done
    fi ;;
FreeBSD)
    markers=freebsd
    [ $# -gt 0 ] || set -- tests/guest ;;
*)
    echo "suite.sh: no suite for $(uname -s)" >&2
    exit 2 ;;
esac
# None of them may be skipped.
export KSYMSFS_GUEST=1 KSYMSFS_REQUIRE="$markers" PYTHONDONTWRITEBYTECODE=1
exec "${PYTHON:-python3}" -m pytest -q --tb=short --durations=5 -p no:cacheprovider \
    -m "$(echo "$markers" | sed 's/,/ or /g')" "$@"
