/* The bytes, by every way to get them, and the writes that are refused. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

/* Everything from the offset on, by reads of at most chunk bytes. */
static void
expect_read(int fd, size_t offset, size_t chunk)
{
	char *buffer = malloc(chunk);
	ssize_t n;

	while ((n = read(fd, buffer, chunk)) > 0) {
		expect(offset + (size_t)n <= image_size);
		expect(memcmp(buffer, image + offset, (size_t)n) == 0);
		offset += (size_t)n;
	}
	expect(n == 0 && offset == image_size);
	free(buffer);
}

static void
read_gives_every_byte_and_then_none(void)
{
	static const size_t chunks[] = {1 << 22, 4096, 4097, 131, 1 << 16};
	int fd = open_device();

	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		expect(lseek(fd, 0, SEEK_SET) == 0);
		expect_read(fd, 0, chunks[i]);
	}
}

static void
one_read_gives_it_all(void)
{
	int fd = open_device();
	char *buffer = malloc(image_size + 1);

	expect(read(fd, buffer, image_size + 1) == (ssize_t)image_size);
	expect(memcmp(buffer, image, image_size) == 0);
}

static void
pread_gives_any_part_and_nothing_past_the_end(void)
{
	int fd = open_device();
	char buffer[9000];

	srand(1);
	for (int i = 0; i < 500; i++) {
		size_t offset = (size_t)rand() % (image_size + 100);
		size_t size = (size_t)rand() % sizeof(buffer);
		size_t left = offset < image_size ? image_size - offset : 0;
		size_t expected = size < left ? size : left;

		expect(pread(fd, buffer, size, (off_t)offset) == (ssize_t)expected);
		expect(memcmp(buffer, image + offset, expected) == 0);
	}
	expect(pread(fd, buffer, 1, (off_t)image_size) == 0);
	expect(pread(fd, buffer, 1, (off_t)1 << 40) == 0);
	expect(pread(fd, buffer, 1, INT64_MAX - 1) == 0);
	expect_errno(EINVAL, pread(fd, buffer, 1, -1));
	expect(lseek(fd, 0, SEEK_CUR) == 0);
}

static void
lseek_knows_start_current_and_end(void)
{
	int fd = open_device();
	off_t size = (off_t)image_size;
	char byte;

	expect(lseek(fd, 0, SEEK_END) == size);
	expect(read(fd, &byte, 1) == 0);
	expect(lseek(fd, -1, SEEK_END) == size - 1);
	expect(read(fd, &byte, 1) == 1 && byte == image[image_size - 1]);
	expect(lseek(fd, 5, SEEK_SET) == 5);
	expect(lseek(fd, 7, SEEK_CUR) == 12);
	expect(read(fd, &byte, 1) == 1 && byte == image[12]);
	expect(lseek(fd, size + 4096, SEEK_SET) == size + 4096);
	expect(read(fd, &byte, 1) == 0);
	expect_errno(EINVAL, (int)lseek(fd, -1, SEEK_SET));
	expect(lseek(fd, 100, SEEK_SET) == 100);
	expect_read(fd, 100, 5000);
}

static void
a_dup_and_a_child_share_the_offset(void)
{
	int fd = open_device(), copy = dup(fd);
	char byte;

	expect(lseek(fd, 1000, SEEK_SET) == 1000);
	expect(read(copy, &byte, 1) == 1 && byte == image[1000]);
	in_child(expect(read(copy, &byte, 1) == 1 && byte == image[1001]));
	expect(lseek(fd, 0, SEEK_CUR) == 1002);
}

static void
fstat_and_stat_tell_the_exact_size_of_a_regular_file(void)
{
	int fd = open_device();
	struct stat st, again;

	expect(fstat(fd, &st) == 0);
	expect(S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0400);
	expect((size_t)st.st_size == image_size && st.st_nlink == 1 && st.st_uid == 0);
	expect(stat(device, &again) == 0);
	expect(again.st_ino == st.st_ino && again.st_dev == st.st_dev);
	expect(again.st_size == st.st_size && again.st_mtime == st.st_mtime);
}

static sigjmp_buf jump;

static void
on_sigbus(int number)
{
	siglongjmp(jump, number);
}

static void
mmap_gives_every_byte_and_zeros_to_the_end_of_the_page(void)
{
	static const int flags[] = {
		MAP_SHARED, MAP_PRIVATE, MAP_SHARED | MAP_POPULATE, MAP_SHARED_VALIDATE,
	};
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t rounded = (image_size + page - 1) / page * page;
	int fd = open_device();

	signal(SIGBUS, on_sigbus);
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		char *map = mmap(NULL, rounded + page, PROT_READ, flags[i], fd, 0);

		expect(map != MAP_FAILED);
		expect(memcmp(map, image, image_size) == 0);
		for (size_t j = image_size; j < rounded; j++)
			expect(map[j] == 0);
		if (sigsetjmp(jump, 1) == 0) {
			(void)*(volatile char *)(map + rounded);
			fail("there is a page after the last");
		}
		munmap(map, rounded + page);
	}
}

static void
mmap_gives_any_page_aligned_part(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int fd = open_device();

	for (size_t offset = page; offset < image_size; offset += 7 * page) {
		size_t left = image_size - offset, size = left < page ? left : page;
		char *map = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, (off_t)offset);

		expect(map != MAP_FAILED && memcmp(map, image + offset, size) == 0);
		munmap(map, page);
	}
}

static void
a_mapping_keeps_its_bytes_after_close(void)
{
	int fd = open_device();
	char *map = mmap(NULL, image_size, PROT_READ, MAP_SHARED, fd, 0);

	expect(map != MAP_FAILED);
	close(fd);
	expect(memcmp(map, image, image_size) == 0);
	expect(madvise(map, image_size, MADV_DONTNEED) == 0);
	expect(memcmp(map, image, image_size) == 0);
}

static void
a_private_mapping_may_be_written_for_oneself(void)
{
	int fd = open_device();
	char *map = mmap(NULL, image_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	expect(map != MAP_FAILED);
	map[0] = 'x';
	expect_image(fd);
}

static void
writable_and_executable_mappings_are_refused(void)
{
	int fd = open_device();
	char *map;

	expect(mmap(NULL, image_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) ==
	    MAP_FAILED && errno == EACCES);
	expect(mmap(NULL, image_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) ==
	    MAP_FAILED && errno == EPERM);
	map = mmap(NULL, image_size, PROT_READ, MAP_SHARED, fd, 0);
	expect(map != MAP_FAILED);
	expect_errno(EACCES, mprotect(map, image_size, PROT_READ | PROT_WRITE));
}

static void
sendfile_and_splice_give_every_byte(void)
{
	int fd = open_device(), out = memfd_create("copy", 0), pipes[2];
	off_t offset = 0;
	size_t have = 0;
	ssize_t n;
	char *copy;

	while ((n = sendfile(out, fd, &offset, image_size + 1)) > 0)
		;
	expect(n == 0 && (size_t)offset == image_size);
	copy = mmap(NULL, image_size, PROT_READ, MAP_SHARED, out, 0);
	expect(lseek(out, 0, SEEK_END) == (off_t)image_size);
	expect(memcmp(copy, image, image_size) == 0);

	expect(pipe(pipes) == 0);
	copy = malloc(1 << 16);
	while ((n = splice(fd, NULL, pipes[1], NULL, 1 << 16, 0)) > 0) {
		expect(read(pipes[0], copy, (size_t)n) == n);
		expect(memcmp(copy, image + have, (size_t)n) == 0);
		have += (size_t)n;
	}
	expect(n == 0 && have == image_size);
}

static void
o_direct_gives_every_byte(void)
{
	int fd = open(device, O_RDONLY | O_DIRECT);
	char *buffer;

	expect(fd != -1 && posix_memalign((void **)&buffer, 4096, 1 << 20) == 0);
	for (size_t have = 0;; ) {
		ssize_t n = read(fd, buffer, 1 << 20);

		expect(n >= 0 && memcmp(buffer, image + have, (size_t)n) == 0);
		have += (size_t)n;
		if (n == 0) {
			expect(have == image_size);
			break;
		}
	}
	expect_image(fd);
}

static void
poll_says_that_it_can_be_read(void)
{
	struct pollfd entry = {.fd = open_device(), .events = POLLIN};

	expect(poll(&entry, 1, 0) == 1 && entry.revents == POLLIN);
}

static void
opening_for_writing_is_eacces(void)
{
	static const int flags[] = {
		O_WRONLY, O_RDWR, O_RDWR | O_APPEND, O_RDWR | O_TRUNC, O_RDONLY | O_TRUNC,
		O_WRONLY | O_CREAT,
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		expect_errno(EACCES, open(device, flags[i], 0600));
	expect_free();
	expect_image(open_device());
}

static void
nothing_can_be_written_or_changed(void)
{
	int fd = open_device();

	expect_errno(EBADF, write(fd, "x", 1));
	expect_errno(EINVAL, ftruncate(fd, 0));
	expect_errno(EACCES, truncate(device, 0));
	expect_errno(EROFS, chmod(device, 0777));
	expect_errno(EROFS, fchmod(fd, 0777));
	expect_errno(EROFS, chown(device, 1, 1));
	expect_errno(EBADF, fallocate(fd, 0, 0, 1 << 20));
	expect_image(fd);
}

#define CHECK(name) {#name, name}
const struct check bytes_checks[] = {
	CHECK(read_gives_every_byte_and_then_none),
	CHECK(one_read_gives_it_all),
	CHECK(pread_gives_any_part_and_nothing_past_the_end),
	CHECK(lseek_knows_start_current_and_end),
	CHECK(a_dup_and_a_child_share_the_offset),
	CHECK(fstat_and_stat_tell_the_exact_size_of_a_regular_file),
	CHECK(mmap_gives_every_byte_and_zeros_to_the_end_of_the_page),
	CHECK(mmap_gives_any_page_aligned_part),
	CHECK(a_mapping_keeps_its_bytes_after_close),
	CHECK(a_private_mapping_may_be_written_for_oneself),
	CHECK(writable_and_executable_mappings_are_refused),
	CHECK(sendfile_and_splice_give_every_byte),
	CHECK(o_direct_gives_every_byte),
	CHECK(poll_says_that_it_can_be_read),
	CHECK(opening_for_writing_is_eacces),
	CHECK(nothing_can_be_written_or_changed),
	{NULL, NULL},
};
