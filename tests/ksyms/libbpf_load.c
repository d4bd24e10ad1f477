/* Opens a BPF object with a libbpf, tells its types and maps, loads it, and prints all
   that libbpf says meanwhile: "version MAJOR.MINOR", "map ...", "warn TEXT" and "debug TEXT" lines, "btf HEX",
   "insns SECTION PROGRAM HEX" of each program as relocated, at last "open ERRNO",
   "opened 0" or "load ERRNO". With a second argument it stops before loading. */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	char text[8192];

	vsnprintf(text, sizeof(text), format, args);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		printf("%s %s\n", level == LIBBPF_WARN ? "warn" : "debug", line);
	return 0;
}

static void print_hex(const void *data, size_t size)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	struct bpf_program *program;
	struct bpf_map *map;
	const struct btf *btf;
	int error;

	libbpf_set_print(print);
	printf("version %u.%u\n", libbpf_major_version(), libbpf_minor_version());
	object = bpf_object__open_file(argv[1], NULL);
	if (!object) {
		printf("open %ld\n", libbpf_get_error(object));
		return 0;
	}
	bpf_object__for_each_map(map, object)
		printf("map %s %u %u %u %u %#x %u %u\n", bpf_map__name(map),
		       bpf_map__type(map), bpf_map__key_size(map),
		       bpf_map__value_size(map), bpf_map__max_entries(map),
		       bpf_map__map_flags(map), bpf_map__btf_key_type_id(map),
		       bpf_map__btf_value_type_id(map));
	btf = bpf_object__btf(object);
	if (btf) {
		unsigned int size;
		const void *data = btf__raw_data(btf, &size);

		printf("btf ");
		print_hex(data, size);
	}
	if (argc > 2) {
		printf("opened 0\n");
		return 0;
	}
	error = bpf_object__load(object);
	bpf_object__for_each_program(program, object) {
		printf("insns %s %s ", bpf_program__section_name(program),
		       bpf_program__name(program));
		print_hex(bpf_program__insns(program),
			  8 * bpf_program__insn_cnt(program));
	}
	printf("load %d\n", error);
	bpf_object__close(object);
	return 0;
}
