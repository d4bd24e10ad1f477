/* A BPF object for the README; build it with
   clang -g -O2 --target=bpf -nostdinc -c trace.bpf.c -o trace.bpf.o && llvm-strip -g trace.bpf.o */
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define SEC(name) __attribute__((section(name), used))

extern const void vfs_read __ksym;
extern const void vfs_poll __ksym;
extern const void nf_hook_slow __ksym __weak;

char LICENSE[] SEC("license") = "GPL";
const void *seen[3];

SEC("raw_tp/sys_enter")
int trace(void *ctx)
{
	seen[0] = &vfs_read;
	seen[1] = &vfs_poll;
	seen[2] = &nf_hook_slow;
	return 0;
}
