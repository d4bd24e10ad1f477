/*
 * Processes that open, dup, map, pass and close at random, one at a time. What each holds
 * is kept account of, so that it is known what an open must give: EBUSY while a descriptor
 * of the process's last own open is left in any process, else success.
 *
 * The device cannot know whose is whose in every case (see is_certain): then it must not
 * fail otherwise, but either answer will do.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

enum { WORKERS = 5, SLOTS = 6, STEPS = 2000, OPENS = 4096 };

enum command { OPEN, DUP, CLOSE, MAP, UNMAP, SEND, RECEIVE };

struct order {
	enum command command;
	int fd, peer;
	void *map;
};

struct answer {
	int fd, error;
	void *map;
};

/* A descriptor or a mapping, and the open that it is of. */
struct held {
	int fd, open;
	void *map;
};

static struct worker {
	int control;
	int own;		/* its last open, or -1 */
	struct held fds[SLOTS], maps[SLOTS];
} workers[WORKERS];

static int peers[WORKERS][WORKERS];	/* [a][b]: a's end of the socket to b */
static int owner_of[OPENS], opens;

static void
work(int self, int control)
{
	struct order order;
	struct answer answer;

	while (read(control, &order, sizeof(order)) == sizeof(order)) {
		memset(&answer, 0, sizeof(answer));
		errno = 0;
		switch (order.command) {
		case OPEN:
			answer.fd = open(device, O_RDONLY);
			break;
		case DUP:
			answer.fd = dup(order.fd);
			break;
		case CLOSE:
			answer.fd = close(order.fd);
			break;
		case MAP:
			answer.map = mmap(NULL, image_size, PROT_READ, MAP_SHARED, order.fd,
			    0);
			break;
		case UNMAP:
			munmap(order.map, image_size);
			break;
		case SEND:
			send_fd(peers[self][order.peer], order.fd);
			break;
		case RECEIVE:
			answer.fd = receive_fd(peers[self][order.peer]);
			break;
		}
		answer.error = errno;
		expect(write(control, &answer, sizeof(answer)) == sizeof(answer));
	}
	_exit(0);
}

static struct answer
tell(struct worker *worker, struct order order)
{
	struct answer answer;

	expect(write(worker->control, &order, sizeof(order)) == sizeof(order));
	expect(read(worker->control, &answer, sizeof(answer)) == sizeof(answer));
	return (answer);
}

static struct held *
free_slot(struct held *slots)
{
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].open == -1)
			return (&slots[i]);
	return (NULL);
}

static struct held *
any_slot(struct held *slots)
{
	int start = rand() % SLOTS;

	for (int i = 0; i < SLOTS; i++)
		if (slots[(start + i) % SLOTS].open != -1)
			return (&slots[(start + i) % SLOTS]);
	return (NULL);
}

static int
count(int open, int is_map)
{
	int number = 0;

	for (int w = 0; w < WORKERS; w++)
		for (int i = 0; i < SLOTS; i++)
			number += (is_map ? workers[w].maps[i] : workers[w].fds[i]).open ==
			    open;
	return (number);
}

/* Whether the worker has any of these, of whichever open. */
static int
has_any(const struct held *slots)
{
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].open != -1)
			return (1);
	return (0);
}

/*
 * Whether the rules can tell for sure: of every open, the owner has a descriptor; or it has
 * no descriptor at all, and a mapping if and only if nobody has a descriptor. (Two opens of
 * one process are there where that was not so before.)
 */
static int
is_certain(void)
{
	for (int o = 0; o < opens; o++) {
		struct worker *owner = &workers[owner_of[o]];
		int everywhere = count(o, 0), in_owner = 0;

		if (everywhere == 0 && count(o, 1) == 0)
			continue;
		for (int i = 0; i < SLOTS; i++)
			in_owner |= owner->fds[i].open == o;
		if (everywhere > 0 && owner->own != o)
			return (0);
		if (!in_owner && (has_any(owner->fds) ||
		    has_any(owner->maps) != (everywhere == 0)))
			return (0);
	}
	return (1);
}

/* Says who has what of each open, and ends. */
static void
explain(const struct worker *opener, int error)
{
	for (int o = 0; o < opens; o++) {
		if (count(o, 0) + count(o, 1) == 0)
			continue;
		fprintf(stderr, "open %d of process %d:", o, owner_of[o]);
		for (int w = 0; w < WORKERS; w++)
			for (int i = 0; i < SLOTS; i++) {
				if (workers[w].fds[i].open == o)
					fprintf(stderr, " %d:%d", w, workers[w].fds[i].fd);
				if (workers[w].maps[i].open == o)
					fprintf(stderr, " %d:mapped", w);
			}
		fputc('\n', stderr);
	}
	fail("process %d opens, its last was %d: %s", (int)(opener - workers), opener->own,
	    strerror(error));
}

static void
step(struct worker *worker, int certain[2])
{
	struct held *from, *to;
	struct worker *peer;
	struct answer answer;
	int busy;

	switch (rand() % 8) {
	case 0:
	case 1:
		if ((to = free_slot(worker->fds)) == NULL)
			break;
		busy = worker->own != -1 && count(worker->own, 0) > 0;
		answer = tell(worker, (struct order){OPEN, 0, 0, NULL});
		if (is_certain()) {
			if ((answer.fd == -1) != busy)
				explain(worker, answer.error);
			certain[busy]++;
		}
		if (answer.fd == -1) {
			expect(answer.error == EBUSY);
			break;
		}
		expect(opens < OPENS);
		owner_of[opens] = (int)(worker - workers);
		*to = (struct held){answer.fd, opens, NULL};
		worker->own = opens++;
		break;
	case 2:
		from = any_slot(worker->fds);
		to = free_slot(worker->fds);
		if (from == NULL || to == NULL)
			break;
		answer = tell(worker, (struct order){DUP, from->fd, 0, NULL});
		expect(answer.fd != -1);
		*to = (struct held){answer.fd, from->open, NULL};
		break;
	case 3:
	case 4:
		if ((from = any_slot(worker->fds)) == NULL)
			break;
		tell(worker, (struct order){CLOSE, from->fd, 0, NULL});
		from->open = -1;
		break;
	case 5:
		from = any_slot(worker->fds);
		to = free_slot(worker->maps);
		if (from == NULL || to == NULL || rand() % 2)
			break;
		answer = tell(worker, (struct order){MAP, from->fd, 0, NULL});
		expect(answer.map != MAP_FAILED);
		*to = (struct held){-1, from->open, answer.map};
		break;
	case 6:
		if ((from = any_slot(worker->maps)) == NULL)
			break;
		tell(worker, (struct order){UNMAP, 0, 0, from->map});
		from->open = -1;
		break;
	case 7:
		peer = &workers[rand() % WORKERS];
		from = any_slot(worker->fds);
		to = free_slot(peer->fds);
		if (from == NULL || to == NULL || peer == worker)
			break;
		tell(worker, (struct order){SEND, from->fd, (int)(peer - workers), NULL});
		answer = tell(peer, (struct order){RECEIVE, 0, (int)(worker - workers), NULL});
		*to = (struct held){answer.fd, from->open, NULL};
		break;
	}
}

static void
opens_are_told_apart_whatever_becomes_of_their_descriptors(void)
{
	int certain[2] = {0, 0};

	srand(30);
	for (int a = 0; a < WORKERS; a++)
		for (int b = 0; b < a; b++) {
			int ends[2];

			expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
			peers[a][b] = ends[0];
			peers[b][a] = ends[1];
		}
	for (int w = 0; w < WORKERS; w++) {
		int ends[2];

		expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
		workers[w].control = ends[0];
		workers[w].own = -1;
		for (int i = 0; i < SLOTS; i++)
			workers[w].fds[i].open = workers[w].maps[i].open = -1;
		if (fork() == 0)
			work(w, ends[1]);
		close(ends[1]);
	}
	for (int i = 0; i < STEPS; i++)
		step(&workers[rand() % WORKERS], certain);
	/* Enough of either for this to have shown something. */
	if (certain[0] < 15 || certain[1] < 15)
		fail("only %d opens and %d refusals", certain[0], certain[1]);
}

#define CHECK(name) {#name, name}
const struct check told_apart_checks[] = {
	CHECK(opens_are_told_apart_whatever_becomes_of_their_descriptors),
	{NULL, NULL},
};
