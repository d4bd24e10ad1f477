/* A per-CPU variable of a module, found by its BTF: x_tables' xt_recseq. */
typedef unsigned int __u32;

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))

struct xdp_md {
	__u32 data;
};
typedef struct seqcount {
	__u32 sequence;
} seqcount_t;

static void *(*bpf_this_cpu_ptr)(const void *) = (void *)154;

extern const seqcount_t xt_recseq __ksym;

SEC("xdp")
int module_var(struct xdp_md *ctx)
{
	/* 6.1 lets nobody look inside: the variable's type is a typedef. */
	return bpf_this_cpu_ptr(&xt_recseq) ? 2 : 1;
}

char _license[] SEC("license") = "GPL";
