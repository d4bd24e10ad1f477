/*
 * open_device WHAT COUNT PATH SERVER: what a client of the device does, COUNT times.
 *
 *	open	open and close it
 *	read	open it, read all of it, close it
 *	change	the same, each time after the kernel's symbols have changed
 *	readers	the same, by COUNT processes at once
 *
 * The CPU time is that of the clients and of the process SERVER together.
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "probe.h"

#define CHUNK (128 << 10)	/* as cat(1) reads */

static char *buffer;

static long
open_read_close(const char *path, int reading)
{
	long total = 0;
	ssize_t n;
	int fd;

	if ((fd = open(path, O_RDONLY)) < 0)
		err(1, "%s", path);
	while (reading && (n = read(fd, buffer, CHUNK)) != 0) {
		if (n < 0)
			err(1, "%s", path);
		total += n;
	}
	close(fd);
	return (total);
}

/* A BPF program is a new symbol (where the kernel compiles it). It stays loaded. */
static void
change_symbols(void)
{
	struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = 2;
	attr.license = (uintptr_t)"GPL";
	if (syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr)) < 0)
		err(1, "BPF_PROG_LOAD");
}

/* All start at once. What each has used of the CPU comes back in shared memory. */
static void
read_together(const char *path, int count)
{
	double *cpu = mmap(NULL, count * sizeof(*cpu), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int gate[2], i, status, failed = 0;
	char byte;

	if (cpu == MAP_FAILED || pipe(gate) != 0)
		err(1, "mmap, pipe");
	for (i = 0; i < count; i++) {
		switch (fork()) {
		case -1:
			err(1, "fork");
		case 0:
			close(gate[1]);
			memset(buffer, 1, CHUNK);
			read(gate[0], &byte, 1);
			double start = probe_clock(CLOCK_PROCESS_CPUTIME_ID);
			open_read_close(path, 1);
			cpu[i] = probe_clock(CLOCK_PROCESS_CPUTIME_ID) - start;
			_exit(0);
		}
	}
	close(gate[0]);
	usleep(100000);
	probe_start();
	close(gate[1]);
	for (i = 0; i < count; i++) {
		wait(&status);
		failed |= status;
	}
	probe_stop();
	if (failed)
		errx(1, "a reader failed");
	for (i = 0; i < count; i++)
		probe_cpu += cpu[i];
}

int
main(int argc, char **argv)
{
	int i, count, pid;

	if (argc != 5)
		errx(2, "usage: open_device open|read|change|readers COUNT PATH SERVER");
	count = atoi(argv[2]);
	pid = atoi(argv[4]);
	if (clock_getcpuclockid(pid, &probe_server) != 0)
		errx(1, "no process %d", pid);
	if ((buffer = malloc(CHUNK)) == NULL)
		err(1, "malloc");
	memset(buffer, 1, CHUNK);

	open_read_close(argv[3], 1);
	if (strcmp(argv[1], "readers") == 0)
		read_together(argv[3], count);
	else
		for (i = 0; i < count; i++) {
			if (strcmp(argv[1], "change") == 0)
				change_symbols();
			probe_start();
			open_read_close(argv[3], strcmp(argv[1], "open") != 0);
			probe_stop();
		}
	probe_report(count);
	return (0);
}
