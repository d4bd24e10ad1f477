/*
 * What getfsstat(2) of FreeBSD 12 and newer gives, by FreeBSD's own headers. statfs.bin
 * is the section .mounts of
 *
 *     zig cc -target x86_64-freebsd.13.2 -c statfs.c
 *
 * and the same with x86_64-freebsd.15.0 and aarch64-freebsd.14.0 (zig 0.17).
 */
#include <sys/param.h>
#include <sys/mount.h>

__attribute__((section(".mounts"), used)) struct statfs mounts[] = {
	{ .f_version = STATFS_VERSION, .f_type = 0x35, .f_flags = MNT_ROOTFS | MNT_LOCAL,
	  .f_bsize = 4096, .f_iosize = 32768, .f_namemax = 255, .f_fsid = {{ 0x6502, 0x35 }},
	  .f_fstypename = "ufs", .f_mntfromname = "/dev/ufs/rootfs", .f_mntonname = "/" },
	{ .f_version = STATFS_VERSION, .f_type = 0x71, .f_flags = MNT_LOCAL, .f_bsize = 512,
	  .f_iosize = 512, .f_namemax = 255, .f_fsid = {{ 0x71, 0x71 }},
	  .f_fstypename = "devfs", .f_mntfromname = "devfs", .f_mntonname = "/dev" },
	/* Where the kernel knows fsname, and where it does not: fuse_vfsop_mount. */
	{ .f_version = STATFS_VERSION, .f_type = 0xed, .f_flags = MNT_NOSUID | MNT_NOEXEC | MNT_NOATIME,
	  .f_bsize = 512, .f_iosize = 65536, .f_namemax = 255, .f_fsid = {{ 0xed01, 0xed }},
	  .f_fstypename = "fusefs.ksymsfs", .f_mntfromname = "ksymsfs", .f_mntonname = "/tmp/a b" },
	{ .f_version = STATFS_VERSION, .f_type = 0xed, .f_flags = MNT_NOSUID, .f_bsize = 512,
	  .f_iosize = 65536, .f_namemax = 255, .f_fsid = {{ 0xed02, 0xed }},
	  .f_fstypename = "fusefs.ksymsfs", .f_mntfromname = "/dev/fuse", .f_mntonname = "/mnt" },
};
