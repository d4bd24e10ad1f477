"""ksyms annotate: names for addresses in the texts that people have."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms.annotator import Annotator
from ksyms.cli import main
from ksyms.folded import StackFolder
from ksyms.image import Image
from ksyms.symbolizer import Symbolizer
from tests.ksyms.filter_process import filtering
from tests.ksyms.images import FORMATS, kernel_image

ROOT = Path(__file__).resolve().parent.parent.parent
Captured = pytest.CaptureFixture[str]

HIGH = b"""\
0000000000000010 A per_cpu
ffffffff81000000 T _text
ffffffff81000010 t __pfx_vfs_read
ffffffff81000020 T vfs_read
ffffffff81000120 T ksys_read
ffffffff81000200 T entry
ffffffff81001000 D _end
ffffffffc0001000 t nft_do_chain\t[nf_tables]
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("image") / "ksyms"
    path.write_bytes(kernel_image(kallsyms=HIGH))
    return str(path)


@pytest.fixture(scope="module")
def symbolizer() -> Symbolizer:
    return Symbolizer(Image(kernel_image(kallsyms=HIGH)))


@pytest.mark.parametrize(
    ("text", "annotated"),
    [
        # dmesg, old and new; hidden, hashed and user addresses
        ("[  1.5]  [<ffffffff81000021>] ?", "[  1.5]  [<vfs_read+0x1/0x100>] ?"),
        ("RIP: 0010:0xffffffff81000021", "RIP: 0010:vfs_read+0x1/0x100"),
        ("RSP: ffffc90000013e38", "RSP: ffffc90000013e38"),
        ("[<0>] do_wait+0x5d/0x100", "[<0>] do_wait+0x5d/0x100"),
        ("(____ptrval____) 00000000deadbeef", "(____ptrval____) 00000000deadbeef"),
        # perf script, bpftrace, ftrace
        ("\tffffffff81000121 [unknown]", "\tksys_read+0x1/0xe0 [unknown]"),
        ("@[0xffffffff81000020]: 3", "@[vfs_read+0x0/0x100]: 3"),
        ("a=ffffffffc0001004,b", "a=nft_do_chain+0x4/0x1000 [nf_tables],b"),
        ("FFFFFFFF81000021 0XFFFFFFFF81000021 ", "vfs_read+0x1/0x100 " * 2),
        (
            "0Xffffffff81000021 0xFFFFFFFF810001fF",
            "vfs_read+0x1/0x100 ksys_read+0xdf/0xe0",
        ),
        ("ffffffff81000021-ffffffff81000022", "vfs_read+0x1/0x100-vfs_read+0x2/0x100"),
        ("at ffffffff81000021\r\n", "at vfs_read+0x1/0x100\r\n"),
        # what has its name already
        ("vfs_read+0x1/0x100 [unknown]", "vfs_read+0x1/0x100 [unknown]"),
        # just past the end of the last symbol, and just before the first
        ("ffffffffc0002000 ffffffffc0002004", "ffffffffc0002000 ffffffffc0002004"),
        ("ffffffff80ffffff", "ffffffff80ffffff"),
        # what only looks like one
        (
            "ffffffff-8100-0021-ffff-ffff81000021",
            "ffffffff-8100-0021-ffff-ffff81000021",
        ),
        ("ffffffff81000021" * 4, "ffffffff81000021" * 4),
        ("ffffffff8100002", "ffffffff8100002"),
        ("ffffffff810000210", "ffffffff810000210"),
        ("xffffffff81000021", "xffffffff81000021"),
        ("x0xffffffff81000021", "x0xffffffff81000021"),
        ("ffffffff81000021_", "ffffffff81000021_"),
        ("ffffffff90000000", "ffffffff90000000"),
        ("0x10", "0x10"),
        ("0000000000000010", "0000000000000010"),
        # JSON
        ('{"ip":"0xffffffff81000021"}', '{"ip":"vfs_read+0x1/0x100"}'),
        (
            '{"ip": 18446744071578845217, "n": [1844, 18446744071578845216]}',
            '{"ip": "vfs_read+0x1/0x100", "n": [1844, "vfs_read+0x0/0x100"]}',
        ),
        (
            '["a \\" 18446744071578845217", 18446744071578845217.5]',
            '["a \\" 18446744071578845217", 18446744071578845217.5]',
        ),
        ("18446744071578845217", "18446744071578845217"),
        ("[18446744071578845217]", '["vfs_read+0x1/0x100"]'),
        (
            "[   1.5] at 18446744071578845217 [x]",
            "[   1.5] at 18446744071578845217 [x]",
        ),
        ("[ 1.5][ T7] 18446744071578845217", "[ 1.5][ T7] 18446744071578845217"),
    ],
)
def test_addresses_become_names_and_nothing_else_changes(
    symbolizer: Symbolizer, text: str, annotated: str
) -> None:
    assert Annotator(symbolizer).annotate(text.encode()).decode() == annotated


def test_a_return_address_names_the_call(symbolizer: Symbolizer) -> None:
    annotator = Annotator(symbolizer, return_address=True)

    assert annotator.annotate(b"ffffffff81000120") == b"vfs_read+0x100/0x100"


def test_addresses_of_a_32_bit_kernel_have_8_digits() -> None:
    image = Image(kernel_image(FORMATS["elf32-big"]))

    annotated = Annotator(Symbolizer(image)).annotate(b"81000041 0x81000041 081000041")

    assert annotated == b"vfs_read+0x1/0xc0 vfs_read+0x1/0xc0 081000041"


def test_a_kernel_that_lies_low_is_found_with_and_without_zeros() -> None:
    image = Image(kernel_image())

    annotated = Annotator(Symbolizer(image)).annotate(
        b"0000000081000041 0x81000041 0x0000000081000041 81000041 0x41"
    )

    assert annotated == b"vfs_read+0x1/0xc0 " * 3 + b"81000041 0x41"


def test_an_image_without_a_place_annotates_nothing() -> None:
    image = Image(kernel_image(kallsyms=b"81000000 T _text\n"))

    assert Annotator(Symbolizer(image)).annotate(b"0xffff") == b"0xffff"


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            [
                "ffffffff81000021", "0xffffffff81000120", "ffffffff", "0x", "f", " ",
                "\n", "{", '"', ":", "18446744071578845217", ",", "}", "[", "é", "8",
            ]
        )
    ).map("".join)
)  # fmt: skip
def test_annotating_changes_whole_words_only(text: str) -> None:
    symbolizer = Symbolizer(Image(kernel_image(kallsyms=HIGH)))
    word = re.compile(r"(?<!\w)(?:0x)?(ffffffff81[0-9a-f]{6})(?!\w)", re.ASCII)

    def name(match: re.Match[str]) -> str:
        return symbolizer.sprint(int(match[1], 16)) or match[0]

    annotated = Annotator(symbolizer).annotate(text.encode()).decode()

    if "18446744071578845217" not in text:
        assert annotated == word.sub(name, text)
    assert annotated.count("\n") == text.count("\n")


def test_json_lines_stay_json(symbolizer: Symbolizer) -> None:
    record = {"ip": 0xFFFFFFFF81000021, "chain": ["ffffffff81000120", 7], "x": "\\"}

    line = Annotator(symbolizer).annotate(json.dumps(record).encode())

    assert json.loads(line) == {
        "ip": "vfs_read+0x1/0x100",
        "chain": ["ksys_read+0x0/0xe0", 7],
        "x": "\\",
    }


# -- stacks


def folded(symbolizer: Symbolizer, text: str, **options: bool) -> list[str]:
    folder = StackFolder(symbolizer, **options)
    for line in text.splitlines():
        folder.feed(line)
    return folder.folded()


PERF = """\
cat  2817/2817 [001]  100.000001:     250000 cpu-clock:
        ffffffff81000021 [unknown] ([unknown])
        ffffffff81000120 [unknown] ([kernel.kallsyms])
            7f0000001234 main+0x10 (/bin/cat)

my prog  28 [000]  100.000002: probe:x: (ffffffff81000021)
\tffffffffc0001004 nft_do_chain+0x4 ([nf_tables])
\t    7f00000f0000 [unknown] (/bin/x)

cat  2817/2817 [001]  100.000003:     250000 cpu-clock:
        ffffffff81000025 [unknown] ([unknown])
        ffffffff81000121 [unknown] ([kernel.kallsyms])
            7f0000001234 main+0x10 (/bin/cat)
"""


def test_perfs_stacks_are_folded(symbolizer: Symbolizer) -> None:
    assert folded(symbolizer, PERF) == [
        "cat;main;ksys_read;vfs_read 2",
        "my prog;7f00000f0000;nft_do_chain [nf_tables] 1",
    ]


def test_callers_are_where_calls_return_to(symbolizer: Symbolizer) -> None:
    # The second frame of the first stack stands at the very start of a function.
    assert folded(symbolizer, PERF, return_address=True) == [
        "cat;main;ksys_read;vfs_read 1",
        "cat;main;vfs_read;vfs_read 1",
        "my prog;7f00000f0000;nft_do_chain [nf_tables] 1",
    ]


def test_bpftraces_stacks_are_folded_with_their_counts(symbolizer: Symbolizer) -> None:
    text = """\
Attaching 1 probe...
@reads[
        0xffffffff81000021
        0xffffffff81000120
, cat]: 42
@[
    ffffffff81000200 entry+0
]: 3
@[cat,
    ffffffff81000200
]: 4
"""

    assert folded(symbolizer, text) == [
        "cat;entry 4",
        "cat;ksys_read;vfs_read 42",
        "entry 3",
    ]


def test_the_kernels_own_traces_are_folded(symbolizer: Symbolizer) -> None:
    text = """\
[   12.000001] Call Trace:
[   12.000002]  [<ffffffff81000021>] vfs_read+0x1/0x100
[   12.000003]  [<ffffffff81000121>] ksys_read+0x1/0xe0
[   12.000004] Code: 00 00
[   12.000005]  [<ffffffff81000201>]
"""

    assert folded(symbolizer, text) == ["entry 1", "ksys_read;vfs_read 1"]


def test_what_has_names_already_is_folded_by_them(symbolizer: Symbolizer) -> None:
    text = """\
[<0>] do_wait+0x5d/0x100
[<0>] nft_do_chain+0x1/0x20 [nf_tables]

@[
    do_mmap+1
    sys_mmap+234
]: 3
cat  2817 [001]  100.000001:  250000 cpu-clock:
\tvfs_read+0x1/0x100 [unknown] ([kernel.kallsyms])
\tksys_read+0x0/0xe0 ksys_read ([kernel.kallsyms])
"""

    assert folded(symbolizer, text) == [
        "cat;ksys_read;vfs_read 1",
        "nft_do_chain [nf_tables];do_wait 1",
        "sys_mmap;do_mmap 3",
    ]


def test_frames_that_the_kernel_doubts_are_left_out(symbolizer: Symbolizer) -> None:
    text = """\
[   12.000001][  T123]  vfs_read+0x1/0x100
[   12.000002][  T123]  ? entry+0x1/0x10
[   12.000003][  T123]  [<ffffffff81000201>] ? entry+0x1/0x10
[   12.000004][  T123]  ksys_read+0x1/0xe0
"""

    assert folded(symbolizer, text) == ["ksys_read;vfs_read 1"]


def test_a_process_cannot_forge_frames_with_its_name(symbolizer: Symbolizer) -> None:
    text = "a;b  28 [000]  100.000002: probe:x: \n\tffffffff81000021\n"

    assert folded(symbolizer, text) == ["a:b;vfs_read 1"]


def test_prose_is_no_stack(symbolizer: Symbolizer) -> None:
    assert folded(symbolizer, "a\nbed\nface 12\nno frame+0x1/0x2 here\n") == []


def test_a_text_of_nothing_but_frames_takes_bounded_memory(
    symbolizer: Symbolizer,
) -> None:
    folder = StackFolder(symbolizer)
    for _ in range(1 << 16):
        folder.feed("\tffffffff81000021")

    (line,) = folder.folded()

    assert line.endswith(f" {1 << 4}")
    assert line.count(";") < 1 << 12


@pytest.mark.parametrize(
    "line",
    [
        "{}x", "x{}x", "@[{}x", "@[{},", "cat  1{}:", ", {}]: x", "]:{}x", "]: 1{}x",
        "\t1{}x", "\tffffffff81000021{}", "[{}1.0] x", "\t[<ffffffff81000021>]{}?",
    ],
)  # fmt: skip
@pytest.mark.parametrize("filling", [" ", "1", "1 ", ", ", "]: 1", "a+", "[1.0] "])
def test_no_line_takes_longer_than_it_is_long(
    symbolizer: Symbolizer, line: str, filling: str
) -> None:
    # Were the time the square of the length, it would be minutes.
    text = line.format(filling * (200_000 // len(filling)))

    folded(symbolizer, text)


def test_a_string_without_end_in_json_is_read_once(symbolizer: Symbolizer) -> None:
    line = b'{"x": 18446744071578845217, "' + b'\\"' * 500_000

    annotated = Annotator(symbolizer).annotate(line)

    assert annotated == line.replace(b"18446744071578845217", b'"vfs_read+0x1/0x100"')


# -- the command


def test_annotate_reads_standard_input(image: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", image, "annotate"],
        input=b"\xff ffffffff81000021\nffffffff81000120",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        check=True,
    )

    assert result.stdout == b"\xff vfs_read+0x1/0x100\nksys_read+0x0/0xe0"
    assert result.stderr == b""


def test_annotate_reads_files_against_a_capture(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "kallsyms").write_bytes(HIGH)
    (tmp_path / "oops").write_text("PC is at ffffffff81000021\n")
    (tmp_path / "trace").write_text(PERF)

    capture = str(tmp_path / "capture")
    assert main(["-k", capture, "annotate", str(tmp_path / "oops")]) == 0
    assert capsys.readouterr().out == "PC is at vfs_read+0x1/0x100\n"
    assert main(["-k", capture, "annotate", "--folded", str(tmp_path / "trace")]) == 0
    assert capsys.readouterr().out.splitlines() == folded(
        Symbolizer(Image(kernel_image(kallsyms=HIGH))), PERF
    )


def test_annotate_says_that_it_has_no_json(image: str, capsys: Captured) -> None:
    assert main(["-k", image, "-j", "annotate"]) == 2
    assert capsys.readouterr() == (
        "",
        "ksyms: annotate: the text is the output, not JSON\n",
    )


def test_annotate_of_a_file_that_is_not_there_exits_2(
    image: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["-k", image, "annotate", str(tmp_path / "nosuch")]) == 2
    assert "nosuch: No such file" in capsys.readouterr().err


def test_files_that_can_be_read_are_annotated_beside_those_that_cannot(
    image: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "oops").write_text("ffffffff81000021\n")
    (tmp_path / "stacks").write_text("\tffffffff81000021\n\n")
    folder = str(tmp_path)

    for words, out in (
        ([f"{folder}/oops"], b"vfs_read+0x1/0x100\n"),
        ([f"{folder}/stacks", "--folded"], b"vfs_read 1\n"),
    ):
        assert main(["-k", image, "annotate", f"{folder}/no", folder, *words]) == 2
        assert capfdbinary.readouterr() == (
            out,
            f"ksyms: {folder}/no: No such file or directory\n"
            f"ksyms: {folder}: Is a directory\n".encode(),
        )


def test_stacks_reach_over_pieces_of_a_text_but_not_over_files(
    image: str, tmp_path: Path, capsys: Captured
) -> None:
    # A text of more than one piece, whatever their size.
    stack = "cat  1 [000] 1.0: x:\r\n" + "\tffffffff81000021\r\n" * 999 + "\r\n"
    (tmp_path / "long").write_text(stack * 200)
    (tmp_path / "short").write_text("\tffffffff81000021\n")
    short = str(tmp_path / "short")

    assert main(["-k", image, "annotate", "--folded", str(tmp_path / "long")]) == 0
    assert capsys.readouterr().out == f"cat{';vfs_read' * 999} 200\n"
    assert main(["-k", image, "annotate", "--folded", short, short]) == 0
    assert capsys.readouterr().out == "vfs_read 2\n"


def test_standard_input_is_read_once(image: str) -> None:
    def run(*words: str) -> tuple[int, bytes, bytes]:
        result = subprocess.run(
            [sys.executable, "-m", "ksyms", *words],
            input=b"ffffffff81000021\n",
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        )
        return result.returncode, result.stdout, result.stderr

    assert run("-k", image, "annotate", "-", "-") == (0, b"vfs_read+0x1/0x100\n", b"")
    status, out, err = run("-k", "-", "annotate")
    assert (status, out, err.count(b"\n")) == (2, b"", 1)
    assert b"cannot be both image and text" in err


@pytest.mark.parametrize("shift", range(24))
def test_no_address_is_cut_where_a_long_line_is(image: str, shift: int) -> None:
    # More than a piece, of words with what else may stand between them.
    text = b"x" * shift + b";ffffffff81000021" * (3 << 16)

    annotated = annotate(image, text)

    assert annotated == b"x" * shift + b";vfs_read+0x1/0x100" * (3 << 16)


def test_a_word_longer_than_any_address_stays_as_it_is(image: str) -> None:
    text = b"ffffffff81000021" * (3 << 16)

    assert annotate(image, text + b" " + text) == text + b" " + text


def annotate(image: str, text: bytes) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", image, "annotate"],
        input=text,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        check=True,
    ).stdout


def test_annotate_writes_lines_as_they_come(image: str) -> None:
    with filtering(image, "annotate") as (stdin, stdout):
        stdin.write(b"at ffffffff81000021\nat ")
        assert stdout.readline() == b"at vfs_read+0x1/0x100\n"
        stdin.write(b"ffffffff81000022\n")
        assert stdout.readline() == b"at vfs_read+0x2/0x100\n"


def test_colour_is_for_terminals(image: str) -> None:
    def run(**env: str) -> bytes:
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "ksyms", "-k", image, "annotate"],
            stdin=subprocess.PIPE,
            stdout=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client"), **env},
        ) as process:
            process.communicate(b"ffffffff81000021\n")
        os.close(slave)
        shown = os.read(master, 1000)
        os.close(master)
        return shown

    assert run(TERM="xterm") == b"\x1b[36mvfs_read+0x1/0x100\x1b[0m\r\n"
    assert run(TERM="xterm", NO_COLOR="1") == b"vfs_read+0x1/0x100\r\n"
    assert run(TERM="dumb") == b"vfs_read+0x1/0x100\r\n"


@pytest.mark.parametrize("newline", [b"\n", b""], ids=["lines", "no-lines"])
def test_a_stream_takes_constant_memory(image: str, newline: bytes) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (96 << 20, 96 << 20))

    piece = (b"at ffffffff81000021 and" + newline) * 4096
    with subprocess.Popen(
        [sys.executable, "-m", "ksyms", "-k", image, "annotate"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        preexec_fn=limit,
    ) as process:
        assert process.stdin is not None
        for _ in range(100_000_000 // len(piece)):
            process.stdin.write(piece)
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
