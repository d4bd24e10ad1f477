"""Symbols as libbpf's kallsyms pass reads them, from text and from an image."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import ImageError
from ksyms.kallsyms import KallsymsImage, KallsymsText
from tests.ksyms import bpf_cases
from tests.ksyms.images import kernel_image


def addresses(text: bytes, name: str) -> list[int]:
    return [found.address for found in KallsymsText(text).occurrences(name)]


TABLE = bpf_cases.table("kallsyms_a.txt")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("schedule", [0xFFFFFFFF81434560]),
        ("init_once", [0xFFFFFFFF81234560, 0xFFFFFFFF81334560]),
        ("zero_addr_sym", [0]),
        ("mod_only_sym", [0xFFFFFFFFC0201000]),
        ("dup_in_two_mods", [0xFFFFFFFFC0201100, 0xFFFFFFFFC0301100]),
        ("ftrace_trampoline", [0xFFFFFFFFC0501000]),
        ("promoted_local", [0xFFFFFFFF82200100]),
        ("promoted_local.llvm.998877", []),
        ("promoted_text", []),
        ("promoted_text.llvm.1234567890", [0xFFFFFFFF81434580]),
        ("promoted_bigd", []),
        ("promoted_bss", []),
        ("both_forms", [0xFFFFFFFF82200300, 0xFFFFFFFF82200300]),
        ("clone_fn", []),
        ("sched", []),
        ("chedule", []),
        ("absent", []),
    ],
)
def test_a_name_stands_for_its_symbols_and_its_promoted_local_data(
    name: str, expected: list[int]
) -> None:
    indexed = KallsymsText(TABLE)
    for number in range(200):  # enough for an index
        indexed.occurrences(f"absent{number}")

    assert addresses(TABLE, name) == expected
    assert [found.address for found in indexed.occurrences(name)] == expected
    assert addresses(b" " + TABLE, name) == expected  # not as kernels write it


def test_an_occurrence_has_the_name_of_the_table() -> None:
    (found,) = KallsymsText(TABLE).occurrences("promoted_local")

    assert found.name == "promoted_local.llvm.998877"


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        (b"1 T a\n2 T b", {"a": [1], "b": [2]}),  # no newline at the end
        (b"", {"a": []}),
        (b"\n\n1 T a\n\n2 T b\n\n", {"a": [1], "b": [2]}),
        (b"1\nT\na\n2 T b\n", {"a": [1], "b": [2]}),  # fields over lines
        (b"1Ta\n", {"a": [1]}),  # white space may be none
        (b"0x1f T a\n-1 T b\n+2 T c\n", {"a": [31], "b": [(1 << 64) - 1], "c": [2]}),
        (b"11112222333344445 T a\n", {"a": [(1 << 64) - 1]}),  # ERANGE
        (b"1 T a trailing words T b\n", {"a": [1], "b": []}),
        (b"1 T " + b"x" * 600 + b"\n2 T b\n", {"x" * 499: [1], "b": [2]}),
        (b"1 T caf\xc3\xa9\n2 T \xff\n", {"caf\u00e9": [1], "\udcff": [2]}),
    ],
)
def test_text_is_read_as_fscanf_reads_it(
    text: bytes, symbols: dict[str, list[int]]
) -> None:
    table = KallsymsText(text)

    assert table.broken is None
    assert {name: addresses(text, name) for name in symbols} == symbols


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"1 T a\nnot a line\n2 T b\n", 0),
        (b"1 T a\n2", 1),
        (b"1 T a\n2\n\n", 1),
        (b"1 T a\n2 T", 2),
        (b"1 T a\n2 T \n", 2),
        (b"1 T a\n0xg T b\n", 0),
    ],
)
def test_what_cannot_be_read_ends_the_table_with_the_number_of_fields(
    text: bytes, fields: int
) -> None:
    table = KallsymsText(text)

    assert table.broken == f"failed to read kallsyms entry: {fields}"
    assert addresses(text, "a") == [1]
    assert addresses(text, "b") == []


@pytest.mark.parametrize(
    ("text", "is_zeroed"),
    [
        (b"", False),
        (b"0000 T a\n0000 t b\n", True),
        (b"0000 T a\n0100 t b\n", False),
        (b" 0 T a\n", True),
        (b" A T a\n", False),
        (bpf_cases.table("kallsyms_zero.txt"), True),
        (TABLE, False),
    ],
)
def test_a_table_of_zeros_is_told_apart(text: bytes, is_zeroed: bool) -> None:
    assert KallsymsText(text).is_zeroed == is_zeroed


FSCANF = r"""
#include <stdio.h>
int main(int argc, char **argv)
{
	char type, name[500];
	unsigned long long address;
	FILE *f = fopen(argv[1], "re");
	int ret;
	while (1) {
		ret = fscanf(f, "%llx %c %499s%*[^\n]\n", &address, &type, name);
		if (ret == EOF && feof(f))
			return 0;
		if (ret != 3) {
			printf("broken %d\n", ret);
			return 0;
		}
		printf("%llx %s\n", address, name);
	}
}
"""


@pytest.fixture(scope="session")
def fscanf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libbpf's loop, run by the C library itself."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("fscanf") / "fscanf"
    source = program.with_suffix(".c")
    source.write_text(FSCANF)
    subprocess.run(["cc", "-o", program, source], check=True)
    return program


def test_the_c_library_reads_arbitrary_text_the_same_way(
    fscanf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "kallsyms"
    words = st.sampled_from(
        [
            b"0",
            b"1f",
            b"-3",
            b"0x7",
            b"zz",
            b"T",
            b"d",
            b"a",
            b"ab",
            b"f.llvm.1",
        ]
    )
    spaces = st.sampled_from([b" ", b"\n", b"\t", b"", b"  "])
    line = st.tuples(words, spaces, words, spaces, words, st.just(b"\n")).map(b"".join)
    text = st.lists(st.one_of(line, words, spaces), max_size=8).map(b"".join)

    @settings(max_examples=150, derandomize=True, deadline=None, database=None)
    @given(text)
    def check(text: bytes) -> None:
        path.write_bytes(text)
        done = subprocess.run([fscanf, path], capture_output=True, check=True)
        *lines, last = done.stdout.decode().splitlines() or [""]
        broken = None
        if last.startswith("broken"):
            broken = f"failed to read kallsyms entry: {last.split()[1]}"
        else:
            lines = [*lines, last]
        expected: dict[str, list[int]] = {}
        for address, name in (found.split(" ") for found in lines if found):
            expected.setdefault(name, []).append(int(address, 16))
        table = KallsymsText(text)

        assert table.broken == broken
        for name, found in expected.items():
            if ".llvm." not in name:
                assert [
                    o.address for o in table.occurrences(name) if o.name == name
                ] == found

    check()


@pytest.fixture(scope="session")
def image() -> bytes:
    """The table above as an image of ksymsfs."""
    return kernel_image(kallsyms=TABLE)


def test_an_image_answers_as_the_text_it_was_made_of(image: bytes) -> None:
    ours, theirs = KallsymsImage(image, "a"), KallsymsText(TABLE)
    names = {line.split()[2].decode() for line in TABLE.splitlines()}
    names |= {name.partition(".llvm.")[0] for name in names}

    for name in sorted(names):
        found = sorted(o.address for o in ours.occurrences(name))
        assert found == sorted(o.address for o in theirs.occurrences(name)), name


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ImageError):
        KallsymsImage(b"nothing", "x")
