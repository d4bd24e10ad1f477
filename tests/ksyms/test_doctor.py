"""ksyms doctor: what it finds on machines of all kinds, and what it advises."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ksyms.cli import main
from ksyms.doctor import Finding, Machine, examine
from tests.integration.server import as_nobody
from tests.ksyms.images import kernel_image

FILES = {
    "proc/kallsyms": "ffffffff81000000 T _text\nffffffff82000000 d static_data\n",
    "proc/modules": "a 1 0 - Live 0x0\nb 1 0 - Live 0x0\n",
    "proc/sys/kernel/kptr_restrict": "1\n",
    "proc/sys/kernel/perf_event_paranoid": "2\n",
    "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
    "sys/kernel/btf/vmlinux": "",
    "sys/kernel/btf/a": "",
    "dev/fuse": "",
}
HIDDEN = {"proc/kallsyms": "0000000000000000 T _text\n"}
USER = {"proc/self/status": "CapEff:\t0000000000000000\n"}


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def look(
        files: dict[str, str | None] | None = None,
        *,
        libraries: tuple[str, ...] = ("fuse", "fuse3"),
        modules: tuple[str, ...] = ("fuse", "mfusepy"),
        programs: tuple[str, ...] = ("fusermount3", "perf"),
        platform: str = "linux",
    ) -> dict[str, Finding]:
        for name, text in {**FILES, **(files or {})}.items():
            if text is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        (tmp_path / "ksyms").write_bytes(kernel_image())
        machine = Machine(
            tmp_path,
            platform=platform,
            find_library=lambda name: name if name in libraries else None,
            has_module=lambda name: name in modules,
            which=lambda name: name if name in programs else None,
        )
        return {f.check: f for f in examine(machine, str(tmp_path / "ksyms"))}

    return look


Look = Callable[..., dict[str, Finding]]


def test_a_machine_with_everything_lacks_nothing(look: Look) -> None:
    found = look()

    assert {f.status for f in found.values()} == {"ok"}
    assert found["device"].found.endswith("records of 4 linker files")
    assert found["modules"].found == "2 loaded"
    assert found["BTF"].found == "of the kernel and 1 module"


@pytest.mark.parametrize(
    ("check", "status", "files", "remedy"),
    [
        ("addresses", "missing", {**HIDDEN, **USER}, "CAP_SYSLOG"),
        ("addresses", "missing", {**HIDDEN, "proc/sys/kernel/kptr_restrict": "2"},
         "kernel.kptr_restrict=1"),
        ("addresses", "missing", {"proc/kallsyms": None}, "CONFIG_KALLSYMS"),
        ("data symbols", "limited", {"proc/kallsyms": "ffffffff81000000 T _text\n"},
         "CONFIG_KALLSYMS_ALL"),
        ("capabilities", "missing", USER, "run as root"),
        ("capabilities", "limited", {"proc/self/status": "CapEff:\t0000000400000000\n"},
         "CAP_SYS_ADMIN"),
        ("perf events", "limited", USER, "CAP_PERFMON"),
        ("perf events", "limited", {"proc/sys/kernel/perf_event_paranoid": None},
         "CONFIG_PERF_EVENTS"),
        ("lockstat", "limited", USER, "CAP_PERFMON"),
        ("lockstat", "limited", {"sys/kernel/tracing/events/sched/enable": ""},
         "Linux 5.19"),
        ("BTF", "missing", {"sys/kernel/btf/vmlinux": None}, "CONFIG_DEBUG_INFO_BTF"),
        ("/dev/fuse", "missing", {"dev/fuse": None}, "modprobe fuse"),
    ],
)  # fmt: skip
def test_what_a_machine_lacks_is_found_with_its_remedy(
    look: Look, check: str, status: str, files: dict[str, str | None], remedy: str
) -> None:
    finding = look(files)[check]

    assert finding.status == status
    assert remedy in (finding.remedy or "")


def test_perf_events_are_for_everybody_where_the_machine_says_so(look: Look) -> None:
    files = {**USER, "proc/sys/kernel/perf_event_paranoid": "-1\n"}

    assert look(files)["perf events"].status == "ok"


def test_lockstat_wants_perf(look: Look) -> None:
    assert look(programs=())["lockstat"].status == "limited"
    event = {"sys/kernel/tracing/events/lock/contention_begin/id": "408\n"}
    assert look(event)["lockstat"].status == "ok"


@pytest.mark.parametrize(
    ("libraries", "modules", "libfuse", "binding"),
    [
        ((), ("fuse",), "missing", "missing"),
        (("fuse",), ("fuse",), "ok", "ok"),
        (("fuse3",), ("fuse",), "ok", "missing"),
        (("fuse3",), ("mfusepy",), "ok", "ok"),
        (("fuse",), (), "ok", "missing"),
    ],
)
def test_a_binding_works_with_the_libfuse_that_it_knows(
    look: Look, libraries: object, modules: object, libfuse: str, binding: str
) -> None:
    found = look(libraries=libraries, modules=modules)

    assert (found["libfuse"].status, found["FUSE binding"].status) == (libfuse, binding)
    assert all(f.remedy for f in found.values() if f.status != "ok")


def test_freebsd_is_asked_for_its_own_things(look: Look) -> None:
    found = look({"dev/fuse": None}, libraries=(), platform="freebsd14")

    assert found["/dev/fuse"].remedy == "run as root: kldload fusefs"
    assert "addresses" not in found


@pytest.mark.parametrize(
    ("libraries", "modules", "libfuse", "binding"),
    [
        (("fuse",), ("mfusepy",), "ok", "ok"),
        (("fuse3",), ("mfusepy",), "missing", "missing"),
        (("fuse",), ("fuse",), "ok", "missing"),
    ],
)
def test_freebsd_needs_libfuse2_and_mfusepy(
    look: Look, libraries: object, modules: object, libfuse: str, binding: str
) -> None:
    found = look(libraries=libraries, modules=modules, platform="freebsd14")

    assert (found["libfuse"].status, found["FUSE binding"].status) == (libfuse, binding)
    if libfuse == "missing":
        assert found["libfuse"].remedy == "run as root: pkg install fusefs-libs"
    if binding == "missing":
        assert found["FUSE binding"].remedy == "pip install 'ksymsfs[fuse3]'"


def test_another_system_can_read_images(look: Look) -> None:
    assert "ksyms -k FILE" in (look(platform="darwin")["system"].remedy or "")


def test_without_a_device_it_says_how_to_get_one(tmp_path: Path) -> None:
    device = examine(Machine(tmp_path), str(tmp_path / "nosuch"))[0]

    assert device.status == "missing"
    assert "ksymsfs /run/ksymsfs as root" in (device.remedy or "")


def test_a_device_that_serves_no_image_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ksyms").write_text("nonsense")

    device = examine(Machine(tmp_path), str(tmp_path / "ksyms"))[0]

    assert (device.status, "not an ELF file" in device.found) == ("missing", True)


def test_doctor_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["-k", "/nonexistent", "doctor"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[0].split()[:2] == ["missing", "device"]
    assert lines[1].lstrip().startswith("-> nothing serves it")
    assert {line.split()[0] for line in lines} <= {"ok", "limited", "missing", "->"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_what_an_ordinary_user_may_not_look_at_is_a_finding(tmp_path: Path) -> None:
    for name in ("proc/sys/kernel", "sys/kernel/tracing/events", "sys/kernel/btf"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("proc", "sys/kernel", "sys/kernel/tracing"):
        (tmp_path / name).chmod(0o700)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    code = """if True:
        import sys
        from ksyms.doctor import Machine, examine
        root = sys.argv[1]
        print(*(f.status for f in examine(Machine(root), f"{root}/sys/kernel/ksyms")))
    """

    result = as_nobody("-c", code, tmp_path)

    assert result.stderr == ""
    assert "missing" in result.stdout.split()


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert {tuple(f) for f in found} == {("check", "status", "found", "remedy")}
    assert {"device", "libfuse", "FUSE binding"} <= {f["check"] for f in found}
