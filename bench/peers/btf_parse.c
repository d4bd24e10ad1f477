/* btf_parse FILE NAME: libbpf's btf__parse, and the id of struct NAME. */
#include <bpf/btf.h>

#include "probe.h"

int
main(int argc, char **argv)
{
	struct btf *btf;
	int id;

	if (argc != 3)
		errx(2, "usage: btf_parse FILE NAME");
	probe_start();
	if ((btf = btf__parse(argv[1], NULL)) == NULL)
		err(1, "%s", argv[1]);
	id = btf__find_by_name_kind(btf, argv[2], BTF_KIND_STRUCT);
	probe_stop();
	if (id < 0)
		errx(1, "no struct %s", argv[2]);
	probe_report(1);
	return (0);
}
