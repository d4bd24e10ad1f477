#!/bin/sh
# Installs the project from /ksymsfs into a Debian guest and starts the service.
# Run as root; run again after a change of the checkout.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# Trixie calls libfuse2 libfuse2t64.
libfuse2=$(apt-cache search --names-only '^libfuse2(t64)?$' | cut -d' ' -f1)
apt-get -qy install --no-install-recommends \
    binutils bpftool fuse3 gcc kmod libc6-dev libelf-dev "$libfuse2" python3-pip python3-venv

[ -x /opt/ksymsfs/bin/python3 ] || python3 -m venv /opt/ksymsfs
/opt/ksymsfs/bin/pip install -q -e '/ksymsfs[fuse3,test]'
for command in ksymsfs mkksyms ksyms; do
    ln -sf "/opt/ksymsfs/bin/$command" "/usr/local/bin/$command"
done

install -m 644 /ksymsfs/ksymsfs/service/ksymsfs.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --quiet ksymsfs
systemctl restart ksymsfs
ksyms sym2addr schedule
