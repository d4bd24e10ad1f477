/* What a module brings to a BPF object: a kfunc and a typeless variable. */
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned char __u8;

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))

struct xdp_md {
	__u32 data;
};
struct nf_conn {
	unsigned long status;
};
struct bpf_sock_tuple {
	__u32 saddr, daddr;
	__u16 sport, dport;
};
struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *, struct bpf_sock_tuple *, __u32,
					 struct bpf_ct_opts *, __u32) __ksym;
extern void bpf_ct_release(struct nf_conn *) __ksym;
extern const void dummy_link_ops __ksym __weak;
extern const void no_such_symbol __ksym __weak;

__u64 addresses[2];

SEC("xdp")
int module_ksym(struct xdp_md *ctx)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = { .netns_id = -1, .l4proto = 6 };
	struct nf_conn *ct;

	addresses[0] = (__u64)&dummy_link_ops;
	addresses[1] = (__u64)&no_such_symbol;
	ct = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (ct)
		bpf_ct_release(ct);
	return 2;
}

char _license[] SEC("license") = "GPL";
