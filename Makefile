# make demo    install what is missing, serve this kernel's symbols, show them, unmount
# make test    the whole suite
# make lint    ruff and mypy --strict, as on Linux and as on FreeBSD
# make bench   speed, side by side with what people use instead
# make vmtest  the suite for loadable modules, in Debian guests under QEMU
# make compat  build/libksyms_compat.so, for LD_PRELOAD: what BSD programs expect
# make clean   remove what these made here

# Debian packages; nothing is installed where they are there, or without root.
DEMO_PACKAGES = binutils fuse3 libfuse2
TEST_PACKAGES = $(DEMO_PACKAGES) bpftool clang-19 gcc gdb fish jq kmod libbpf-dev \
	libc6-dev libelf-dev libfuse3-3 linux-perf llvm make mandoc shellcheck strace \
	systemd zsh
BENCH_PACKAGES = $(TEST_PACKAGES) libfuse-dev libfuse3-dev python3-bpfcc

# Guests are booted only where CI asks for them.
VM_PACKAGES = genext2fs kmod mmdebstrap qemu-system-x86 zstd
ifneq (,$(findstring vm,$(KSYMSFS_REQUIRE)))
TEST_PACKAGES += $(VM_PACKAGES) vagrant vagrant-libvirt
endif

VENV = .venv
PYTHON = $(VENV)/bin/python

.PHONY: demo test lint bench vmtest compat clean

demo:
	@.ci/setup $(VENV) $(DEMO_PACKAGES)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" .ci/demo

test:
	@.ci/setup $(VENV) $(TEST_PACKAGES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) -m pytest $(ARGS)

lint:
	@.ci/setup $(VENV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --platform freebsd --cache-dir .mypy_cache/freebsd \
		ksymsfs client/ksyms

# In Debian's own Python, for which its python3-bpfcc is made: how an interpreter was
# built decides how fast its loops are.
BENCH_VENV = bench/build/venv
BENCH_PYTHON = $(BENCH_VENV)/bin/python

bench:
	@PYTHON=/usr/bin/python3 .ci/setup $(BENCH_VENV) $(BENCH_PACKAGES)
	@$(BENCH_PYTHON) -m pip install -q drgn lief || \
		echo "bench: without drgn and lief" >&2
	PYTHONPATH=. $(BENCH_PYTHON) -m bench $(ARGS)

# GUESTS: any of bookworm (6.1), trixie (6.12), bullseye (its 5.10 kernel).
GUESTS = bookworm

vmtest:
	@.ci/setup $(VENV) $(VM_PACKAGES)
	@for guest in $(GUESTS); do \
		$(PYTHON) -m vagrant.vmtest --times -g $$guest || exit; \
	done

compat: build/libksyms_compat.so

build/libksyms_compat.so: client/compat/ksyms_compat.c
	@mkdir -p build
	$(CC) -std=c11 -O2 $(CFLAGS) -fPIC -shared -o $@ $< $(LDFLAGS) -ldl

clean:
	rm -rf $(VENV) build dist bench/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
