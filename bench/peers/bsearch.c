/*
 * bsearch IMAGE ADDRESSES: which symbol is at each address, by bsearch(3). ADDRESSES
 * is an array of uint64_t in a file; the answer to each is an index and an offset.
 */
#include <elf.h>

#include "probe.h"

struct range {
	uint64_t start, end;
};

static int
by_start(const void *a, const void *b)
{
	const struct range *r = a, *s = b;

	return (r->start < s->start ? -1 : r->start > s->start);
}

static int
contains(const void *key, const void *element)
{
	uint64_t address = *(const uint64_t *)key;
	const struct range *r = element;

	return (address < r->start ? -1 : address >= r->end);
}

int
main(int argc, char **argv)
{
	size_t size, count, n = 0, i, total;
	struct range *ranges, *found;
	uint64_t *addresses, sum = 0, *offsets;
	int64_t *indexes;
	char *image;

	if (argc != 3)
		errx(2, "usage: bsearch IMAGE ADDRESSES");
	image = probe_slurp(argv[1], &size);
	Elf64_Shdr *shdr = (void *)(image + ((Elf64_Ehdr *)image)->e_shoff);
	while (shdr->sh_type != SHT_SYMTAB)
		shdr++;
	Elf64_Sym *syms = (void *)(image + shdr->sh_offset);
	total = shdr->sh_size / sizeof(*syms);
	ranges = malloc(total * sizeof(*ranges));
	for (i = 0; i < total; i++)
		if (ELF64_ST_TYPE(syms[i].st_info) != STT_FILE && syms[i].st_size != 0)
			ranges[n++] = (struct range){ syms[i].st_value,
			    syms[i].st_value + syms[i].st_size };
	qsort(ranges, n, sizeof(*ranges), by_start);

	addresses = (void *)probe_slurp(argv[2], &size);
	count = size / sizeof(*addresses);
	indexes = malloc(count * sizeof(*indexes));
	offsets = malloc(count * sizeof(*offsets));
	probe_start();
	for (i = 0; i < count; i++) {
		found = bsearch(&addresses[i], ranges, n, sizeof(*ranges), contains);
		indexes[i] = found != NULL ? found - ranges : -1;
		offsets[i] = found != NULL ? addresses[i] - found->start : 0;
	}
	probe_stop();
	for (i = 0; i < count; i++)
		sum += offsets[i];
	fprintf(stderr, "sum of offsets: %ju\n", (uintmax_t)sum);
	probe_report(count);
	return (0);
}
