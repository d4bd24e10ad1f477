"""Special fields in `ksyms bpf`, and what a Kernel's facts mean for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ksyms import check_kptrs
from ksyms.bpf.kernel_rules import RULES_7
from ksyms.bpf.object import BpfObject
from ksyms.btf import Btf
from ksyms.cli import main
from ksyms.destructor_probe import probe_destructors
from ksyms.destructors import Destructors
from ksyms.facts import Facts
from ksyms.kernel import Kernel
from tests.ksyms import bpf_cases
from tests.ksyms.btf_writer import BtfWriter

DTORS = bpf_cases.CASES / "tables" / "dtor_targets.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded kptr objects, and the BTF of their kernel."""
    folder = tmp_path_factory.mktemp("kptrs")
    for name in bpf_cases.object_names():
        if name.startswith("k"):
            (folder / name).write_bytes(bpf_cases.object_bytes(name))
    (folder / "vmlinux.btf").write_bytes(bpf_cases.table("vmlinux.btf"))
    shutil.copy(DTORS, folder)
    return folder


@pytest.fixture
def check(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.chdir(files)

    def check(*words: str, dtors: bool = True) -> tuple[int, str]:
        kernel = ["--btf", "vmlinux.btf"]
        if dtors:
            kernel += ["--dtors", DTORS.name]
        return main(["bpf", "check", *kernel, *words]), capsys.readouterr().out

    return check


def load(name: str) -> BpfObject:
    return BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)


def kernel(release: str | None = None, types: frozenset[str] | None = None) -> Kernel:
    """The recorded kernel, with other facts."""
    found = Destructors("probe", types) if types is not None else None
    return Kernel(
        name="k",
        symbols=None,
        btf=bpf_cases.vmlinux(),
        facts=Facts(release=release, destructors=found),
    )


def test_json_has_fields_and_ignored_pointers(check: Any) -> None:
    status, out = check("--json", "k14b_packed_align4.o", "k26b_wronly_prog.o")
    packed, refused = json.loads(out)

    assert status == 1
    assert (packed["result"], packed["rules"], packed["btf_load"]) == (
        "ok",
        "<=6.18",
        0,
    )
    assert packed["maps"] == [
        {
            "name": "m",
            "type": 2,
            "value_size": 24,
            "map_create": 0,
            "map_create_reason": None,
            "fields": [
                {
                    "off": 16,
                    "kind": "kptr",
                    "path": "value.q",
                    "target": "task_struct",
                    "where": "vmlinux",
                }
            ],
            "ignored": [
                {
                    "path": "value.p",
                    "reason": "at offset 4, not aligned to 8 bytes",
                }
            ],
        }
    ]
    assert refused["maps"][0]["map_create"] == "-EACCES"
    assert "BPF_F_WRONLY_PROG" in refused["maps"][0]["map_create_reason"]
    assert [field["kind"] for field in refused["maps"][0]["fields"]] == ["kptr"]


def test_json_has_the_errno_of_a_refused_btf(check: Any) -> None:
    status, out = check("--json", "k41_nested_bad.o")
    (answer,) = json.loads(out)

    assert status == 1
    assert (answer["result"], answer["btf_load"]) == ("ok", "-ENOENT")
    assert answer["btf_load_reason"].startswith("struct v.i.bad: struct sock is the")
    assert answer["maps"][0]["fields"] == []
    assert [p["path"] for p in answer["maps"][0]["ignored"]] == [
        "value.ok",
        "value.i.bad",
    ]


def test_text_has_a_line_a_field(check: Any) -> None:
    status, out = check("k12c_10_plus_lock_timer.o", "k10b_in_named_union.o")

    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:4] == [
        ["map", "m"],
        ["0", "bpf_spin_lock", "value.l"],
        ["8", "bpf_timer", "value.t"],
    ]
    assert lines[4] == [
        *("24", "kptr_untrusted", "value.p0"),
        *("struct", "task_struct", "(vmlinux)"),
    ]
    assert "    ignored value.u.p: in a union: unions are not looked into" in out


def test_text_says_first_what_fails(check: Any) -> None:
    status, out = check("k02_ref_no_dtor.o")
    first, *_ = out.splitlines()

    assert status == 1
    assert first.startswith(
        "k02_ref_no_dtor.o on vmlinux.btf: -ENOENT: BPF_BTF_LOAD fails with -ENOENT "
        "(libbpf goes on without types): struct v.p: struct sock is the kernel's"
    )


def test_the_reports_have_fields_and_failures(check: Any) -> None:
    reports = ["--junit", "report.xml", "--html", "report.html"]
    check("k10b_in_named_union.o", "k25x_maptype_lpm_trie.o", *reports)
    good, bad = ElementTree.parse("report.xml").getroot()[0]
    page = Path("report.html").read_text()

    assert good.find("failure") is None
    assert "ignored value.u.p: in a union" in (good.findtext("system-out") or "")
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("type") == "-ENOTSUP"
    assert "no kptr in maps of type LPM_TRIE" in (failure.text or "")
    assert "<td>value.u.p</td><td>in a union: unions are not looked into</td>" in page
    assert '<td class="bad">kptr</td><td>value.p</td>' in page
    assert "ok, 1 warning<" in page
    assert "-ENOTSUP" in page


def test_the_rules_can_be_chosen(check: Any) -> None:
    name = "k19c_kptr_plus_rcu_tag.o"
    for words, rules, fields in (
        ([], "<=6.18", 0),
        (["--rules", "6.18"], "<=6.18", 0),
        (["--rules", "7.x"], ">=7.x", 1),
    ):
        (answer,) = json.loads(check("-j", name, *words)[1])
        assert answer["rules"] == rules
        assert len(answer["maps"][0]["fields"]) == fields


def test_the_rules_are_those_of_the_kernel_s_release() -> None:
    obj = load("k19c_kptr_plus_rcu_tag.o")
    types = frozenset({"task_struct"})

    assert check_kptrs(obj, kernel("6.18.44", types)).maps[0].fields == ()
    assert check_kptrs(obj, kernel("7.2.0", types)).rules == ">=7.x"
    assert len(check_kptrs(obj, kernel("7.2.0", types)).maps[0].fields) == 1
    chosen = check_kptrs(obj, kernel("6.18.44", types), rules=RULES_7)
    assert len(chosen.maps[0].fields) == 1


def test_a_kernel_older_than_the_rules_is_warned_of() -> None:
    types = frozenset({"task_struct"})
    old = check_kptrs(load("k01_ref_task.o"), kernel("6.1.0-49-amd64", types))

    assert any("6.1.0-49-amd64 is older than" in text for text in old.warnings)
    assert check_kptrs(load("k36_plain_ptr.o"), kernel("6.1.0", types)).warnings == ()
    new = check_kptrs(load("k01_ref_task.o"), kernel("6.12.1", types))
    assert new.warnings == ()


def test_destructors_come_from_the_facts() -> None:
    obj = load("k01_ref_task.o")

    assert check_kptrs(obj, kernel(types=frozenset({"task_struct"}))).btf_load is None
    refusal = check_kptrs(obj, kernel(types=frozenset({"cgroup"}))).btf_load
    assert refusal is not None
    assert (refusal.result, refusal.member) == ("-ENOENT", "p")


def test_a_guess_about_destructors_is_called_one(check: Any) -> None:
    (answer,) = json.loads(check("-j", "k01_ref_task.o", dtors=False)[1])

    assert answer["btf_load"] == 0
    assert answer["warnings"] == [
        "whether the kernel has a destructor for struct task_struct is guessed from "
        "the names of its functions (ksyms capture asks it, with CAP_BPF)"
    ]
    (answer,) = json.loads(check("-j", "k01_ref_task.o")[1])
    assert answer["warnings"] == []


@pytest.mark.parametrize(
    ("compiler", "warns"), [("14.0.6", True), ("15.0.7", False), ("9.0.1", True)]
)
def test_a_clang_that_loses_tags_is_warned_of(compiler: str, warns: bool) -> None:
    obj = load("k36_plain_ptr.o")
    obj.compiler = f"clang version {compiler}"

    warnings = check_kptrs(obj, kernel(types=frozenset())).warnings

    assert any("leaves the tags of many pointers out" in w for w in warnings) == warns


def test_an_object_without_btf_has_nothing_to_be_refused() -> None:
    data = bpf_cases.object_bytes("k01_ref_task.o").replace(b".BTF\0", b".btf\0")
    obj = BpfObject.from_bytes(data)

    found = check_kptrs(obj, kernel(types=frozenset()))

    assert (found.btf_load, found.maps, found.result) == (None, (), "ok")


@pytest.mark.bpf
def test_capture_asks_the_kernel_for_destructors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", str(tmp_path / "capture")]) == 0
    out = capsys.readouterr().out
    facts = Kernel.load(tmp_path / "capture").facts

    assert facts.destructors is not None
    assert facts.destructors.found_by == "probe"
    assert "task_struct" in facts.destructors.types
    assert "the kernel was asked" in out


@pytest.mark.bpf
def test_progress_of_the_probe_is_told() -> None:
    writer = BtfWriter()
    for name in ("task_struct", "inode", "task_struct", ""):
        writer.composite(name, 4)
    told: list[tuple[int, int]] = []
    btf = Btf.from_bytes(writer.to_bytes())

    found = probe_destructors([btf], lambda *numbers: told.append(numbers))

    assert found == Destructors("probe", frozenset({"task_struct"}))
    assert told == [(1, 2), (2, 2)]
