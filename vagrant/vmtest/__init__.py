"""Boots small Debian guests under QEMU and runs the project's suite in them.

A guest is three cached parts: a kernel (Debian's package, unpacked, never installed
on the host), a userland (an ext2 image) and an initrd that mounts one under the other.
The checkout is shared read-only; a guest has no network.
"""
