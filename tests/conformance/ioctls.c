/* The ioctls, in every encoding, and what becomes of bad requests and bad pointers. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ksyms.h>

#include "check.h"

/* The same requests as 32-bit programs and as BSD's <sys/ioccom.h> number them. */
#define	KIOCGSIZE32	_IOR('l', 1, uint32_t)
#define	KIOCGADDR32	_IOR('l', 2, uint32_t)
#define	BSD(request)	((request) ^ 0xc0000000U)

static const unsigned long sizes64[] = {KIOCGSIZE, BSD(KIOCGSIZE)};
static const unsigned long sizes32[] = {KIOCGSIZE32, BSD(KIOCGSIZE32)};
static const unsigned long addresses64[] = {KIOCGADDR, BSD(KIOCGADDR)};
static const unsigned long addresses32[] = {KIOCGADDR32, BSD(KIOCGADDR32)};

static char *
map_image(int fd, int flags)
{
	char *map = mmap(NULL, image_size, PROT_READ, flags, fd, 0);

	expect(map != MAP_FAILED);
	return (map);
}

static void
the_numbers_are_those_of_the_manual(void)
{
	expect(KIOCGSIZE == 0x80086c01 && KIOCGADDR == 0x80086c02);
	expect(BSD(KIOCGSIZE) == 0x40086c01 && BSD(KIOCGADDR32) == 0x40046c02);
}

static void
kiocgsize_is_the_exact_size_in_all_encodings(void)
{
	int fd = open_device();

	for (int i = 0; i < 2; i++) {
		uint64_t wide[2] = {~0ULL, ~0ULL};
		uint32_t narrow[2] = {~0U, ~0U};

		expect_errno(0, ioctl(fd, sizes64[i], &wide[0]));
		expect(wide[0] == image_size && wide[1] == ~0ULL);
		expect_errno(0, ioctl(fd, sizes32[i], &narrow[0]));
		expect(narrow[0] == image_size && narrow[1] == ~0U);
	}
}

static void
kiocgaddr_is_enxio_while_nothing_is_mapped(void)
{
	int fd = open_device();
	uint64_t where = 1;
	char *map;

	for (int i = 0; i < 2; i++)
		expect_errno(ENXIO, ioctl(fd, addresses64[i], &where));
	map = map_image(fd, MAP_SHARED);
	expect_errno(0, ioctl(fd, KIOCGADDR, &where));
	munmap(map, image_size);
	expect_errno(ENXIO, ioctl(fd, KIOCGADDR, &where));
}

static void
kiocgaddr_is_where_the_process_has_it_mapped(void)
{
	static const int flags[] = {MAP_SHARED, MAP_PRIVATE};
	int fd = open_device();

	for (int i = 0; i < 4; i++) {
		char *map = map_image(fd, flags[i / 2]), *moved;
		void *where = NULL;

		expect_errno(0, ioctl(fd, addresses64[i % 2], &where));
		expect(where == map);
		expect(memcmp(where, image, image_size) == 0);
		moved = mremap(map, image_size, image_size, MREMAP_MAYMOVE | MREMAP_FIXED,
		    map + (64 << 20));
		expect(moved != MAP_FAILED);
		expect_errno(0, ioctl(fd, addresses64[i % 2], &where));
		expect(where == moved);
		munmap(moved, image_size);
	}
}

static void
kiocgaddr_does_not_tell_of_a_mapping_of_the_middle(void)
{
	int fd = open_device();
	void *where, *map;

	expect(image_size > 4096);
	map = mmap(NULL, image_size - 4096, PROT_READ, MAP_SHARED, fd, 4096);
	expect(map != MAP_FAILED);
	expect_errno(ENXIO, ioctl(fd, KIOCGADDR, &where));
}

static void
kiocgaddr_in_4_bytes_is_eoverflow_unless_it_fits(void)
{
	int fd = open_device();
	char *map = map_image(fd, MAP_SHARED);
	uint32_t where[2] = {~0U, ~0U};

	expect((uintptr_t)map > ~0U);
	for (int i = 0; i < 2; i++)
		expect_errno(EOVERFLOW, ioctl(fd, addresses32[i], &where[0]));
	munmap(map, image_size);
#ifdef MAP_32BIT
	map = map_image(fd, MAP_SHARED | MAP_32BIT);
	for (int i = 0; i < 2; i++) {
		where[0] = ~0U;
		expect_errno(0, ioctl(fd, addresses32[i], &where[0]));
		expect(where[0] == (uintptr_t)map && where[1] == ~0U);
	}
#endif
}

static void *
run_kiocgaddr(void *where)
{
	expect_errno(0, ioctl(*(int *)where, KIOCGADDR, where));
	return (NULL);
}

static void
any_thread_gets_the_address_of_its_process(void)
{
	int fd = open_device();
	char *map = map_image(fd, MAP_SHARED);
	void *where = (void *)(intptr_t)fd;
	pthread_t thread;

	pthread_create(&thread, NULL, run_kiocgaddr, &where);
	pthread_join(thread, NULL);
	expect(where == map);
}

static void
a_child_gets_its_own_address(void)
{
	int fd = open_device();
	char *map = map_image(fd, MAP_SHARED);

	in_child({
		void *where;

		expect_errno(0, ioctl(fd, KIOCGADDR, &where));
		expect(where == map);
		munmap(map, image_size);
		for (int i = 0; i < 2; i++)
			expect_errno(ENXIO, ioctl(fd, addresses64[i], &where));
		map = mmap(map + (64 << 20), image_size, PROT_READ, MAP_PRIVATE, fd, 0);
		expect_errno(0, ioctl(fd, BSD(KIOCGADDR), &where));
		expect(where == map);
	});
}

static void
a_bad_pointer_is_efault(void)
{
	int fd = open_device();
	char *readonly = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *half = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	    -1, 0);
	char *const bad[] = {
		NULL, (char *)8, readonly, none, half + 4092, (char *)-8,
		(char *)(uintptr_t)0xffffffff81000000,
	};

	expect(munmap(half + 4096, 4096) == 0);
	map_image(fd, MAP_SHARED);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		for (int j = 0; j < 2; j++) {
			expect_errno(EFAULT, ioctl(fd, sizes64[j], bad[i]));
			expect_errno(EFAULT, ioctl(fd, addresses64[j], bad[i]));
		}
	expect(readonly[0] == 0);
}

static int
is_ours(unsigned int request)
{
	unsigned int direction = request >> 30, size = request >> 16 & 0x3fff;

	return ((request & 0xffff) == 0x6c01 || (request & 0xffff) == 0x6c02) &&
	    (direction == 1 || direction == 2) && (size == 4 || size == 8);
}

/*
 * Every request of group 'l', and some others, is ENOTTY. What the kernel copies back is
 * what the server sends, even with an error: zeros, or what the caller has sent.
 */
static void
any_other_request_is_enotty_and_carries_no_memory_of_the_server(void)
{
	static const unsigned int sizes[] = {0, 1, 2, 4, 5, 8, 16, 512, 4096, 0x3fff};
	static const unsigned int numbers[] = {0, 1, 2, 3, 4, 5, 6, 0x7f, 0xff};
	static const unsigned char groups[] = {'l', 'm', 0, 0xfe};
	static unsigned char buffer[0x4000];
	int fd = open_device();

	expect_image(fd);	/* the server's heap now holds it */
	for (unsigned int i = 0; i < 4 * 10 * 9 * 4; i++) {
		unsigned int request = (i & 3) << 30 | sizes[i / 4 % 10] << 16 |
		    (unsigned int)groups[i / 360] << 8 | numbers[i / 40 % 9];

		if (is_ours(request) || ((request >> 8 & 0xff) == 0 &&
		    (request & 0xff) < 3 && sizes[i / 4 % 10] < 8))
			continue;	/* FIBMAP and FIGETBSZ are the kernel's */
		memset(buffer, 0xa5, sizeof(buffer));
		expect_errno(ENOTTY, ioctl(fd, request, buffer));
		for (size_t j = 0; j < sizeof(buffer); j++)
			if (buffer[j] != 0 && buffer[j] != 0xa5)
				fail("request %#x: byte %zu is %#x", request, j, buffer[j]);
	}
}

static void
file_attributes_are_enotty(void)
{
	int fd = open_device(), flags = 0;
	struct fsxattr attributes;

	expect_errno(ENOTTY, ioctl(fd, FS_IOC_GETFLAGS, &flags));
	expect_errno(ENOTTY, ioctl(fd, FS_IOC_FSGETXATTR, &attributes));
	in_child(expect_errno(ENOTTY, ioctl(fd, FS_IOC_GETFLAGS, &flags)));
	expect_busy();
	close(fd);
	expect_free();
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ((double)ts.tv_sec + (double)ts.tv_nsec / 1e9);
}

static int hostile_fd;

static void *
ask_into_blocked_memory(void *page)
{
	/* The kernel itself reads the page, which works; writing it waits for us. */
	expect_errno(EFAULT, ioctl(hostile_fd, BSD(KIOCGSIZE), page));
	return (NULL);
}

/*
 * Gives the device a page to write that is write-protected through userfaultfd: whoever
 * writes it waits until its owner allows it. Returns when the server has begun to.
 */
static uint64_t *
start_blocked_request(pthread_t *thread)
{
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register region = {.mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct pollfd fault = {
		.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK),
		.events = POLLIN,
	};
	uint64_t *page;

	if (fault.fd == -1 || ioctl(fault.fd, UFFDIO_API, &api) == -1)
		skip("userfaultfd: %s", strerror(errno));
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*page = 77;
	region.range.start = protect.range.start = (uintptr_t)page;
	region.range.len = protect.range.len = 4096;
	if (ioctl(fault.fd, UFFDIO_REGISTER, &region) == -1 ||
	    ioctl(fault.fd, UFFDIO_WRITEPROTECT, &protect) == -1)
		skip("userfaultfd write protection: %s", strerror(errno));
	hostile_fd = open_device();
	pthread_create(thread, NULL, ask_into_blocked_memory, page);
	expect(poll(&fault, 1, 10000) == 1);
	return (page);
}

static void
a_caller_whose_memory_blocks_stalls_nobody(void)
{
	double start = now();
	pthread_t thread;
	uint64_t *page = start_blocked_request(&thread);

	in_child({
		int fd = open_device();
		expect_image(fd);
	});
	pthread_join(thread, NULL);
	expect(*page == 77);

	/* While that write still waits, this open file is answered at once. */
	expect_errno(EFAULT, ioctl(hostile_fd, BSD(KIOCGSIZE), page));
	in_child({
		uint64_t size;
		int fd = open_device();
		expect_errno(0, ioctl(fd, BSD(KIOCGSIZE), &size));
		expect(size == image_size);
	});
	expect(now() - start < 10);
}

void
stall(void)
{
	pthread_t thread;

	start_blocked_request(&thread);
	expect(write(STDOUT_FILENO, "ready\n", 6) == 6);
	for (;;)
		pause();
}

/* Many such callers, each killed in the end: the server forgets them all. */
static void
killed_callers_whose_memory_blocked_leave_nothing(void)
{
	pid_t children[4];
	struct gate stalled;

	gate_make(&stalled);
	for (int i = 0; i < 4; i++)
		if ((children[i] = fork()) == 0) {
			a_caller_whose_memory_blocks_stalls_nobody();
			gate_open(&stalled);
			pause();
		}
	for (int i = 0; i < 4; i++)
		gate_wait(&stalled);
	for (int i = 0; i < 4; i++) {
		expect(kill(children[i], SIGKILL) == 0);
		expect(waitpid(children[i], NULL, 0) == children[i]);
	}
	kiocgsize_is_the_exact_size_in_all_encodings();
}

#define CHECK(name) {#name, name}
const struct check ioctl_checks[] = {
	CHECK(the_numbers_are_those_of_the_manual),
	CHECK(kiocgsize_is_the_exact_size_in_all_encodings),
	CHECK(kiocgaddr_is_enxio_while_nothing_is_mapped),
	CHECK(kiocgaddr_is_where_the_process_has_it_mapped),
	CHECK(kiocgaddr_does_not_tell_of_a_mapping_of_the_middle),
	CHECK(kiocgaddr_in_4_bytes_is_eoverflow_unless_it_fits),
	CHECK(any_thread_gets_the_address_of_its_process),
	CHECK(a_child_gets_its_own_address),
	CHECK(a_bad_pointer_is_efault),
	CHECK(any_other_request_is_enotty_and_carries_no_memory_of_the_server),
	CHECK(file_attributes_are_enotty),
	CHECK(a_caller_whose_memory_blocks_stalls_nobody),
	CHECK(killed_callers_whose_memory_blocked_leave_nothing),
	{NULL, NULL},
};
