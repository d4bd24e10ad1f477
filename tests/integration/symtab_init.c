/*
 * The start of a profiler of 2009, such as FreeBSD 8's lockstat(1): the image is in memory
 * from open(2) on, KIOCGADDR tells where, and libelf reads it there.  It prints the number
 * of symbols that a profiler would use, and the address and size of each named one.
 */

#include <sys/types.h>
#include <sys/ioctl.h>
#include <sys/ksyms.h>

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	Elf *elf;
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;
	GElf_Sym sym;
	Elf_Data *data = NULL;
	size_t used = 0, sz, link = 0;
	void *addr;
	int fd, again;

	if ((fd = open("/dev/ksyms", O_RDONLY)) == -1)
		err(1, "/dev/ksyms");
	if ((again = open("/dev/ksyms", O_RDONLY)) != -1 || errno != EBUSY)
		errx(1, "a second open did not fail with EBUSY");
	if (ioctl(fd, KIOCGSIZE, &sz) == -1)
		err(1, "KIOCGSIZE");
	if (ioctl(fd, KIOCGADDR, &addr) == -1)
		err(1, "KIOCGADDR");
	elf_version(EV_CURRENT);
	if ((elf = elf_memory(addr, sz)) == NULL)
		errx(1, "elf_memory: %s", elf_errmsg(-1));
	while ((scn = elf_nextscn(elf, scn)) != NULL) {
		gelf_getshdr(scn, &shdr);
		if (shdr.sh_type == SHT_SYMTAB) {
			data = elf_getdata(scn, NULL);
			link = shdr.sh_link;
			break;
		}
	}
	if (data == NULL)
		errx(1, "no symbol table");
	for (size_t i = 0; i < data->d_size / shdr.sh_entsize; i++) {
		const char *name;

		gelf_getsym(data, (int)i, &sym);
		if (GELF_ST_TYPE(sym.st_info) > STT_FUNC || sym.st_size == 0)
			continue;
		used++;
		name = elf_strptr(elf, link, sym.st_name);
		for (int arg = 1; arg < argc; arg++)
			if (strcmp(name, argv[arg]) == 0)
				printf("%s %#jx %ju\n", name, (uintmax_t)sym.st_value,
				    (uintmax_t)sym.st_size);
	}
	printf("%zu\n", used);
	elf_end(elf);
	close(fd);
	if ((fd = open("/dev/ksyms", O_RDONLY)) == -1)
		err(1, "/dev/ksyms after close");
	if (ioctl(fd, KIOCGADDR, &addr) == -1)
		err(1, "KIOCGADDR");
	return (*(char *)addr == 0x7f ? 0 : 1);
}
