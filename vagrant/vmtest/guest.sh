#!/bin/sh
# The guest's first process: mounts what a kernel suite looks for, runs the command that
# the host left in the result share, leaves its status there, and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 KSYMSFS_GUEST=1
for directory in /run /tmp /var/tmp; do
    mount -t tmpfs tmpfs "$directory"
done
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
ip link set lo up
# There is no udev to make the node before the first open.
modprobe fuse

cd /mnt/checkout || exit
cat /proc/uptime >/mnt/result/started
setsid sh /mnt/result/command </dev/null >/mnt/result/stdout 2>/mnt/result/stderr
echo $? >/mnt/result/status.new
mv /mnt/result/status.new /mnt/result/status
sync
echo o >/proc/sysrq-trigger
sleep 60
