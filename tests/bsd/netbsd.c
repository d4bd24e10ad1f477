/*
 * What NetBSD's own headers say of what the project lays out itself; see record.py.
 * Elsewhere: what the project's <sys/ksyms.h> says.
 */
#ifdef __NetBSD__
#define	_KSYMS_PRIVATE		/* struct ksyms_hdr, which heads the image */
#else
#define	KSYMS_NETBSD
#endif

#include <sys/param.h>
#include <stdbool.h>
#include <sys/ksyms.h>

#include <stddef.h>

#include "fact.h"

const struct fact facts[] = {
	REQUEST(OKIOCGSYMBOL, OKIOCGSYMBOL),
	REQUEST(OKIOCGVALUE, OKIOCGVALUE),
	REQUEST(KIOCGSIZE, KIOCGSIZE),
	REQUEST(KIOCGVALUE, KIOCGVALUE),
	REQUEST(KIOCGSYMBOL, KIOCGSYMBOL),

	STRUCT(ksyms_ogsymbol),
	FIELD(ksyms_ogsymbol, kg_name),
	FIELD(ksyms_ogsymbol, kg_sym),
	FIELD(ksyms_ogsymbol, kg_value),

	STRUCT(ksyms_gsymbol),
	FIELD(ksyms_gsymbol, kg_name),
	FIELD(ksyms_gsymbol, kg_sym),

	STRUCT(ksyms_gvalue),
	FIELD(ksyms_gvalue, kv_name),
	FIELD(ksyms_gvalue, kv_value),

#ifdef __NetBSD__
	CONSTANT(SHNOTE),
	CONSTANT(SYMTAB),
	CONSTANT(STRTAB),
	CONSTANT(SHSTRTAB),
	CONSTANT(SHBSS),
	CONSTANT(SHCTF),

	STRUCT(ksyms_hdr),
	FIELD(ksyms_hdr, kh_ehdr),
	FIELD(ksyms_hdr, kh_phdr),
	FIELD(ksyms_hdr, kh_shdr),
	FIELD(ksyms_hdr, kh_strtab),
	FIELD(ksyms_hdr, kh_note),
#endif
};
