/*-
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * What programs of FreeBSD 8 to 11 expect of /dev/ksyms, for Linux: a library for
 * LD_PRELOAD, see ksyms(4).
 *
 * There, open(2) put the snapshot into the memory of the process, the last close(2) took
 * it out again, and KIOCGADDR told where it was. ksymsfs cannot map anything into another
 * process, so this does it from inside.  It also answers the ioctls by either system's
 * numbers, which differ in the bits that say in which direction data goes.
 */

#define	_GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

/* Every snapshot's inode number is the word "ksyms"; statfs(2) knows FUSE. */
#define	KSYMS_INODE	0x6b73796d73ULL
#define	FUSE_MAGIC	0x65735546L

/* _IOR('l', command, size of a pointer), without the direction. */
#define	REQUEST(command) (sizeof(void *) << 16 | 'l' << 8 | (command))
#define	DIRECTION	(3UL << 30)
#define	KIOCGSIZE	REQUEST(1)
#define	KIOCGADDR	REQUEST(2)

/*
 * The snapshots that this process has open.  FreeBSD allows one, but NetBSD and illumos
 * any number: those beyond the table are mapped when they are asked for.
 */
#define	FREE	0
#define	TAKEN	(-1)		/* a thread is filling it in */
#define	ENTRIES	64
static struct snapshot {
	atomic_int holds;	/* descriptor + 1 */
	pid_t process;		/* whose memory it is in: not that of a vfork(2) */
	void *address;
	size_t size;
} snapshots[ENTRIES];

#define	NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The entry that holds this; now it holds that. */
static struct snapshot *
exchange(int this, int that)
{
	for (struct snapshot *s = snapshots; s < snapshots + ENTRIES; s++) {
		int holds = this;

		if (atomic_compare_exchange_strong(&s->holds, &holds, that))
			return (s);
	}
	return (NULL);
}

/* Whether fd is open on a snapshot, and how large that is. */
static bool
is_snapshot(int fd, size_t *size)
{
	struct stat st;
	struct statfs fs;

	if (fstat(fd, &st) != 0 || st.st_ino != KSYMS_INODE || !S_ISREG(st.st_mode) ||
	    fstatfs(fd, &fs) != 0 || fs.f_type != FUSE_MAGIC)
		return (false);
	*size = (size_t)st.st_size;
	return (true);
}

/* The program's own copy, as it was then: it may write to it. */
static void *
map(int fd, size_t size)
{
	void *address;

	address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	return (address == MAP_FAILED ? NULL : address);
}

/* open(2) has just made fd: if it is a snapshot, map it. */
static int
opened(int fd)
{
	struct snapshot *entry;
	int saved = errno;
	size_t size;

	if (fd >= 0 && is_snapshot(fd, &size)) {
		exchange(fd + 1, FREE);		/* closed where close() did not see it */
		if ((entry = exchange(FREE, TAKEN)) != NULL) {
			entry->process = getpid();
			entry->size = size;
			entry->address = map(fd, size);
			atomic_store(&entry->holds, entry->address ? fd + 1 : FREE);
		}
	}
	errno = saved;
	return (fd);
}

#define	MODE(flags, mode) do {						\
	if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) {	\
		va_list args;						\
		va_start(args, flags);					\
		mode = va_arg(args, mode_t);				\
		va_end(args);						\
	}								\
} while (0)

#define	OPEN(name)							\
int									\
name(const char *path, int flags, ...)					\
{									\
	mode_t mode = 0;						\
									\
	MODE(flags, mode);						\
	return (opened(NEXT(name)(path, flags, mode)));			\
}

#define	OPENAT(name)							\
int									\
name(int at, const char *path, int flags, ...)				\
{									\
	mode_t mode = 0;						\
									\
	MODE(flags, mode);						\
	return (opened(NEXT(name)(at, path, flags, mode)));		\
}

OPEN(open)
OPENAT(openat)
#ifdef __GLIBC__
OPEN(open64)
OPENAT(openat64)

/* What <fcntl.h> makes of them with _FORTIFY_SOURCE. */
int	__open_2(const char *, int);
int	__open64_2(const char *, int);
int	__openat_2(int, const char *, int);
int	__openat64_2(int, const char *, int);

int
__open_2(const char *path, int flags)
{
	return (opened(NEXT(__open_2)(path, flags)));
}

int
__open64_2(const char *path, int flags)
{
	return (opened(NEXT(__open64_2)(path, flags)));
}

int
__openat_2(int at, const char *path, int flags)
{
	return (opened(NEXT(__openat_2)(at, path, flags)));
}

int
__openat64_2(int at, const char *path, int flags)
{
	return (opened(NEXT(__openat64_2)(at, path, flags)));
}
#endif

int
close(int fd)
{
	struct snapshot *entry;

	if (fd >= 0 && (entry = exchange(fd + 1, fd + 1)) != NULL &&
	    entry->process == getpid()) {
		munmap(entry->address, entry->size);
		atomic_store(&entry->holds, FREE);
	}
	return (NEXT(close)(fd));
}

#ifdef __GLIBC__
typedef unsigned long request_t;
#else
typedef int request_t;
#endif

int
ioctl(int fd, request_t request, ...)
{
	unsigned long command = (unsigned int)request & ~DIRECTION;
	struct snapshot *entry;
	void *address, *argument;
	size_t size;
	int status;
	va_list args;

	va_start(args, request);
	argument = va_arg(args, void *);
	va_end(args);
	if (fd < 0 || (command != KIOCGSIZE && command != KIOCGADDR) ||
	    !is_snapshot(fd, &size))
		return (NEXT(ioctl)(fd, request, argument));
	if (command == KIOCGSIZE) {
		*(size_t *)argument = size;
		return (0);
	}
	entry = exchange(fd + 1, fd + 1);
	if (entry != NULL && entry->size == size) {
		*(void **)argument = entry->address;
		return (0);
	}
	/* A dup, or left by another program: ksymsfs finds what is mapped. */
	status = NEXT(ioctl)(fd, request, argument);
	if (status == -1 && errno == ENXIO && (address = map(fd, size)) != NULL) {
		*(void **)argument = address;
		return (0);
	}
	return (status);
}
