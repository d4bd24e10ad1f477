/*
 * The frame of the conformance checks. Each check is a function that returns when the
 * device behaves, and does not return otherwise.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stddef.h>
#include <sys/types.h>

struct check {
	const char *name;
	void (*run)(void);
};

extern const struct check once_checks[], told_apart_checks[], ioctl_checks[],
    bytes_checks[];

extern const char *device;	/* the path */
extern const char *image;	/* what every open must show */
extern size_t image_size;

/* Ends the program: the check has failed, or cannot be done here. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define expect(condition)						\
	do {								\
		if (!(condition))					\
			fail("%s:%d: %s", __FILE__, __LINE__, #condition); \
	} while (0)

/* Evaluates a system call and demands this errno, or 0 for success. */
#define expect_errno(number, call)					\
	do {								\
		errno = 0;						\
		int got_ = (call) == -1 ? errno : 0;			\
		if (got_ != (number))					\
			fail("%s:%d: %s: %s, not %s", __FILE__, __LINE__, #call, \
			    strerror(got_), strerror(number));		\
	} while (0)

int open_device(void);		/* a descriptor; it fails if there is none */
void expect_busy(void);		/* this process cannot open it */
void expect_free(void);		/* it can, and closes it again */
void expect_image(int fd);	/* its bytes by pread and by mmap, and its size */

/* Runs statements in a child, which must not fail. */
#define in_child(...)							\
	do {								\
		pid_t child_ = fork();					\
		if (child_ == 0) {					\
			__VA_ARGS__;					\
			_exit(0);					\
		}							\
		wait_for(child_);					\
	} while (0)
void wait_for(pid_t child);

/* Becomes this program anew, to do one check. */
void become(const char *check) __attribute__((noreturn));

/* A point that another process waits for. */
struct gate {
	int fds[2];
};
void gate_make(struct gate *gate);
void gate_open(struct gate *gate);
void gate_wait(struct gate *gate);

/* Has the device write where it cannot, says "ready", and waits to be killed. */
void stall(void);

void send_fd(int socket, int fd);
int receive_fd(int socket);

#endif
