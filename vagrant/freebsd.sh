#!/bin/sh
# Installs the project from /ksymsfs into a FreeBSD guest: the client, which reads the
# real /dev/ksyms, and ksymsfs, which is mounted elsewhere beside it. Run as root; run
# again after a change of the checkout.
set -eu

export ASSUME_ALWAYS_YES=yes
# libfuse2: mfusepy does not know libfuse3 on FreeBSD.
pkg install -q python3 fusefs-libs
# The packages of Python modules are named after the one version they are built for.
pkg install -q "$(python3 -c 'import sys; print("py%d%d" % sys.version_info[:2])')-numpy"

# By the module, not its file: the kernel itself may have it.
for module in ksyms fusefs; do
    kldstat -q -m "$module" || kldload "$module"
    sysrc -q kld_list+="$module" >/dev/null
done

# numpy comes from pkg: PyPI has no wheels for FreeBSD. So do not ask for the linters,
# which are as hard to build there.
[ -x /opt/ksymsfs/bin/python3 ] ||
    python3 -m venv --system-site-packages /opt/ksymsfs
/opt/ksymsfs/bin/pip install -q -e '/ksymsfs[fuse3]' hypothesis pytest pytest-timeout
for command in ksymsfs mkksyms ksyms; do
    ln -sf "/opt/ksymsfs/bin/$command" "/usr/local/bin/$command"
done

# The path /dev/ksyms is the kernel's own here.
mkdir -p /usr/local/etc/rc.d
install -m 555 /ksymsfs/ksymsfs/service/ksymsfs.rc /usr/local/etc/rc.d/ksymsfs
sysrc -q ksymsfs_enable=YES ksymsfs_flags="--device none" >/dev/null
service ksymsfs status >/dev/null && service ksymsfs stop
service ksymsfs start

ksyms -k /dev/ksyms sym2addr panic
cmp /dev/ksyms /var/run/ksymsfs/ksyms
