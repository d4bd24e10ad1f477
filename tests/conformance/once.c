/* One open for each process: whose it is, what keeps it, what frees it. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/sched.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static char *
map_image(int fd)
{
	char *map = mmap(NULL, image_size, PROT_READ, MAP_SHARED, fd, 0);

	expect(map != MAP_FAILED);
	return (map);
}

static void
a_second_open_is_busy(void)
{
	static const int flags[] = {O_RDONLY, O_RDONLY | O_DIRECT, O_RDONLY | O_NONBLOCK};
	int fd = open_device();

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		expect_errno(EBUSY, open(device, flags[i]));
	expect_image(fd);
	close(fd);
	expect_free();
}

static void
an_o_path_descriptor_is_no_open(void)
{
	int path = open(device, O_PATH), fd;

	expect(path != -1);
	fd = open_device();
	expect_busy();
	close(fd);
	expect_free();
	close(path);
}

static void *
run_expect_busy(void *unused)
{
	(void)unused;
	expect_busy();
	return (NULL);
}

static void
another_threads_open_is_busy(void)
{
	int fd = open_device();
	pthread_t thread;

	pthread_create(&thread, NULL, run_expect_busy, NULL);
	pthread_join(thread, NULL);
	close(fd);
}

static void *
run_close(void *fd)
{
	close((int)(intptr_t)fd);
	return (NULL);
}

static void
another_thread_may_close_it(void)
{
	int fd = open_device();
	pthread_t thread;

	pthread_create(&thread, NULL, run_close, (void *)(intptr_t)fd);
	pthread_join(thread, NULL);
	expect_free();
}

static void
a_dup_keeps_the_slot(void)
{
	int fd = open_device(), copy = dup(fd);

	close(fd);
	expect_busy();
	expect_image(copy);
	close(copy);
	expect_free();
}

static void
a_child_opens_its_own_and_reads_the_inherited(void)
{
	int fd = open_device();

	in_child({
		int own = open_device();
		expect_image(own);
		expect_image(fd);
		expect_busy();
		close(own);
		expect_free();
	});
	expect_busy();
	close(fd);
	expect_free();
}

static void
a_child_that_closes_the_inherited_changes_nothing(void)
{
	int fd = open_device();

	in_child(close(fd));
	expect_busy();
	expect_image(fd);
}

static void
a_child_keeps_its_parents_slot(void)
{
	struct gate closed, checked;
	int fd = open_device();
	pid_t child;

	gate_make(&closed);
	gate_make(&checked);
	if ((child = fork()) == 0) {
		gate_wait(&closed);
		expect_image(fd);
		expect_free();		/* its own */
		gate_wait(&checked);
		_exit(0);
	}
	close(fd);
	expect_busy();
	gate_open(&closed);
	expect_busy();
	gate_open(&checked);
	wait_for(child);
	expect_free();
}

/* The same while both have mappings of their own, which keep no slot. */
static void
a_childs_own_mapping_is_told_from_its_parents_descriptor(void)
{
	struct gate closed, checked;
	int fd = open_device();
	pid_t child;

	gate_make(&closed);
	gate_make(&checked);
	if ((child = fork()) == 0) {
		int own = open_device();
		char *map = map_image(own);

		close(own);
		gate_open(&closed);
		gate_wait(&checked);
		expect_free();		/* own is not held; fd is its parent's */
		expect(memcmp(map, image, image_size) == 0);
		_exit(0);
	}
	gate_wait(&closed);
	close(fd);
	expect_busy();
	gate_open(&checked);
	wait_for(child);
	expect_free();
}

static void
a_grandchild_keeps_the_slot(void)
{
	struct gate checked, gone;
	int fd = open_device();

	gate_make(&checked);
	gate_make(&gone);
	in_child({
		if (fork() == 0) {
			gate_wait(&checked);
			close(fd);
			gate_open(&gone);
			_exit(0);
		}
	});
	close(fd);
	expect_busy();
	gate_open(&checked);
	gate_wait(&gone);
	expect_free();
}

static void
an_exec_that_keeps_the_descriptor_keeps_the_slot(void)
{
	in_child({
		expect(open(device, O_RDONLY) != -1);
		become("expect_busy");
	});
}

static void
an_exec_that_closes_the_descriptor_frees_the_slot(void)
{
	in_child({
		expect(open(device, O_RDONLY | O_CLOEXEC) != -1);
		become("expect_free");
	});
}

static void
who_receives_a_descriptor_has_the_snapshot_and_its_own_open(void)
{
	struct gate received, closed, checked;
	int sockets[2], fd;
	pid_t receiver;

	expect(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	gate_make(&received);
	gate_make(&closed);
	gate_make(&checked);
	if ((receiver = fork()) == 0) {
		int got = receive_fd(sockets[1]);

		gate_open(&received);
		gate_wait(&closed);
		expect_image(got);
		expect_free();		/* its own slot is another */
		gate_wait(&checked);
		_exit(0);
	}
	fd = open_device();
	send_fd(sockets[0], fd);
	gate_wait(&received);
	close(fd);
	expect_busy();
	gate_open(&closed);
	expect_busy();
	gate_open(&checked);
	wait_for(receiver);
	expect_free();
}

static void
a_strangers_mapping_is_told_from_a_passed_descriptor(void)
{
	struct gate ready, done;
	int sockets[2], fd, own;
	pid_t stranger;

	expect(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	gate_make(&ready);
	gate_make(&done);
	if ((stranger = fork()) == 0) {
		own = open_device();
		map_image(own);
		close(own);		/* a mapping alone */
		receive_fd(sockets[1]);	/* its parent's descriptor alone */
		gate_open(&ready);
		gate_wait(&done);
		expect_free();
		_exit(0);
	}
	fd = open_device();
	send_fd(sockets[0], fd);
	gate_wait(&ready);
	close(fd);
	expect_busy();
	gate_open(&done);
	wait_for(stranger);
	expect_free();
}

static void
a_killed_holder_leaves_nothing(void)
{
	for (int i = 0; i < 50; i++) {
		struct gate opened;
		pid_t child;

		gate_make(&opened);
		if ((child = fork()) == 0) {
			map_image(open_device());
			gate_open(&opened);
			pause();
		}
		gate_wait(&opened);
		expect(kill(child, SIGKILL) == 0);
		expect(waitpid(child, NULL, 0) == child);
		expect_free();
		close(opened.fds[0]);
		close(opened.fds[1]);
	}
}

static void
a_mapping_outlives_close_and_does_not_keep_the_slot(void)
{
	char *maps[20];

	for (int i = 0; i < 20; i++) {
		int fd = open_device();

		maps[i] = map_image(fd);
		close(fd);
	}
	for (int i = 0; i < 20; i++)
		expect(memcmp(maps[i], image, image_size) == 0);
	expect_free();
}

static void
a_reopen_through_proc_is_an_open_like_any_other(void)
{
	char path[64];
	int fd = open_device();
	pid_t parent = getpid();

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	expect_errno(EBUSY, open(path, O_RDONLY));
	in_child({
		int again;

		close(fd);
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)parent, fd);
		again = open(path, O_RDONLY);
		expect(again != -1);
		expect_image(again);
		expect_busy();
		close(again);
		expect_free();
	});
	expect_busy();
	close(fd);
	expect_free();
}

static void
a_reopen_by_another_does_not_keep_the_slot(void)
{
	struct gate opened, checked;
	int fd = open_device();
	pid_t parent = getpid(), child;

	gate_make(&opened);
	gate_make(&checked);
	if ((child = fork()) == 0) {
		char path[64];

		close(fd);
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)parent, fd);
		expect(open(path, O_RDONLY) != -1);
		gate_open(&opened);
		gate_wait(&checked);
		_exit(0);
	}
	gate_wait(&opened);
	close(fd);
	expect_free();
	gate_open(&checked);
	wait_for(child);
}

static struct gate table_held, table_done;

static void *
hold_in_an_own_table(void *unused)
{
	int fd, copy;

	(void)unused;
	expect(unshare(CLONE_FILES) == 0);
	fd = open_device();
	copy = dup(fd);
	close(fd);
	gate_open(&table_held);
	gate_wait(&table_done);
	close(copy);
	return (NULL);
}

static void
a_threads_own_descriptor_table_counts(void)
{
	pthread_t thread;

	gate_make(&table_held);
	gate_make(&table_done);
	pthread_create(&thread, NULL, hold_in_an_own_table, NULL);
	gate_wait(&table_held);
	expect_busy();
	gate_open(&table_done);
	pthread_join(thread, NULL);
	expect_free();
}

static int survivor_fd;

static void *
survive(void *main_thread)
{
	int copy;

	pthread_join(*(pthread_t *)main_thread, NULL);
	copy = dup(survivor_fd);
	close(survivor_fd);
	expect_busy();
	close(copy);
	expect_free();
	_exit(0);
}

static void
a_process_outlives_its_first_thread(void)
{
	static pthread_t self;

	in_child({
		pthread_t thread;

		self = pthread_self();
		survivor_fd = open_device();
		pthread_create(&thread, NULL, survive, &self);
		pthread_exit(NULL);
	});
}

static void
a_vforked_child_is_another_process(void)
{
	int fd = open_device();
	pid_t child = vfork();

	if (child == 0)
		_exit(open(device, O_RDONLY) == -1);
	wait_for(child);
	expect_busy();
	close(fd);
	expect_free();
}

static void
a_reused_pid_is_another_process(void)
{
	struct clone_args arguments = {.exit_signal = SIGCHLD};
	pid_t first, second;
	int sockets[2], fd;

	expect(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	if ((first = fork()) == 0) {
		send_fd(sockets[1], open_device());
		_exit(0);
	}
	fd = receive_fd(sockets[0]);	/* keeps the first one's open alive */
	wait_for(first);
	usleep(30000);			/* a clock tick or more: a new start time */
	arguments.set_tid = (uint64_t)(uintptr_t)&first;
	arguments.set_tid_size = 1;
	second = (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
	if (second == -1)
		skip("clone3 cannot choose a pid: %s", strerror(errno));
	if (second == 0) {
		expect(getpid() == first);
		expect_free();
		_exit(0);
	}
	wait_for(second);
	expect_image(fd);
}

/* In a child pid namespace, ids are small and say nothing outside. */
static void
a_process_in_a_pid_namespace_is_told_from_others(void)
{
	in_child({
		if (unshare(CLONE_NEWPID) == -1)
			skip("no pid namespace: %s", strerror(errno));
		in_child({
			int fd = open_device();

			expect(getpid() == 1);
			expect_busy();
			in_child({
				expect_free();
				close(fd);
				expect_free();
			});
			expect_image(fd);
			close(fd);
			expect_free();
		});
	});
	expect_free();
}

static void
a_process_in_a_mount_namespace_is_told_from_others(void)
{
	in_child({
		int fd, copy;

		if (unshare(CLONE_NEWNS) == -1)
			skip("no mount namespace: %s", strerror(errno));
		expect(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
		fd = open_device();
		copy = dup(fd);
		close(fd);
		expect_busy();
		close(copy);
		expect_free();
	});
}

enum { RACES = 300 };
static pthread_barrier_t barrier;
static atomic_int winners, losers;
static int won;

static void *
race(void *unused)
{
	(void)unused;
	for (int i = 0; i < RACES; i++) {
		int fd;

		pthread_barrier_wait(&barrier);
		fd = open(device, O_RDONLY);
		if (fd != -1) {
			won = fd;
			winners++;
		} else if (errno == EBUSY)
			losers++;
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
			expect(winners == 1 && losers == 1);
			close(won);
			winners = losers = 0;
		}
	}
	return (NULL);
}

static void
of_two_racing_threads_exactly_one_wins(void)
{
	pthread_t thread;

	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&thread, NULL, race, NULL);
	race(NULL);
	pthread_join(thread, NULL);
}

static void
spuriously_busy(int processes, int opens)
{
	pid_t children[64];

	for (int p = 0; p < processes; p++)
		if ((children[p] = fork()) == 0) {
			for (int i = 0; i < opens; i++)
				expect_free();
			_exit(0);
		}
	for (int p = 0; p < processes; p++)
		wait_for(children[p]);
}

static void
one_process_is_never_busy_in_2000_opens(void)
{
	spuriously_busy(1, 2000);
}

static void
eight_processes_are_never_busy_in_300_opens_each(void)
{
	spuriously_busy(8, 300);
}

static void
forty_processes_are_never_busy_in_60_opens_each(void)
{
	spuriously_busy(40, 60);
}

#define CHECK(name) {#name, name}
const struct check once_checks[] = {
	CHECK(a_second_open_is_busy),
	CHECK(an_o_path_descriptor_is_no_open),
	CHECK(another_threads_open_is_busy),
	CHECK(another_thread_may_close_it),
	CHECK(a_dup_keeps_the_slot),
	CHECK(a_child_opens_its_own_and_reads_the_inherited),
	CHECK(a_child_that_closes_the_inherited_changes_nothing),
	CHECK(a_child_keeps_its_parents_slot),
	CHECK(a_childs_own_mapping_is_told_from_its_parents_descriptor),
	CHECK(a_grandchild_keeps_the_slot),
	CHECK(an_exec_that_keeps_the_descriptor_keeps_the_slot),
	CHECK(an_exec_that_closes_the_descriptor_frees_the_slot),
	CHECK(who_receives_a_descriptor_has_the_snapshot_and_its_own_open),
	CHECK(a_strangers_mapping_is_told_from_a_passed_descriptor),
	CHECK(a_killed_holder_leaves_nothing),
	CHECK(a_mapping_outlives_close_and_does_not_keep_the_slot),
	CHECK(a_reopen_through_proc_is_an_open_like_any_other),
	CHECK(a_reopen_by_another_does_not_keep_the_slot),
	CHECK(a_threads_own_descriptor_table_counts),
	CHECK(a_process_outlives_its_first_thread),
	CHECK(a_vforked_child_is_another_process),
	CHECK(a_reused_pid_is_another_process),
	CHECK(a_process_in_a_pid_namespace_is_told_from_others),
	CHECK(a_process_in_a_mount_namespace_is_told_from_others),
	CHECK(of_two_racing_threads_exactly_one_wins),
	CHECK(one_process_is_never_busy_in_2000_opens),
	CHECK(eight_processes_are_never_busy_in_300_opens_each),
	CHECK(forty_processes_are_never_busy_in_60_opens_each),
	{NULL, NULL},
};
