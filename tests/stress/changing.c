/*
 * changing DEVICE TABLE VERSIONS PROCESSES OPENS
 *
 * PROCESSES processes open the device OPENS times each, while the table that is served
 * changes all the time: TABLE becomes TABLE.0, TABLE.1, ... in turn. What an open shows
 * must be the image IMAGE of one of them, to the byte, by read and by mmap, as long as it
 * is open or mapped; and of one that was there while the open was under way. Images are
 * in TABLE.0.image, TABLE.1.image, ...
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ksyms.h>

#define	expect(condition)						\
	do {								\
		if (!(condition)) {					\
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, \
			    #condition, strerror(errno));		\
			_exit(1);					\
		}							\
	} while (0)

struct image {
	const char *bytes;
	size_t size;
};

static const char *device, *table;
static struct image images[16];
static unsigned int versions;

/* The number of the change that was begun last, and of the one that was done last. */
static struct shared {
	atomic_uint begun, done, inconsistent, opens;
} *shared;

static void
change(unsigned int number)
{
	char from[4096], beside[4096];

	snprintf(beside, sizeof(beside), "%s.new", table);
	snprintf(from, sizeof(from), "%s.%u", table, number % versions);
	expect(link(from, beside) == 0);
	shared->begun = number;
	expect(rename(beside, table) == 0);
	shared->done = number;
	unlink(beside);		/* rename(2) leaves it where both are one file */
}

static unsigned int
which(const char *bytes, size_t size)
{
	unsigned int i;

	for (i = 0; i < versions; i++)
		if (images[i].size == size && memcmp(images[i].bytes, bytes, size) == 0)
			return (i);
	expect(!"the image of one of the versions");
	return (0);
}

static void
expect_version(int fd, const char *map, unsigned int version, size_t size)
{
	static char *buffer;
	size_t have = 0;
	uint64_t told;
	struct stat st;
	ssize_t n;

	if (buffer == NULL)
		buffer = malloc(1 << 24);
	expect(memcmp(map, images[version].bytes, size) == 0);
	if (fd == -1)
		return;
	expect(fstat(fd, &st) == 0 && (size_t)st.st_size == size);
	expect(ioctl(fd, KIOCGSIZE, &told) == 0 && told == size);
	while ((n = pread(fd, buffer + have, 70000, (off_t)have)) > 0)
		have += (size_t)n;
	expect(n == 0 && have == size);
	expect(memcmp(buffer, images[version].bytes, size) == 0);
}

static void
open_and_check(int number)
{
	unsigned int before, after, version, seq;
	size_t size, previous_size = 0;
	char *map, *previous = NULL;
	unsigned int previous_version = 0;
	struct stat st;
	int fd, tries;

	for (int i = 0; i < number; i++) {
		for (tries = 0;; tries++) {
			before = shared->done;
			fd = open(device, O_RDONLY | (i % 7 == 0 ? O_DIRECT : 0));
			after = shared->begun;
			if (fd != -1)
				break;
			/* Changed three times in a row: ksyms(4) says so. */
			expect(errno == ENXIO && tries < 100);
			shared->inconsistent++;
		}
		shared->opens++;
		expect(fstat(fd, &st) == 0);
		size = (size_t)st.st_size;
		map = mmap(NULL, size, PROT_READ, i % 2 ? MAP_PRIVATE : MAP_SHARED, fd, 0);
		expect(map != MAP_FAILED);
		version = which(map, size);
		for (seq = before; seq <= after && seq % versions != version; seq++)
			;
		if (seq > after) {
			fprintf(stderr, "open shows version %u, not one of %u..%u\n",
			    version, before % versions, after % versions);
			_exit(1);
		}
		expect_version(fd, map, version, size);
		usleep((unsigned int)rand() % 3000);
		expect_version(fd, map, version, size);
		if (i % 5 == 0) {
			/* A mapping that outlives the open, and some that come after. */
			close(fd);
			if (previous != NULL) {
				expect_version(-1, previous, previous_version,
				    previous_size);
				munmap(previous, previous_size);
			}
			previous = map;
			previous_version = version;
			previous_size = size;
		} else {
			munmap(map, size);
			close(fd);
		}
	}
}

static struct image
read_image(unsigned int version)
{
	struct image image;
	char path[4096];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s.%u.image", table, version);
	fd = open(path, O_RDONLY);
	expect(fd != -1 && fstat(fd, &st) == 0);
	image.size = (size_t)st.st_size;
	image.bytes = mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0);
	expect(image.bytes != MAP_FAILED);
	close(fd);
	return (image);
}

int
main(int argc, char **argv)
{
	int processes, opens, status, failed = 0;
	pid_t changer, child;

	if (argc != 6)
		return (2);
	device = argv[1];
	table = argv[2];
	versions = (unsigned int)atoi(argv[3]);
	processes = atoi(argv[4]);
	opens = atoi(argv[5]);
	for (unsigned int i = 0; i < versions; i++)
		images[i] = read_image(i);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	change(0);
	if ((changer = fork()) == 0)
		for (;;) {
			usleep(8000);
			change(shared->done + 1);
		}
	for (int i = 0; i < processes; i++)
		if (fork() == 0) {
			srand((unsigned int)i);
			open_and_check(opens);
			_exit(0);
		}
	for (int i = 0; i < processes; i++) {
		child = waitpid(-1, &status, 0);
		expect(child > 0 && child != changer);
		failed |= status;
	}
	kill(changer, SIGKILL);
	printf("%u opens, %u changes, %u inconsistent\n", shared->opens, shared->done,
	    shared->inconsistent);
	return (failed != 0);
}
