/*
 * hello_fs CONTENT MOUNTPOINT: the least that libfuse's high-level interface can do.
 * MOUNTPOINT/hello is a file with the bytes of CONTENT; MOUNTPOINT/ksyms is a symbolic
 * link to snapshots/1, the same bytes, so that its path is walked as ksymsfs's is.
 */
#if FUSE == 3
#define FUSE_USE_VERSION 31
#include <fuse3/fuse.h>
#define FILLER_FLAGS , 0
#define GETATTR_INFO , struct fuse_file_info *fi
#else
#define FUSE_USE_VERSION 26
#include <fuse/fuse.h>
#define FILLER_FLAGS
#define GETATTR_INFO
#endif
#include <errno.h>
#include <sys/stat.h>

#include "probe.h"

static char *content;
static size_t length;

static int
is_file(const char *path)
{
	return (strcmp(path, "/hello") == 0 || strcmp(path, "/snapshots/1") == 0);
}

static int
hello_getattr(const char *path, struct stat *st GETATTR_INFO)
{
	memset(st, 0, sizeof(*st));
	st->st_nlink = 1;
	if (is_file(path)) {
		st->st_mode = S_IFREG | 0400;
		st->st_size = length;
	} else if (strcmp(path, "/ksyms") == 0)
		st->st_mode = S_IFLNK | 0777;
	else if (strcmp(path, "/") == 0 || strcmp(path, "/snapshots") == 0)
		st->st_mode = S_IFDIR | 0555;
	else
		return (-ENOENT);
	return (0);
}

static int
hello_readlink(const char *path, char *buffer, size_t size)
{
	snprintf(buffer, size, "snapshots/1");
	return (strcmp(path, "/ksyms") == 0 ? 0 : -EINVAL);
}

static int
hello_open(const char *path, struct fuse_file_info *fi)
{
	if (!is_file(path))
		return (-ENOENT);
	fi->keep_cache = 1;
	return (0);
}

static int
hello_read(const char *path, char *buffer, size_t size, off_t offset,
    struct fuse_file_info *fi)
{
	if ((size_t)offset >= length)
		return (0);
	if (size > length - offset)
		size = length - offset;
	memcpy(buffer, content + offset, size);
	return (size);
}

static int
hello_flush(const char *path, struct fuse_file_info *fi)
{
	return (0);
}

static int
hello_release(const char *path, struct fuse_file_info *fi)
{
	return (0);
}

static const struct fuse_operations operations = {
	.getattr = hello_getattr,
	.readlink = hello_readlink,
	.open = hello_open,
	.read = hello_read,
	.flush = hello_flush,
	.release = hello_release,
};

int
main(int argc, char **argv)
{
	char *arguments[] = { argv[0], "-f", "-s", "-o",
	    "default_permissions,allow_other,fsname=hello_fs", argv[2], NULL };

	if (argc != 3)
		errx(2, "usage: hello_fs CONTENT MOUNTPOINT");
	content = probe_slurp(argv[1], &length);
	return (fuse_main(6, arguments, &operations, NULL));
}
