"""A loaded module's file, with /sys/module, tells what the kernel tells of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ksymsfs.linker import LinkerFile
from ksymsfs.sources.elf_files import ElfFiles, ModuleFile
from tests.guest.kernel_modules import file_symbols, section_addresses
from tests.ksymsfs.test_linux_files import vmlinux

pytestmark = pytest.mark.guest

MODULES = ("llc", "stp", "ip_vti", "bridge", "xfs", "btrfs")


@pytest.fixture(scope="module", params=MODULES)
def module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LinkerFile:
    """The module, loaded, as its file and /sys/module describe it."""
    name: str = request.param
    subprocess.run(["modprobe", name], check=True)
    file = subprocess.check_output(["modinfo", "-n", name], text=True).strip()
    kernel = vmlinux().write(tmp_path_factory.mktemp(name) / "vmlinux")
    return ElfFiles(kernel, [ModuleFile(Path(file))]).linker_files()[1]


def test_its_symbols_are_those_of_kallsyms(module: LinkerFile, tmp_path: Path) -> None:
    lines = Path("/proc/kallsyms").read_text().splitlines()
    theirs = {
        (int(line[:16], 16), line.split()[2])
        for line in lines
        if line.endswith(f"\t[{module.name}]")
    }

    ours = {
        (int(s["st_value"]), module.name_at(s["st_name"]).decode())
        for s in module.symtab[2:]
    }

    # /sys/module does not list empty sections: 5.10's bridge has a lock class key,
    # of no bytes without lockdep, in an empty .bss.
    listed = section_addresses(module.name)
    unlisted = {
        s.name for s in file_symbols(module.name, tmp_path) if s.section not in listed
    }
    assert ours <= theirs
    assert {name for _, name in theirs - ours} <= unlisted


def test_its_place_is_that_of_proc_modules(module: LinkerFile) -> None:
    lines = Path("/proc/modules").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{module.name} "))

    assert (module.size, module.address) == (
        int(line.split()[1]),
        int(line.split()[5], 16),
    )
