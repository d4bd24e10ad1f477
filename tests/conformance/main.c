/*
 * conform DEVICE IMAGE CHECK
 *
 * Does one check of ksyms(4)'s rules on the device, whose every open must show the bytes
 * of the file IMAGE. Exits 0, or 77 (it cannot be done here: says why), or is killed (it
 * has failed: says where).
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

const char *device, *image;
size_t image_size;

static const struct check *const all[] = {
	once_checks, told_apart_checks, ioctl_checks, bytes_checks,
};

/* What is no check by itself, but part of one. */
static const struct check parts[] = {
	{"expect_busy", expect_busy},
	{"expect_free", expect_free},
	{"stall", stall},
	{NULL, NULL},
};

static const char *image_path;

static void
say(int status, const char *format, va_list arguments)
{
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	fflush(stderr);
	if (status == 1)
		kill(0, SIGKILL);	/* and all that wait for this one */
	_exit(status);
}

void
fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say(1, format, arguments);
	abort();
}

void
skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say(77, format, arguments);
	abort();
}

int
open_device(void)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC);

	if (fd == -1)
		fail("open %s: %s", device, strerror(errno));
	return (fd);
}

void
expect_busy(void)
{
	expect_errno(EBUSY, open(device, O_RDONLY));
}

void
expect_free(void)
{
	close(open_device());
}

void
expect_image(int fd)
{
	char *copy = malloc(image_size + 1), *map;
	size_t have = 0;
	struct stat st;
	ssize_t n;

	expect(fstat(fd, &st) == 0 && (size_t)st.st_size == image_size);
	while ((n = pread(fd, copy + have, image_size + 1 - have, (off_t)have)) > 0)
		have += (size_t)n;
	expect(n == 0 && have == image_size);
	expect(memcmp(copy, image, image_size) == 0);
	map = mmap(NULL, image_size, PROT_READ, MAP_SHARED, fd, 0);
	expect(map != MAP_FAILED);
	expect(memcmp(map, image, image_size) == 0);
	munmap(map, image_size);
	free(copy);
}

void
wait_for(pid_t child)
{
	int status;

	expect(child > 0 && waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		_exit(WEXITSTATUS(status));	/* it has said why */
	expect(WIFEXITED(status));
}

void
become(const char *check)
{
	execl("/proc/self/exe", "conform", device, image_path, check, NULL);
	fail("execl: %s", strerror(errno));
}

void
gate_make(struct gate *gate)
{
	expect(pipe(gate->fds) == 0);
}

void
gate_open(struct gate *gate)
{
	expect(write(gate->fds[1], "", 1) == 1);
}

void
gate_wait(struct gate *gate)
{
	char byte;

	expect(read(gate->fds[0], &byte, 1) == 1);
}

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

void
send_fd(int socket, int fd)
{
	union control control;
	struct iovec iov = {"", 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	expect(sendmsg(socket, &msg, 0) == 1);
}

int
receive_fd(int socket)
{
	union control control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	int fd;

	expect(recvmsg(socket, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg) != NULL);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return (fd);
}

static void
read_image(void)
{
	struct stat st;
	int fd = open(image_path, O_RDONLY | O_CLOEXEC);

	if (fd == -1 || fstat(fd, &st) == -1)
		fail("%s: %s", image_path, strerror(errno));
	image_size = (size_t)st.st_size;
	image = mmap(NULL, image_size, PROT_READ, MAP_PRIVATE, fd, 0);
	expect(image != MAP_FAILED);
	close(fd);
}

static void
on_alarm(int number)
{
	(void)number;
	fail("it takes too long");
}

static int
run(const struct check *checks, const char *name)
{
	for (; checks->name != NULL; checks++)
		if (strcmp(checks->name, name) == 0) {
			checks->run();
			return (1);
		}
	return (0);
}

int
main(int argc, char **argv)
{
	const size_t groups = sizeof(all) / sizeof(all[0]);

	if (argc != 4) {
		fprintf(stderr, "usage: conform DEVICE IMAGE CHECK\n");
		return (2);
	}
	/* A group of its own, which ends as one, and not later than this. */
	setpgid(0, 0);
	signal(SIGALRM, on_alarm);
	alarm(60);
	device = argv[1];
	image_path = argv[2];
	read_image();
	for (size_t i = 0; i < groups; i++)
		if (run(all[i], argv[3])) {
			signal(SIGTERM, SIG_IGN);
			kill(0, SIGTERM);	/* children that still wait */
			return (0);
		}
	if (run(parts, argv[3]))
		return (0);
	fprintf(stderr, "conform: no check %s\n", argv[3]);
	return (2);
}
