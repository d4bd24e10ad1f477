/* floor FILE: read FILE to its end once. Of /proc/kallsyms: the least anybody pays. */
#include "probe.h"

int
main(int argc, char **argv)
{
	static char buffer[64 * 1024];
	ssize_t n;
	int fd;

	if (argc != 2)
		errx(2, "usage: floor FILE");
	probe_start();
	if ((fd = open(argv[1], O_RDONLY)) < 0)
		err(1, "%s", argv[1]);
	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		;
	if (n < 0)
		err(1, "%s", argv[1]);
	close(fd);
	probe_stop();
	probe_report(1);
	return (0);
}
