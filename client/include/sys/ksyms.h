/*-
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The ioctls of /dev/ksyms, for programs on Linux: see ksyms(4).
 *
 * The requests are those of the BSD header of this name. Their numbers differ: Linux and
 * the BSDs encode the direction of the copy differently, so that KIOCGSIZE is 0x80086c01
 * here and 0x40086c01 there (0x80046c01 and 0x40046c01 where size_t has 4 bytes). ksymsfs
 * takes either, in both sizes: a program built with the other system's numbers works.
 */

#ifndef _SYS_KSYMS_H_
#define	_SYS_KSYMS_H_

#include <sys/types.h>
#ifdef __linux__
#include <sys/ioctl.h>
#else
#include <sys/ioccom.h>
#endif

#ifndef KSYMS_NETBSD

/* FreeBSD, 8.0 to 11. */
#define	KIOCGSIZE	_IOR('l', 1, size_t)	/* size of the image in bytes */
#define	KIOCGADDR	_IOR('l', 2, void *)	/* where this process has it mapped */

#else

/* NetBSD: ksymsfs --flavor netbsd. */
#include <elf.h>
#include <stdint.h>

#if __SIZEOF_POINTER__ == 8
typedef Elf64_Sym ksyms_sym_t;
#else
typedef Elf32_Sym ksyms_sym_t;
#endif

struct ksyms_ogsymbol {
	const char *kg_name;		/* in */
	union {
		void *ku_sym;		/* where the symbol goes */
		unsigned long *ku_value;	/* where its value goes */
	} _un;
#define	kg_sym		_un.ku_sym
#define	kg_value	_un.ku_value
};

struct ksyms_gsymbol {
	const char *kg_name;		/* in */
	union {
		ksyms_sym_t ku_sym;	/* out */
	} _un;
};

struct ksyms_gvalue {
	const char *kv_name;		/* in */
	uint64_t kv_value;		/* out */
};

#define	OKIOCGSYMBOL	_IOW('l', 1, struct ksyms_ogsymbol)
#define	OKIOCGVALUE	_IOW('l', 2, struct ksyms_ogsymbol)
#define	KIOCGSIZE	_IOR('l', 3, int)	/* size of the image in bytes */
#define	KIOCGVALUE	_IOWR('l', 4, struct ksyms_gvalue)	/* of a global */
#define	KIOCGSYMBOL	_IOWR('l', 5, struct ksyms_gsymbol)	/* any symbol */

#endif /* KSYMS_NETBSD */

#endif /* !_SYS_KSYMS_H_ */
