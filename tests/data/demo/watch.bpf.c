/* Pointers that a map may keep, and two that only look like it, for the README; build
   with clang -g -O2 --target=bpf -nostdinc -c watch.bpf.c -o watch.bpf.o && llvm-strip -g watch.bpf.o */
typedef unsigned int __u32;
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define __kptr __attribute__((btf_type_tag("kptr")))
struct task_struct { int x; };
struct cgroup { int x; };
typedef struct task_struct __kptr *task_ptr;
struct watch {
	struct task_struct __kptr *task;
	task_ptr parent;
	struct { struct cgroup __kptr *group; } recent[2];
	union { struct cgroup __kptr *owner; unsigned long id; };
};
struct {
	__uint(type, 1); /* BPF_MAP_TYPE_HASH */
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct watch);
} watched SEC(".maps");
struct targets { struct task_struct task; struct cgroup group; };
int keep(struct targets *x) { return 0; } /* their types, not forward declarations */
char LICENSE[] SEC("license") = "GPL";
