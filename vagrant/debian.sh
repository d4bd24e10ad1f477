#!/bin/sh
# Installs the project from /ksymsfs into a Debian guest and starts the service.
# Run as root; run again after a change of the checkout.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# Trixie calls libfuse2 libfuse2t64.
libfuse2=$(apt-cache search --names-only '^libfuse2(t64)?$' | cut -d' ' -f1)
apt-get -qy install --no-install-recommends \
    binutils bpftool fuse3 gcc kmod libc6-dev "$libfuse2" python3-pip python3-venv

[ -x /opt/ksymsfs/bin/python3 ] || python3 -m venv /opt/ksymsfs
/opt/ksymsfs/bin/pip install -q -e '/ksymsfs[fuse3,test]'
for command in ksymsfs mkksyms ksyms; do
    ln -sf "/opt/ksymsfs/bin/$command" "/usr/local/bin/$command"
done

modprobe fuse
systemctl stop ksymsfs 2>/dev/null || true
systemctl reset-failed ksymsfs 2>/dev/null || true
systemd-run --quiet --unit=ksymsfs --service-type=exec \
    --property=Restart=on-failure /usr/local/bin/ksymsfs -f /run/ksymsfs
# The service is up when the device answers.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -r /dev/ksyms ] && exec ksyms sym2addr schedule
    sleep 1
done
systemctl --no-pager status ksymsfs
exit 1
