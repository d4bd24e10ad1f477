/*
 * build_image KALLSYMS [IMAGE]: the image that ksymsfs makes of a kallsyms table, to
 * the byte, written in C without regard for anything but speed: no check of its input,
 * which has 16-digit addresses, one kernel, and each module's lines together.
 */
#include <elf.h>

#include "probe.h"

#define PAGE 4096
#define HEADER 464

struct line {
	uint64_t address;
	uint32_t name, length; /* where in the text; st_name once that is known */
	uint8_t letter;
};

struct file {
	const char *name;
	size_t name_length, first, count;
	int pseudo;
};

static struct line *lines;
static struct file *files;
static size_t nfiles;
static uint64_t mark_text, mark_stext, mark_etext, mark_sinittext, mark_einittext,
    mark_end;
static struct { uint8_t info, other; uint16_t shndx; } letters[256];

static void
fill_letters(void)
{
	for (int c = '?'; c <= 'z'; c++) {
		int lower = c | 0x20, bind = c < 'a' && c != '?' ? STB_GLOBAL : STB_LOCAL;
		int type = STT_NOTYPE, other = 0, shndx = SHN_ABS;

		switch (lower) {
		case 't': type = STT_FUNC, shndx = 1; break;
		case 'r': type = STT_OBJECT, shndx = 2; break;
		case 'd': type = STT_OBJECT, shndx = 3; break;
		case 'b': type = STT_OBJECT, shndx = 4; break;
		case 'a': break;
		case 'w': case 'v':
			type = lower == 'w' ? STT_FUNC : STT_OBJECT;
			shndx = lower == 'w' ? 1 : 3;
			other = c == lower ? STV_HIDDEN : 0;
			bind = STB_WEAK;
			break;
		default:
			other = (c & 0x1f) << 3;
		}
		letters[c].info = ELF64_ST_INFO(bind, type);
		letters[c].other = other;
		letters[c].shndx = shndx;
	}
}

static void
note_mark(const char *name, size_t length, uint64_t address)
{
	static const struct { const char *name; uint64_t *mark; } marks[] = {
		{ "_text", &mark_text }, { "_stext", &mark_stext },
		{ "_etext", &mark_etext }, { "_sinittext", &mark_sinittext },
		{ "_einittext", &mark_einittext }, { "_end", &mark_end },
	};

	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
		if (*marks[i].mark == 0 && strlen(marks[i].name) == length &&
		    memcmp(marks[i].name, name, length) == 0)
			*marks[i].mark = address;
}

static size_t
parse(const char *text, size_t size)
{
	static uint8_t digit[256];
	const char *p = text, *end = text + size, *stop, *tab, *module;
	size_t n = 0, room = size / 40 + 16, length;
	struct file *file;

	for (int i = 0; i < 10; i++)
		digit['0' + i] = i;
	for (int i = 0; i < 6; i++)
		digit['a' + i] = digit['A' + i] = 10 + i;
	lines = malloc(room * sizeof(*lines));
	files = calloc(65536, sizeof(*files));
	file = &files[0];
	file->name = "kernel";
	file->name_length = 6;
	nfiles = 1;
	for (; p < end; p = stop + 1) {
		uint64_t address = 0;

		for (int i = 0; i < 16; i++)
			address = address << 4 | digit[(uint8_t)p[i]];
		stop = memchr(p + 19, '\n', end - p - 19);
		tab = memchr(p + 19, '\t', stop - p - 19);
		if (tab != NULL) {
			module = tab + 2;
			length = stop - 1 - module;
			if (length != file->name_length ||
			    memcmp(module, file->name, length) != 0) {
				file = &files[nfiles++];
				*file = (struct file){ module, length, n, 0,
				    (length == 3 && memcmp(module, "bpf", 3) == 0) ||
				    (length > 11 && memcmp(module, "__builtin__", 11) == 0) };
			}
		} else {
			tab = stop;
			if (p[19] == '_')
				note_mark(p + 19, tab - p - 19, address);
		}
		if (n == room)
			lines = realloc(lines, (room *= 2) * sizeof(*lines));
		lines[n++] = (struct line){ address, p + 19 - text, tab - p - 19,
		    p[17] };
		file->count++;
	}
	return (n);
}

static int
by_address(const void *a, const void *b)
{
	const struct line *s = a, *t = b;

	if (s->address != t->address)
		return (s->address < t->address ? -1 : 1);
	return (s->name < t->name ? -1 : s->name > t->name);
}

static uint64_t
page_end(uint64_t address)
{
	return ((address / PAGE + 1) * PAGE);
}

/* kernel/kallsyms.c is_ksym_addr: elsewhere the kernel answers for no address. */
static int
is_known(uint64_t address, int has_data, uint64_t end)
{
	if (has_data || mark_etext == 0)
		return (address >= mark_stext && address < end);
	return ((address >= mark_stext && address < mark_etext) ||
	    (mark_sinittext && address >= mark_sinittext && address < mark_einittext));
}

static int
part(struct line line)
{
	int shndx = letters[line.letter].shndx;

	return (shndx == 4 ? 3 : shndx); /* .bss is in the part of .data */
}

static void
emit(const struct file *file, const char *text, Elf64_Sym **symp, char **strp,
    const char *strtab)
{
	struct line *line = lines + file->first;
	Elf64_Sym *sym = *symp;
	char *str = *strp;
	uint64_t start = 0, last = 0, end, next;
	int is_kernel = file == files, has_parts = !is_kernel && !file->pseudo;
	int has_data = mark_end != 0, sorted = 1;
	size_t i, j, n = file->count;

	memset(sym, 0, 2 * sizeof(*sym));
	*str++ = '\0';
	sym[0].st_name = str - 1 - strtab;
	sym[1].st_name = str - strtab;
	str = (char *)memcpy(str, file->name, file->name_length) + file->name_length;
	*str++ = '\0';
	for (i = 0; i < n; i++) {
		uint32_t name = line[i].name;

		line[i].name = str - strtab;
		str = (char *)memcpy(str, text + name, line[i].length) + line[i].length;
		*str++ = '\0';
		sorted &= i == 0 || line[i - 1].address <= line[i].address;
		has_data |= is_kernel &&
		    (line[i].letter == 'd' || line[i].letter == 'b');
	}
	if (!sorted)
		qsort(line, n, sizeof(*line), by_address);
	for (i = 0; i < n; i++)
		if ((line[i].letter | 0x20) != 'a') {
			start = start != 0 ? start : line[i].address;
			last = line[i].address;
		}
	end = page_end(last);
	if (is_kernel && (mark_text || mark_stext)) {
		start = mark_text ? mark_text : mark_stext;
		end = mark_end ? mark_end : page_end(line[n - 1].address);
	}
	sym[1].st_info = ELF64_ST_INFO(STB_LOCAL, STT_FILE);
	sym[1].st_shndx = SHN_ABS;
	sym[1].st_value = start;
	sym[1].st_size = end - start;
	sym += 2;
	for (i = n; i-- > 0; i = j) {
		uint64_t address = line[i].address, page = page_end(address);

		for (j = i; j > 0 && line[j - 1].address == address; j--)
			;
		if (i + 1 < n) {
			next = line[i + 1].address;
			/* No symbol reaches into another part of its module. */
			if (has_parts && (next - address > end - start ||
			    (next > page && part(line[i]) != part(line[i + 1]))))
				next = page;
		} else
			next = has_parts || address < start || address >= end ?
			    page : end;
		for (size_t k = j; k <= i; k++) {
			uint8_t letter = line[k].letter;

			sym[k].st_name = line[k].name;
			sym[k].st_info = letters[letter].info;
			sym[k].st_other = letters[letter].other;
			sym[k].st_shndx = letters[letter].shndx;
			sym[k].st_value = address;
			sym[k].st_size = next - address;
			if (is_kernel && (mark_text || mark_stext) &&
			    !is_known(address, has_data, end))
				sym[k].st_size = 0;
		}
	}
	*symp = sym + n;
	*strp = str;
}

static char *
build(const char *text, size_t size, size_t *length)
{
	size_t n, symsize, room = HEADER + size, i;
	char *image, *strtab, *str;
	Elf64_Sym *sym;

	fill_letters();
	n = parse(text, size);
	symsize = (n + 2 * nfiles) * sizeof(Elf64_Sym);
	image = malloc(room + symsize);
	sym = (void *)(image + HEADER);
	str = strtab = image + HEADER + symsize;
	emit(&files[0], text, &sym, &str, strtab);
	for (i = nfiles; i-- > 1;)
		if (!files[i].pseudo)
			emit(&files[i], text, &sym, &str, strtab);
	for (i = 1; i < nfiles; i++)
		if (files[i].pseudo)
			emit(&files[i], text, &sym, &str, strtab);
	*length = str - image;

	Elf64_Ehdr *eh = memset(image, 0, HEADER);
	Elf64_Phdr *ph = (void *)(eh + 1);
	Elf64_Shdr *sh = (void *)(ph + 2);
	*eh = (Elf64_Ehdr){ .e_type = ET_EXEC, .e_machine = EM_X86_64,
	    .e_version = 1, .e_phoff = 64, .e_shoff = 176, .e_ehsize = 64,
	    .e_phentsize = 56, .e_phnum = 2, .e_shentsize = 64, .e_shnum = 4,
	    .e_shstrndx = 3 };
	memcpy(eh->e_ident, "\177ELF\2\1\1\11", 8);
	ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_flags = PF_R | PF_X };
	ph[1] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_flags = PF_R | PF_W | PF_X };
	sh[1] = (Elf64_Shdr){ .sh_name = 1, .sh_type = SHT_SYMTAB,
	    .sh_offset = HEADER, .sh_size = symsize, .sh_link = 2,
	    .sh_info = symsize / 24, .sh_addralign = 8, .sh_entsize = 24 };
	sh[2] = (Elf64_Shdr){ .sh_name = 9, .sh_type = SHT_STRTAB,
	    .sh_offset = HEADER + symsize, .sh_size = str - strtab,
	    .sh_addralign = 1 };
	sh[3] = (Elf64_Shdr){ .sh_name = 17, .sh_type = SHT_STRTAB,
	    .sh_offset = 432, .sh_size = 28 };
	memcpy(image + 432, "\0.symtab\0.strtab\0.shstrtab\0", 28);
	return (image);
}

int
main(int argc, char **argv)
{
	size_t size, length;
	char *text, *image;
	FILE *f;

	if (argc < 2)
		errx(2, "usage: build_image KALLSYMS [IMAGE]");
	text = probe_slurp(argv[1], &size);
	probe_start();
	image = build(text, size, &length);
	probe_stop();
	probe_report(1);
	if (argc > 2 && ((f = fopen(argv[2], "w")) == NULL ||
	    fwrite(image, length, 1, f) != 1 || fclose(f) != 0))
		err(1, "%s", argv[2]);
	return (0);
}
