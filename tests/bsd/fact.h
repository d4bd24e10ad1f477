/*
 * A table of numbers, to be read from the object file: it is for another system, whose
 * programs do not run here.
 */
#ifndef FACT_H
#define FACT_H

struct fact {
	char name[48];
	unsigned long long value;
	unsigned long long size;
};

#define	CONSTANT(name)		{ #name, name, 0 }
#define	REQUEST(name, number)	{ #name, (unsigned int)(number), 0 }
#define	STRUCT(tag)		{ #tag, 0, sizeof(struct tag) }
#define	FIELD(tag, field)						\
	{ #tag "." #field, offsetof(struct tag, field),			\
	    sizeof(((struct tag *)0)->field) }

#endif
