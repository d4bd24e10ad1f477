/*
 * FreeBSD's kldnext(2), kldstat(2), kldsym(2) and sysctlbyname(3) for a machine with
 * the two linker files that were recorded on FreeBSD 13.2. Structures as in
 * sys/sys/linker.h; wrong versions are EINVAL, unknown ids and names ENOENT.
 *
 * getfsstat(2) and unmount(2) for a machine whose mounts are in the file $MOUNTS.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef BOOT /* where the kernel and its modules are */
#define BOOT "/boot/kernel"
#endif

struct kld_file_stat {
	int version;
	char name[1024];
	int refs;
	int id;
	char *address;
	size_t size;
	char pathname[1024];
};

struct kld_sym_lookup {
	int version;
	char *symname;
	unsigned long symvalue;
	size_t symsize;
};

static int
fail(int error)
{
	errno = error;
	return (-1);
}

int
kldnext(int id)
{
	if (id < 0 || id > 2)
		return (fail(ENOENT));
	return (id < 2 ? id + 1 : 0);
}

int
kldstat(int id, struct kld_file_stat *stat)
{
	if (stat->version != sizeof(*stat))
		return (fail(EINVAL));
	if (id != 1 && id != 2)
		return (fail(ENOENT));
	stat->id = id;
	stat->refs = id == 1 ? 5 : 1;
	stat->address = (char *)(id == 1 ? 0xffffffff80200000 : 0xffffffff80f18000);
	stat->size = id == 1 ? 0xa00000 : 0x2248;
	strcpy(stat->name, id == 1 ? "kernel" : "ksyms.ko");
	strcpy(stat->pathname, id == 1 ? "kernel" : BOOT "/ksyms.ko");
	return (0);
}

int
kldsym(int id, int command, struct kld_sym_lookup *lookup)
{
	if (lookup->version != sizeof(*lookup) || command != 1)
		return (fail(EINVAL));
	if (id != 1 || strcmp(lookup->symname, "panic") != 0)
		return (fail(ENOENT));
	lookup->symvalue = 0xffffffff80426700;
	lookup->symsize = 67;
	return (0);
}

int
sysctlbyname(const char *name, void *old, size_t *length, const void *new, size_t size)
{
	static const char bootfile[] = BOOT "/kernel";

	(void)new, (void)size;
	if (strcmp(name, "kern.bootfile") != 0)
		return (fail(ENOENT));
	if (*length < sizeof(bootfile))
		return (fail(ENOMEM));
	memcpy(old, bootfile, sizeof(bootfile));
	*length = sizeof(bootfile);
	return (0);
}

int
getfsstat(void *array, long size, int mode)
{
	FILE *mounts;
	size_t count;

	if (mode != 2) /* MNT_NOWAIT: whoever waits may wait for itself */
		return (fail(EINVAL));
	mounts = fopen(getenv("MOUNTS"), "r");
	if (mounts == NULL)
		return (0);
	count = fread(array, 2344, size / 2344, mounts);
	fclose(mounts);
	return (count);
}

int
unmount(const char *path, int flags)
{
	(void)path;
	if (flags != 0x80000) /* MNT_FORCE: it may be busy */
		return (fail(EBUSY));
	return (remove(getenv("MOUNTS")));
}
