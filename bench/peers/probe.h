/*
 * What every program here reports about the part of itself that is measured: one
 * line of JSON with CPU and wall-clock seconds, the number of operations, the largest
 * resident set in KiB and by how much it had grown. bench/probe.py prints the same.
 */
#ifndef PROBE_H
#define PROBE_H

#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double probe_cpu, probe_wall;
static double probe_cpu0, probe_wall0;
static long probe_rss0;
static clockid_t probe_server; /* another process whose CPU time counts too; 0: none */

static inline double
probe_clock(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t) != 0)
		err(1, "clock_gettime");
	return (t.tv_sec + t.tv_nsec * 1e-9);
}

static inline long
probe_status(const char *field)
{
	char line[128];
	long value = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, field, strlen(field)) == 0)
			value = atol(line + strlen(field));
	if (f != NULL)
		fclose(f);
	return (value);
}

static inline double
probe_cpus(void)
{
	return (probe_clock(CLOCK_PROCESS_CPUTIME_ID) +
	    (probe_server != 0 ? probe_clock(probe_server) : 0));
}

/* Times between start and stop add up. */
static inline void
probe_start(void)
{
	if (probe_rss0 == 0)
		probe_rss0 = probe_status("VmRSS:");
	probe_wall0 = probe_clock(CLOCK_MONOTONIC);
	probe_cpu0 = probe_cpus();
}

static inline void
probe_stop(void)
{
	probe_cpu += probe_cpus() - probe_cpu0;
	probe_wall += probe_clock(CLOCK_MONOTONIC) - probe_wall0;
}

static inline void
probe_report(long operations)
{
	long peak = probe_status("VmHWM:");

	printf("{\"cpu\": %.9f, \"wall\": %.9f, \"ops\": %ld, \"rss\": %ld, "
	    "\"grown\": %ld}\n",
	    probe_cpu, probe_wall, operations, peak, peak - probe_rss0);
}

static inline char *
probe_slurp(const char *path, size_t *size)
{
	size_t room = 1 << 20, n = 0;
	ssize_t got;
	char *data = malloc(room);
	int fd = open(path, O_RDONLY);

	if (fd < 0 || data == NULL)
		err(1, "%s", path);
	while ((got = read(fd, data + n, room - n)) > 0) {
		n += got;
		if (n == room && (data = realloc(data, room *= 2)) == NULL)
			err(1, "realloc");
	}
	if (got < 0)
		err(1, "%s", path);
	close(fd);
	*size = n;
	return (data);
}

#endif
