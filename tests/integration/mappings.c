/*
 * What a process sees of the snapshot in its own memory: printed step by step from
 * /proc/self/maps, as the number of mappings.
 */

#include <sys/types.h>
#include <sys/ioctl.h>
#include <sys/ksyms.h>
#include <sys/wait.h>

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *path;

static void
show(const char *step)
{
	char line[4096];
	int count = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), maps) != NULL)
		count += strstr(line, "/snapshots/") != NULL;
	fclose(maps);
	printf("%s %d\n", step, count);
	fflush(stdout);
}

static char *
address(int fd)
{
	char *start = NULL;

	if (ioctl(fd, KIOCGADDR, &start) == -1)
		err(1, "KIOCGADDR");
	if (memcmp(start, "\177ELF", 4) != 0)
		errx(1, "no image at %p", (void *)start);
	return (start);
}

int
main(int argc, char **argv)
{
	char *start, other[64];
	int fd, copy;
	pid_t child;

	path = argc > 1 ? argv[1] : "/dev/ksyms";
	if (argc > 2) {		/* after exec: a descriptor that is open already */
		show("exec");
		address(atoi(argv[2]));
		show("exec-asked");
		return (0);
	}
	if ((fd = open(path, O_RDONLY)) == -1)
		err(1, "%s", path);
	show("open");
	start = address(fd);
	if (address(fd) != start)
		errx(1, "it moved");
	show("asked");
	start[0] = 'x';		/* private: nobody else sees it */
	start[0] = 0x7f;
	if ((child = vfork()) == 0) {
		close(fd);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	show("vforked");
	address(fd);
	copy = dup(fd);
	close(fd);
	show("closed");
	address(copy);
	show("dup-asked");
	snprintf(other, sizeof(other), "%d", copy);
	execl(argv[0], argv[0], path, other, (char *)NULL);
	err(1, "exec");
}
