"""Kernels from where they are: running, captured."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import BtfError, CaptureError, ImageError, KsymsError, RestrictedError
from ksyms.bpf.object import BpfObject
from ksyms.btf import Btf
from ksyms.capture import write_capture
from ksyms.destructors import Destructors, guess_destructors, load_destructors
from ksyms.facts import Facts
from ksyms.kernel import Kernel
from ksyms.resolution import resolve
from ksyms.running import RunningLinux
from ksyms.vmlinux import load_btf
from tests.elf_writer import ET_EXEC, PROGBITS, Elf, Sec
from tests.ksyms import bpf_cases
from tests.ksyms.images import kernel_image

RELEASE = os.uname().release


def write_root(root: Path) -> Path:
    """The files of a machine with two modules; modb was loaded first."""
    files = {
        "proc/kallsyms": bpf_cases.table("kallsyms_a.txt"),
        "proc/modules": b"moda 4096 0 - Live 0x0\nother 1 0 - Live 0x0\n"
        b"modb 4096 0 - Live 0x0\n",
        "proc/config.gz": gzip.compress(b"# CONFIG_KALLSYMS_ALL is not set\n"),
        "sys/kernel/btf/vmlinux": bpf_cases.table("vmlinux.btf"),
        "sys/kernel/btf/moda": bpf_cases.table("moda.btf"),
        "sys/kernel/btf/modb": bpf_cases.table("modb.btf"),
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "root")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    capture(write_root(folder / "root"), folder / "capture")
    return folder / "capture"


@pytest.fixture
def captured(original: Path, tmp_path: Path) -> Path:
    """A capture of that machine, for the test to spoil."""
    return Path(shutil.copytree(original, tmp_path / "capture"))


def capture(root: Path, target: Path, **options: object) -> Facts:
    return write_capture(
        target,
        linux=RunningLinux(root),
        device=root / "dev/ksyms",
        **options,  # type: ignore[arg-type]
    )


def load(name: str) -> BpfObject:
    return BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)


def test_the_running_kernel_is_read_where_libbpf_reads_it(root: Path) -> None:
    kernel = Kernel.running(linux=RunningLinux(root))

    assert kernel.btf is not None
    assert [m.name for m in kernel.modules] == ["modb", "moda"]  # in load order
    assert kernel.facts.kallsyms_all is False
    assert kernel.facts.release == RELEASE
    assert resolve(load("y10_mod_func.o"), kernel).is_ok


def test_a_kernel_without_modules_kallsyms_or_btf_is_one_too(tmp_path: Path) -> None:
    kernel = Kernel.running(linux=RunningLinux(tmp_path))

    assert (kernel.symbols, kernel.btf, list(kernel.modules)) == (None, None, [])
    assert kernel.facts.kallsyms_all is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (b"CONFIG_KALLSYMS=y\nCONFIG_KALLSYMS_ALL=y\n", True),
        (b"# CONFIG_KALLSYMS_ALL is not set\n", False),
        (b"CONFIG_KALLSYMS=y\n", None),
    ],
)
def test_the_configuration_says_whether_kallsyms_has_data(
    root: Path, config: bytes, expected: bool | None
) -> None:
    (root / "proc/config.gz").unlink()
    path = root / f"boot/config-{RELEASE}"
    path.parent.mkdir()
    path.write_bytes(config)

    assert RunningLinux(root).facts().kallsyms_all is expected


def test_btf_is_found_in_an_elf_vmlinux_too(root: Path) -> None:
    (root / "sys/kernel/btf/vmlinux").unlink()
    section = Sec(".BTF", PROGBITS, data=bpf_cases.table("vmlinux.btf"))
    vmlinux = root / f"boot/vmlinux-{RELEASE}"
    vmlinux.parent.mkdir()
    vmlinux.write_bytes(Elf([section], ET_EXEC).to_bytes())
    kernel = Kernel.running(linux=RunningLinux(root))

    assert kernel.btf is not None
    assert len(kernel.btf) == len(bpf_cases.vmlinux())


def test_a_capture_answers_as_the_kernel_it_was_made_of(
    root: Path, captured: Path
) -> None:
    running = Kernel.running(linux=RunningLinux(root))
    loaded = Kernel.load(captured)

    assert [m.name for m in loaded.modules] == ["modb", "moda"]
    for name in bpf_cases.object_names():
        ours, theirs = resolve(load(name), loaded), resolve(load(name), running)
        assert ours._replace(kernel="") == theirs._replace(kernel="")


def test_a_capture_has_the_documented_files(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "capture"
    facts = capture(root, target)
    content = json.loads((target / "facts.json").read_text())

    files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert files == [
        "btf/moda",
        "btf/modb",
        "btf/vmlinux",
        "facts.json",
        "kallsyms",
        "modules",
    ]
    assert (target / "modules").read_bytes() == (root / "proc/modules").read_bytes()
    assert content["release"] == RELEASE
    assert content["machine"] == os.uname().machine
    assert content["kallsyms_all"] is False
    assert content["modules"] == ["modb", "moda"]
    assert content["destructors"]["found_by"] == "heuristic"
    assert Kernel.load(target).facts == facts
    # The addresses are a secret where KASLR is on.
    assert stat.S_IMODE((target / "kallsyms").stat().st_mode) == 0o600
    assert [p.name for p in target.parent.iterdir()] == ["capture"]


def test_symbols_come_from_the_device_when_it_is_there(
    root: Path, tmp_path: Path
) -> None:
    image = kernel_image(kallsyms=bpf_cases.table("kallsyms_a.txt"))
    (root / "dev").mkdir()
    (root / "dev/ksyms").write_bytes(image)
    (root / "proc/kallsyms").unlink()
    target = tmp_path / "capture"
    capture(root, target)

    assert (target / "ksyms").read_bytes() == image
    assert not (target / "kallsyms").exists()
    answer = resolve(load("s01_typeless_func.o"), Kernel.load(target))
    assert answer.externs[0].address == 0xFFFFFFFF81434560


def test_symbols_come_from_a_named_image(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(kernel_image(kallsyms=b"00001000 T schedule\n"))
    capture(root, tmp_path / "capture", ksyms=image)
    running = Kernel.running(ksyms=image, linux=RunningLinux(root))

    for kernel in (running, Kernel.load(tmp_path / "capture")):
        answer = resolve(load("s01_typeless_func.o"), kernel)
        assert answer.externs[0].address == 0x1000


def test_a_capture_is_replaced_only_by_force(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "capture"
    capture(root, target)
    (root / "proc/kallsyms").write_bytes(b"0000000000001000 T schedule\n")

    with pytest.raises(CaptureError, match="holds a capture already"):
        capture(root, target)
    capture(root, target, force=True)
    assert (target / "kallsyms").read_bytes() == b"0000000000001000 T schedule\n"


def test_what_is_no_capture_is_never_replaced(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    capture(root, target)  # an empty one will do
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("more work")

    for path in (other, file):
        with pytest.raises(CaptureError):
            capture(root, path, force=True)
    assert (other / "thesis.tex").exists()


def test_a_capture_that_fails_leaves_the_old_one_and_nothing_else(
    root: Path, tmp_path: Path
) -> None:
    target = tmp_path / "there" / "capture"
    capture(root, target)
    before = (target / "facts.json").stat().st_ino
    (root / "sys/kernel/btf/vmlinux").write_bytes(b"garbage, and enough of it to see")

    with pytest.raises(BtfError):
        capture(root, target, force=True)
    assert (target / "facts.json").stat().st_ino == before
    assert [p.name for p in target.parent.iterdir()] == ["capture"]


def test_hidden_addresses_are_not_captured(root: Path, tmp_path: Path) -> None:
    (root / "proc/kallsyms").write_bytes(bpf_cases.table("kallsyms_zero.txt"))

    with pytest.raises(RestrictedError, match="CAP_SYSLOG"):
        capture(root, tmp_path / "capture")
    (root / "proc/kallsyms").unlink()
    with pytest.raises(CaptureError, match="nowhere to take symbols from"):
        capture(root, tmp_path / "capture")


def test_a_named_image_that_is_none_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"no image")

    with pytest.raises(ImageError):
        capture(root, tmp_path / "capture", ksyms=tmp_path / "image")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\x7fELF", "not a whole ELF file"), (Elf([]).to_bytes(), "without a .BTF")],
)
def test_an_elf_file_without_btf_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)

    with pytest.raises(BtfError, match=reason):
        load_btf(path, name="vmlinux")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("facts.json", None, "not a capture"),
        ("facts.json", b"[1", "not JSON"),
        ("facts.json", b"[]", "no facts of a capture"),
        ("facts.json", b'{"format": 2}', "no facts of a capture"),
        ("facts.json", b'{"format": 1, "release": 6}', '"release" is 6'),
        ("facts.json", b'{"format": 1, "modules": ["../x"]}', "which is no name"),
        ("facts.json", b'{"format": 1, "modules": {}}', '"modules" is {}'),
        (
            "facts.json",
            b'{"format": 1, "destructors": {"found_by": "magic"}}',
            "\"found_by\" is 'magic'",
        ),
        ("kallsyms", None, "has neither ksyms nor kallsyms"),
    ],
)
def test_a_broken_capture_is_refused_with_the_reason(
    captured: Path, file: str, content: bytes | None, reason: str
) -> None:
    (captured / file).unlink()
    if content is not None:
        (captured / file).write_bytes(content)

    with pytest.raises(CaptureError) as caught:
        Kernel.load(captured)
    assert reason in caught.value.reason


def test_broken_btf_in_a_capture_names_the_file(captured: Path) -> None:
    (captured / "btf/moda").write_bytes(b"\0" * 40)

    with pytest.raises(BtfError, match=f"{captured}/btf/moda: offset 0x0: magic"):
        resolve(load("y10_mod_func.o"), Kernel.load(captured))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def test_mutated_facts_are_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(
        Facts(
            "6.18", "x86_64", True, Destructors("probe", frozenset({"sock"})), ("a",)
        ).to_json(),
        "utf-8",
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from(b'0"{}[],:aztrue\xff\\'))
    try:
        facts = Facts.from_json(bytes(text), "facts.json")
    except KsymsError:
        return
    assert Facts.from_json(facts.to_json().encode(), "again") == facts


def test_destructors_are_guessed_from_the_release_functions() -> None:
    found = guess_destructors(bpf_cases.vmlinux())
    accepted = load_destructors(bpf_cases.CASES / "tables" / "dtor_targets.json")

    assert found.found_by == "heuristic"
    assert found.types == accepted.types
    assert accepted.found_by == "file"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"accepted_ref_targets": 1}'])
def test_a_destructor_file_is_checked(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dtors.json"
    path.write_bytes(content)

    with pytest.raises(CaptureError, match="accepted_ref_targets"):
        load_destructors(path)


@pytest.mark.kernel
def test_the_kernel_that_runs_here_is_captured(tmp_path: Path) -> None:
    facts = write_capture(tmp_path / "capture", device=tmp_path / "none")
    kernel = Kernel.load(tmp_path / "capture")

    assert facts.release == RELEASE
    assert kernel.symbols is not None
    assert kernel.symbols.occurrences("schedule")
    if Path("/sys/kernel/btf/vmlinux").exists():
        data = Path("/sys/kernel/btf/vmlinux").read_bytes()
        assert kernel.btf is not None
        assert len(kernel.btf) == len(Btf.from_bytes(data))
