/*
 * libelf_load IMAGE ADDRESS: load the symbols and name one address, as lockstat(1)
 * does (cddl/contrib/opensolaris/cmd/lockstat/sym.c): gelf_getsym over the table, a
 * copy of every function's and object's name, qsort, and a binary search.
 */
#include <fcntl.h>
#include <gelf.h>

#include "probe.h"

struct sym {
	uint64_t addr, size;
	char *name;
};

static int
by_address(const void *a, const void *b)
{
	const struct sym *s = a, *t = b;

	return (s->addr < t->addr ? -1 : s->addr > t->addr);
}

static struct sym *
load(const char *path, size_t *count)
{
	struct sym *syms;
	Elf_Scn *scn = NULL;
	Elf_Data *data;
	GElf_Shdr shdr;
	GElf_Sym sym;
	Elf *elf;
	size_t n = 0, i, total;
	int fd = open(path, O_RDONLY);

	elf_version(EV_CURRENT);
	if (fd < 0 || (elf = elf_begin(fd, ELF_C_READ, NULL)) == NULL)
		errx(1, "%s: %s", path, elf_errmsg(-1));
	while ((scn = elf_nextscn(elf, scn)) != NULL)
		if (gelf_getshdr(scn, &shdr) != NULL && shdr.sh_type == SHT_SYMTAB)
			break;
	if (scn == NULL || (data = elf_getdata(scn, NULL)) == NULL)
		errx(1, "%s: no symbol table", path);
	total = shdr.sh_size / shdr.sh_entsize;
	syms = malloc(total * sizeof(*syms));
	for (i = 0; i < total; i++) {
		gelf_getsym(data, i, &sym);
		if (GELF_ST_TYPE(sym.st_info) > STT_FUNC || sym.st_size == 0)
			continue;
		syms[n].addr = sym.st_value;
		syms[n].size = sym.st_size;
		syms[n++].name = strdup(elf_strptr(elf, shdr.sh_link, sym.st_name));
	}
	elf_end(elf);
	close(fd);
	qsort(syms, n, sizeof(*syms), by_address);
	*count = n;
	return (syms);
}

int
main(int argc, char **argv)
{
	struct sym *syms;
	uint64_t address;
	size_t low = 0, high, middle;

	if (argc != 3)
		errx(2, "usage: libelf_load IMAGE ADDRESS");
	address = strtoull(argv[2], NULL, 16);
	probe_start();
	syms = load(argv[1], &high);
	while (high - low > 1) {
		middle = (low + high) / 2;
		if (syms[middle].addr <= address)
			low = middle;
		else
			high = middle;
	}
	probe_stop();
	if (address - syms[low].addr >= syms[low].size)
		errx(1, "no symbol at %s", argv[2]);
	fprintf(stderr, "%s\n", syms[low].name);
	probe_report(1);
	return (0);
}
