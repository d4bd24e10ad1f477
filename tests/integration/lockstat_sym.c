/*
 * Reads a ksyms image the way lockstat(1)'s sym.c does, with Debian's libelf: the last
 * SHT_SYMTAB, its linked string table, symbols of type <= STT_FUNC with a size, sorted
 * by address; of several at one address, one survives. Then answers for the addresses
 * on standard input: "name offset size", or "-".
 */
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct syment {
	uint64_t addr, size;
	const char *name;
	size_t order;
};

static int
by_addr(const void *a, const void *b)
{
	const struct syment *x = a, *y = b;

	if (x->addr != y->addr)
		return (x->addr < y->addr ? -1 : 1);
	return (x->order < y->order ? -1 : 1);
}

int
main(int argc, char **argv)
{
	struct syment *table = NULL;
	size_t count = 0, strndx = 0, kept;
	Elf_Data *symdata = NULL;
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;
	GElf_Sym sym;
	uint64_t addr;
	Elf *elf;
	int fd, n = 0;

	if (argc != 2 || (fd = open(argv[1], O_RDONLY)) == -1) {
		perror("open");
		return (2);
	}
	elf_version(EV_CURRENT);
	if ((elf = elf_begin(fd, ELF_C_READ, NULL)) == NULL) {
		fprintf(stderr, "elf_begin: %s\n", elf_errmsg(-1));
		return (2);
	}
	while ((scn = elf_nextscn(elf, scn)) != NULL) {
		gelf_getshdr(scn, &shdr);
		if (shdr.sh_type == SHT_SYMTAB) {
			symdata = elf_getdata(scn, NULL);
			n = (int)(shdr.sh_size / shdr.sh_entsize);
			strndx = shdr.sh_link;
		}
	}
	if (symdata == NULL) {
		fprintf(stderr, "no symbol table\n");
		return (2);
	}
	table = calloc((size_t)n + 1, sizeof(*table));
	for (int i = 0; i < n; i++) {
		gelf_getsym(symdata, i, &sym);
		if (GELF_ST_TYPE(sym.st_info) > STT_FUNC || sym.st_size == 0)
			continue;
		table[count].addr = sym.st_value;
		table[count].size = sym.st_size;
		table[count].name = elf_strptr(elf, strndx, sym.st_name);
		table[count].order = (size_t)i;
		if (table[count++].name == NULL) {
			fprintf(stderr, "symbol %d has no name\n", i);
			return (2);
		}
	}
	qsort(table, count, sizeof(*table), by_addr);
	kept = 0;
	for (size_t i = 0; i < count; i++)
		if (kept == 0 || table[kept - 1].addr != table[i].addr)
			table[kept++] = table[i];
	fprintf(stderr, "%zu symbols, %zu addresses\n", count, kept);
	while (scanf("%lx", &addr) == 1) {
		size_t low = 0, high = kept;

		while (low < high) {
			size_t middle = (low + high) / 2;

			if (table[middle].addr <= addr)
				low = middle + 1;
			else
				high = middle;
		}
		if (low == 0)
			puts("-");
		else
			printf("%s %lu %lu\n", table[low - 1].name,
			    addr - table[low - 1].addr, table[low - 1].size);
	}
	elf_end(elf);
	close(fd);
	return (0);
}
