"""`ksyms bpf` and `ksyms capture`: what they print, write, and exit with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ksyms.check import Check, Report
from ksyms.cli import main
from ksyms.report.html import html_page
from ksyms.report.junit import junit_xml
from tests.integration.server import ROOT, as_nobody
from tests.ksyms import bpf_cases
from tests.ksyms.images import kernel_image
from tests.ksyms.test_libbpf_recorded import archive

ROWS = bpf_cases.recorded("expected_ksym")
TABLES = bpf_cases.CASES / "tables"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recorded objects and tables as files."""
    folder = tmp_path_factory.mktemp("cases")
    for name in bpf_cases.object_names():
        (folder / name).write_bytes(bpf_cases.object_bytes(name))
    for name in ("vmlinux.btf", "kallsyms_real.txt"):
        (folder / name).write_bytes(bpf_cases.table(name))
    for path in TABLES.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def captures(files: Path) -> list[str]:
    """Two captures: the recorded kernel, and one of the hand-made table."""
    folders = []
    for name in ("recorded", "made"):
        folder = files / "captures" / name
        (folder / "btf").mkdir(parents=True)
        (folder / "facts.json").write_text('{"format": 1, "release": "6.18.44"}')
        shutil.copy(files / "vmlinux.btf", folder / "btf" / "vmlinux")
        folders.append(str(folder))
    shutil.copy(files / "kallsyms_real.txt", files / "captures/recorded/kallsyms")
    image = kernel_image(kallsyms=bpf_cases.table("kallsyms_a.txt"))
    (files / "captures/made/ksyms").write_bytes(image)
    return folders


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, files: Path
) -> Any:
    monkeypatch.chdir(files)
    monkeypatch.delenv("KSYMS", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main(list(words))
        except SystemExit as ending:
            status = int(ending.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def described(tables: str) -> list[str]:
    """The options for the tables of a recorded row."""
    kallsyms = f"kallsyms_{'real' if tables == 'kernel' else tables}.txt"
    options = ["--kallsyms", kallsyms, "--btf", "vmlinux.btf"]
    if tables == "a":
        options += ["--module-btf", "moda=moda.btf", "--module-btf", "modb=modb.btf"]
    return options


@pytest.mark.parametrize("tables", sorted({row["tables"] for row in ROWS}))
def test_the_command_line_reproduces_the_recorded_rows(run: Any, tables: str) -> None:
    rows = [row for row in ROWS if row["tables"] == tables]
    objects = [row["object"] for row in rows]
    status, out, err = run("bpf", "check", "--json", *objects, *described(tables))
    answers = json.loads(out)

    assert status == (1 if any(row["result"] != "ok" for row in rows) else 0)
    assert ("this kernel has no kallsyms" in err) == (tables == "missing")
    for row, answer in zip(rows, answers, strict=True):
        assert answer["object"] == row["object"]
        assert (answer["result"], answer["error"]) == (row["result"], row["error"])
        ours = {extern["name"]: extern for extern in answer["externs"]}
        for extern in row["externs"]:
            found = ours[extern["name"]]
            if "addr" in extern:
                assert found["addr"] == extern["addr"]
            if "btf_id" in extern:
                assert found["btf_id"] == extern["btf_id"]
            if "weak_unresolved" in extern:
                assert found["status"] == "unresolved"


def test_json_has_the_documented_keys_in_order(run: Any) -> None:
    objects = ["s20_typed_and_typeless.o", "s05b_two_bad_order.o"]
    _, out, _ = run("bpf", "check", "-j", *objects, *described("a"))
    good, bad = json.loads(out)

    assert good == {
        "object": "s20_typed_and_typeless.o",
        "kernel": "kallsyms_a.txt,vmlinux.btf",
        "result": "ok",
        "error": None,
        "messages": [],
        "externs": [
            {
                "name": "runqueues",
                "kind": "var",
                "weak": True,
                "status": "resolved",
                "btf": "vmlinux",
                "btf_id": 10665,
            },
            {
                "name": "schedule",
                "kind": "typeless",
                "weak": False,
                "status": "resolved",
                "addr": "0xffffffff81434560",
            },
        ],
        "warnings": good["warnings"],
        "rules": "<=6.18",
        "btf_load": 0,
        "btf_load_reason": None,
        "maps": [
            {
                "name": ".bss",
                "type": 2,
                "value_size": 128,
                "map_create": 0,
                "map_create_reason": None,
                "fields": [],
                "ignored": [],
            }
        ],
    }
    assert len(good["warnings"]) == 1
    assert list(bad) == list(good)
    assert bad["messages"][0] == bad["error"]
    assert len(bad["messages"]) == 2
    assert bad["externs"][0] == {
        "name": "aaa_missing",
        "kind": "typeless",
        "weak": False,
        "status": "error",
        "message": "extern 'aaa_missing' (strong): not resolved",
    }


def test_text_is_a_verdict_and_a_line_an_extern(run: Any) -> None:
    status, out, _ = run("bpf", "check", "s29_many.o", *described("kernel"))

    assert status == 0
    first, *lines = out.splitlines()
    assert first == "s29_many.o on kallsyms_real.txt,vmlinux.btf: ok"
    assert lines[0].split() == ["0xffffffff82209988", "_etext", "typeless"]
    assert lines[2].split() == ["vmlinux:65886", "bpf_task_acquire", "func"]
    assert len(lines) == 9


def test_several_objects_on_several_kernels_make_a_matrix_and_details(
    run: Any, captures: list[str]
) -> None:
    kernels = [word for path in captures for word in ("--kernel", path)]
    status, out, _ = run("bpf", "check", "s01_typeless_func.o", "s29_many.o", *kernels)
    lines = out.splitlines()

    assert status == 1
    assert [line.split() for line in lines[:4]] == [
        ["recorded", "made"],
        ["s01_typeless_func.o", "ok", "ok"],
        ["s29_many.o", "ok", "-ESRCH"],
        [],
    ]
    assert lines[4].startswith(f"s29_many.o on {captures[1]}: -ESRCH: extern 'kfree'")
    assert "s01_typeless_func.o on" not in out


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_may_check_objects() -> None:
    demo = ROOT / "tests/data/demo"
    table = ["--kallsyms", str(demo / "kallsyms.txt")]

    result = as_nobody("-m", "ksyms", "bpf", "check", demo / "trace.bpf.o", *table)

    assert (result.returncode, result.stderr) == (1, "")
    assert "extern 'vfs_poll' (strong): not resolved" in result.stdout


def test_an_unreadable_object_is_named_and_the_others_are_checked(run: Any) -> None:
    words = ["s01_typeless_func.o", "none.o", "facts.txt", *described("a")]
    Path("facts.txt").write_text("no object")
    status, out, err = run("bpf", "check", *words)

    assert status == 2
    assert "s01_typeless_func.o on" in out
    assert err.splitlines() == [
        "ksyms: none.o: No such file or directory",
        "ksyms: facts.txt: not a whole ELF file: Magic number does not match",
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--kernel", "nowhere"], "nowhere: not a capture"),
        (["--btf", "kallsyms_a.txt"], "kallsyms_a.txt: offset 0x0: magic"),
        (["--btf", "none.btf"], "none.btf: No such file"),
        (["--btf", "vmlinux.btf", "--dtors", "none"], "none: No such file"),
        (["--btf", "vmlinux.btf", "--dtors", "moda.btf"], "accepted_ref_targets"),
        (["-k", "vmlinux.btf", "--btf", "vmlinux.btf"], "not an ELF file"),
        (["-k", "vmlinux.btf"], "not an ELF file"),
    ],
)
def test_an_unreadable_kernel_is_exit_status_2(
    run: Any, words: list[str], reason: str
) -> None:
    status, out, err = run("bpf", "check", "s01_typeless_func.o", *words)

    assert (status, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["check"],
        ["check", "x.o", "--kernel", "a", "--btf", "b"],
        ["check", "x.o", "--module-btf", "m=f"],
        ["check", "x.o", "--btf", "b", "--module-btf", "m"],
        ["check", "x.o", "--btf", "b", "--kallsyms", "k", "-k", "i"],
    ],
)
def test_usage_is_exit_status_2(run: Any, words: list[str]) -> None:
    status, out, err = run("bpf", *words)

    assert (status, out) == (2, "")
    assert "usage: ksyms bpf" in err


def test_an_image_gives_the_symbols_too(run: Any, captures: list[str]) -> None:
    image = f"{captures[1]}/ksyms"
    for words in (["-k", image], ["--kallsyms", image]):
        status, out, _ = run(
            "bpf", "check", "s01_typeless_func.o", *words, "--btf", "vmlinux.btf"
        )
        assert status == 0
        assert "0xffffffff81434560" in out


def test_junit_counts_failures_and_errors(run: Any, captures: list[str]) -> None:
    Path("bad\x01.o").write_text("no object")
    kernels = [word for path in captures for word in ("--kernel", path)]
    objects = ["s29_many.o", "s06_typed_percpu_struct.o", "bad\x01.o"]
    run("bpf", "check", *objects, *kernels, "--junit", "report.xml")
    root = ElementTree.parse("report.xml").getroot()

    assert root.tag == "testsuites"
    assert root.attrib == {
        "name": "ksyms bpf check",
        "tests": "6",
        "failures": "1",
        "errors": "2",
    }
    assert [suite.get("name") for suite in root] == captures
    case = root[1][0]
    assert (case.get("name"), case.get("classname")) == ("s29_many.o", captures[1])
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("type") == "-ESRCH"
    assert (failure.text or "").count("not resolved") == 4
    assert "runqueues" in (root[0][1].findtext("system-out") or "")
    assert root[0][2].find("error") is not None


class Page(HTMLParser):
    """The links, ids and open tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [v for k in ("href", "src") if (v := found.get(k))]
        if (name := found.get("id")) is not None:
            self.ids.append(name)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_page_whose_matrix_leads_to_the_details(
    run: Any, captures: list[str]
) -> None:
    odd = "<b>&.o"
    Path(odd).write_text("no object")
    kernels = [word for path in captures for word in ("--kernel", path)]
    objects = ["s29_many.o", "s06_typed_percpu_struct.o", odd]
    run("bpf", "check", *objects, *kernels, "--html", "report.html")
    text = Path("report.html").read_text()
    page = Page()
    page.feed(text)

    assert page.open == []
    assert sorted(page.links) == sorted(f"#{name}" for name in page.ids)
    assert len(page.ids) == 6
    assert "<b>" not in text
    assert "extern &#x27;kfree&#x27; (strong): not resolved" in text
    assert "is in BTF but not in kallsyms" in text


@pytest.mark.parametrize("write", [html_page, junit_xml])
def test_names_that_are_no_text_can_be_reported(
    write: Callable[[Report], str],
) -> None:
    odd = "caf\xe9\udcff\x01.o"
    report = Report((odd,), (odd,), (Check(odd, odd, None, f"{odd}: \udcff"),))

    assert "caf\xe9" in write(report).encode().decode()


def test_dump_shows_externs_and_maps(run: Any) -> None:
    status, out, _ = run("bpf", "dump", "s12_func_ok.o", "k49_two_maps.o")

    assert status == 0
    assert (
        "func  extern struct task_struct *bpf_task_acquire(struct task_struct *)" in out
    )
    assert "map  m2  hash   key 4  value 24  max 1  flags 0x0" in out


def test_global_data_with_fields_that_libbpf_cannot_map_fails(
    run: Any, files: Path
) -> None:
    name = "q_gl_bss.o"
    (files / name).write_bytes(archive()[name])

    status, out, _ = run("bpf", "check", "--json", name, *described("a"))
    (checked,) = json.loads(out)
    assert status == 1
    assert checked["maps"][0]["map_create"] == 0
    assert checked["maps"][0]["mmap"] == "-ENOTSUPP"
    assert "__hidden" in checked["maps"][0]["mmap_reason"]

    _, text, _ = run("bpf", "check", name, *described("a"))
    assert "map '.bss': mmap(2) fails with -ENOTSUPP" in text


def test_dump_as_json(run: Any) -> None:
    _, out, _ = run("bpf", "dump", "--json", "s28_subprog_uses.o", "k49_two_maps.o")
    externs, maps = json.loads(out)

    assert externs["externs"][2] == {
        "name": "schedule",
        "essential_name": "schedule",
        "kind": "typeless",
        "weak": False,
        "type": "extern const void schedule",
        "uses": [
            {"section": ".text", "offset": 88},
            {"section": "tp_btf/sys_exit", "offset": 16},
        ],
    }
    assert maps["maps"][1] == {
        "name": "m2",
        "type": 1,
        "key_size": 4,
        "value_size": 24,
        "max_entries": 1,
        "flags": "0x0",
        "key": "int",
        "value": "struct w",
        "map_create": 0,
        "map_create_reason": None,
        "fields": [
            {
                "off": 0,
                "kind": "kptr",
                "path": "value.a",
                "target": "cgroup",
                "where": None,
            },
            {
                "off": 16,
                "kind": "kptr_untrusted",
                "path": "value.b",
                "target": "task_struct",
                "where": None,
            },
        ],
        "ignored": [],
    }


def test_dump_of_what_libbpf_would_not_open_is_exit_status_1(run: Any) -> None:
    status, out, _ = run("bpf", "dump", "s19b_extern_without_section_func.o")

    assert status == 1
    assert (
        "-ENOENT: failed to find BTF for extern 'plain_extern' [6] section: -2" in out
    )
    assert run("bpf", "dump", "none.o")[0] == 2


@pytest.mark.kernel
def test_capture_tells_what_it_took_and_refuses_to_overwrite(
    run: Any, tmp_path: Path
) -> None:
    target = str(tmp_path / "capture")
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "facts.json").write_text("an older one")

    status, out, err = run("capture", target)
    assert (status, out) == (2, "")
    assert err == f"ksyms: {target}: holds a capture already (--force replaces it)\n"

    status, out, _ = run("capture", "--force", target)
    assert status == 0
    assert out.startswith(f"{target}: ")
    assert run("bpf", "check", "s01_typeless_func.o", "--kernel", target)[0] == 0
