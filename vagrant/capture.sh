#!/bin/sh
# Brings images and tables of a guest back as test data:
#
#     vagrant/capture.sh debian|freebsd DIRECTORY
#
# debian: a capture (`ksyms capture`), and the tables that its image was made from.
# freebsd: the image that the real /dev/ksyms serves, what kldstat(8) says beside it,
# and the ELF files of the kernel and the modules that were loaded.
set -eu

debian() {
    cat <<'END'
uname -r >release
ksyms capture capture >&2
cat /proc/kallsyms >kallsyms.txt
cat /proc/modules >modules.txt
END
}

freebsd() {
    cat <<'END'
uname -rm >release
kldstat -v >kldstat.before
cat /dev/ksyms >ksyms.elf
kldstat -v >kldstat.txt
# Modules that came or went meanwhile would make image and list disagree.
cmp kldstat.before kldstat.txt >&2
rm kldstat.before
sed -n 's/.*(\(\/.*\))$/\1/p' kldstat.txt | while read -r file; do
    cp "$file" .
done
sha256 ksyms.elf >SHA256
END
}

case ${1-} in
debian | freebsd) guest=$1 ;;
*) guest= ;;
esac
if [ $# -ne 2 ] || [ -z "$guest" ]; then
    echo "usage: capture.sh debian|freebsd DIRECTORY" >&2
    exit 2
fi
mkdir -p "$2"
to=$(cd "$2" && pwd)
cd "$(dirname "$0")"

# shellcheck disable=SC2016 # the guest's shell expands them
# The script goes in on standard input, whatever the login shell is there, and the files
# come out as one archive: neither a shared folder nor a plug-in is needed.
{
    echo 'set -e; dir=$(mktemp -d); cd "$dir"'
    "$guest"
    echo 'tar -cf - .; rm -r "$dir"'
} | vagrant ssh "$guest" --no-tty -c 'sudo sh -s' | tar -C "$to" -xf -
ls -l "$to"
