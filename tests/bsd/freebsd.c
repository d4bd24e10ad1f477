/*
 * What FreeBSD's own headers say of what the project lays out itself; see record.py.
 */
#include <sys/param.h>
#include <sys/ioccom.h>
#include <sys/linker.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <stddef.h>

#include "fact.h"

const struct fact facts[] = {
	CONSTANT(KLDSYM_LOOKUP),
	CONSTANT(MAXPATHLEN),
	CONSTANT(MNT_FORCE),
	REQUEST(KIOCGSIZE, _IOR('l', 1, size_t)),
	REQUEST(KIOCGADDR, _IOR('l', 2, void *)),

	STRUCT(kld_file_stat),
	FIELD(kld_file_stat, version),
	FIELD(kld_file_stat, name),
	FIELD(kld_file_stat, refs),
	FIELD(kld_file_stat, id),
	FIELD(kld_file_stat, address),
	FIELD(kld_file_stat, size),
	FIELD(kld_file_stat, pathname),

	STRUCT(kld_sym_lookup),
	FIELD(kld_sym_lookup, version),
	FIELD(kld_sym_lookup, symname),
	FIELD(kld_sym_lookup, symvalue),
	FIELD(kld_sym_lookup, symsize),

	STRUCT(stat),
	FIELD(stat, st_dev),
	FIELD(stat, st_ino),
	FIELD(stat, st_mode),
	FIELD(stat, st_nlink),
	FIELD(stat, st_uid),
	FIELD(stat, st_gid),
	FIELD(stat, st_rdev),
	FIELD(stat, st_atim),
	FIELD(stat, st_mtim),
	FIELD(stat, st_ctim),
	FIELD(stat, st_size),
	FIELD(stat, st_blocks),
	FIELD(stat, st_blksize),

	STRUCT(statvfs),
	FIELD(statvfs, f_bavail),
	FIELD(statvfs, f_bfree),
	FIELD(statvfs, f_blocks),
	FIELD(statvfs, f_favail),
	FIELD(statvfs, f_ffree),
	FIELD(statvfs, f_files),
	FIELD(statvfs, f_bsize),
	FIELD(statvfs, f_flag),
	FIELD(statvfs, f_frsize),
	FIELD(statvfs, f_namemax),
};
