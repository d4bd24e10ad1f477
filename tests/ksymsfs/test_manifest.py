"""Manifests: described kernels, what they become, and what is wrong with them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ksymsfs.errors import ManifestError, SourceChangingError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.description import parse_description
from ksymsfs.sources.manifest import Manifest
from tests.elf_writer import write_recorded

EXAMPLES = Path(__file__).parent.parent.parent / "ksymsfs/examples"

KERNEL = '[kernel]\nsymbols = "ffffffff81000000 T _stext"\n'
DUMMY = """\
[[module]]
name = "dummy"
address = 0xffffffffc0b00000
size = 0x4000
symbols = '''
ffffffffc0b00000 t dummy_setup

# a comment
ffffffffc0b00040 t dummy_xmit
'''
"""


def described(folder: Path, text: str) -> list[LinkerFile]:
    (folder / "kernel.toml").write_text(text)
    return list(Manifest(folder / "kernel.toml").linker_files())


def names(file: LinkerFile) -> list[str]:
    return [
        file.strtab[n : file.strtab.index(0, n)].decode()
        for n in file.symtab["st_name"].tolist()
    ]


def test_inline_symbols_become_the_blocks_that_kallsyms_becomes(
    tmp_path: Path,
) -> None:
    kernel, dummy = described(tmp_path, KERNEL + DUMMY)

    assert names(kernel) == ["", "kernel", "_stext"]
    assert names(dummy) == ["", "dummy", "dummy_setup", "dummy_xmit"]
    assert (dummy.address, dummy.size) == (0xFFFFFFFFC0B00000, 0x4000)
    assert dummy.symtab["st_value"].tolist()[1:] == [
        0xFFFFFFFFC0B00000,
        0xFFFFFFFFC0B00000,
        0xFFFFFFFFC0B00040,
    ]
    assert dummy.symtab["st_size"].tolist() == [0, 0x4000, 0x40, 0x3FC0]


def test_modules_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    text = KERNEL + "".join(
        f'[[module]]\nname = "{name}"\naddress = {address}\nsize = 1\n'
        for name, address in (("b", 0x3000), ("a", 0x1000), ("c", 0x2000))
    )

    assert [f.name for f in described(tmp_path, text)] == ["kernel", "b", "a", "c"]


def test_a_module_may_have_no_symbols(tmp_path: Path) -> None:
    text = KERNEL + '[[module]]\nname = "empty"\naddress = 0x1000\nsize = 0x20\n'

    _, empty = described(tmp_path, text)

    assert names(empty) == ["", "empty"]
    assert (empty.address, empty.size) == (0x1000, 0x20)


def test_the_described_range_of_the_kernel_goes_before_the_symbols_one(
    tmp_path: Path,
) -> None:
    text = KERNEL + "address = 0xffffffff80000000\nsize = 0x2000000\n"

    (kernel,) = described(tmp_path, text)

    assert kernel.symtab["st_value"][1] == kernel.address == 0xFFFFFFFF80000000
    assert kernel.symtab["st_size"][1] == kernel.size == 0x2000000


@pytest.mark.parametrize("state", ["Loading", "Unloading"])
def test_a_module_that_comes_or_goes_is_no_consistent_state(
    tmp_path: Path, state: str
) -> None:
    text = KERNEL + f'[[module]]\nname = "m"\nstate = "{state}"\n'

    with pytest.raises(SourceChangingError, match=f"line 3: module m is {state}"):
        described(tmp_path, text)


def test_files_give_what_they_give_without_a_manifest(
    tmp_path: Path, data: Path
) -> None:
    for name in ("kernel", "ksyms.ko"):
        write_recorded(data / "freebsd-13.2" / name, tmp_path / name)
    text = """
    [kernel]
    file = "kernel"
    [[module]]
    name = "ksyms.ko"
    file = "ksyms.ko"
    address = 0xffffffff80f18000
    size = 0x2248
    """

    kernel, ksyms = described(tmp_path, text)

    assert len(kernel.symtab) == 30851
    assert kernel.sections is not None
    assert ksyms.name == "ksyms.ko"
    assert names(ksyms)[0:1] == [""]
    assert len(ksyms.symtab) == 77


def test_files_next_to_inline_symbols_say_whose_they_are(
    tmp_path: Path, data: Path
) -> None:
    write_recorded(data / "freebsd-13.2/kernel", tmp_path / "kernel")
    kernel, dummy = described(tmp_path, '[kernel]\nfile = "kernel"\n' + DUMMY)

    assert names(kernel)[:2] == ["", "kernel"]
    assert kernel.symtab["st_value"][1] == 0xFFFFFFFF80200000
    panic = kernel.symtab[names(kernel).index("panic")]
    assert (panic["st_value"], panic["st_shndx"]) == (0xFFFFFFFF80426700, 1)
    assert names(dummy)[1] == "dummy"


def test_an_edit_of_the_manifest_or_of_its_files_changes_the_fingerprint(
    tmp_path: Path, data: Path
) -> None:
    write_recorded(data / "freebsd-13.2/kernel", tmp_path / "kernel")
    path = tmp_path / "kernel.toml"
    path.write_text('[kernel]\nfile = "kernel"\n')
    source = Manifest(path)
    first = source.fingerprint()

    with (tmp_path / "kernel").open("ab") as kernel:
        kernel.write(b"more")
    second = source.fingerprint()
    path.write_text('[kernel]\nfile = "kernel"\n\n')
    third = source.fingerprint()
    path.unlink()
    fourth = source.fingerprint()

    assert len({first, second, third, fourth}) == 4
    assert fourth == source.fingerprint()


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", 1, "describes no [kernel]"),
        ("[kernel]\nsymbols =\n", 2, "Invalid value"),
        ("[kernel]\nsymbols = '''\n", 3, ""),
        ("kernel = 3\n", 1, "describes no [kernel]"),
        (KERNEL + "[modules]\n", 3, "unknown 'modules'"),
        (KERNEL + "[module]\nname = 'm'\n", 3, "modules are [[module]]"),
        (KERNEL + "[[module]]\naddress = 1\n", 3, "a module without a name"),
        (KERNEL + "[[module]]\nname = 'a b'\n", 4, "no name of a module: 'a b'"),
        (KERNEL + "[[module]]\nname = 3\n", 4, "name is not a string"),
        (KERNEL + "[[module]]\nname = 'm'\nsize = true\n", 5, "size is not an integer"),
        (KERNEL + "[[module]]\nname = 'm'\nsize = 0\n", 5, "size 0 is not positive"),
        (KERNEL + "[[module]]\nname = 'm'\nadress = 1\n", 5, "unknown key 'adress'"),
        (KERNEL + "[[module]]\nname='m'\nstate='live'\n", 5, "no state of a module"),
        (KERNEL + "[[module]]\nname='m'\naddress=-1\n", 5, "has not 64 bits"),
        (
            KERNEL + "[[module]]\nname='m'\naddress=0xfffffffffffff000\nsize=0x1001\n",
            6,
            "beyond the address space",
        ),
        (KERNEL + DUMMY + DUMMY, 13, "a second 'dummy': the first is in line 3"),
        (KERNEL + "[[module]]\nname='kernel'\n", 3, "a second 'kernel'"),
        (
            KERNEL + DUMMY + "[[module]]\nname='m'\naddress=0xffffffffc0b03fff\nsize=1",
            13,
            "lies within dummy",
        ),
        (KERNEL + DUMMY.replace("t dummy_xmit", "dummy_xmit"), 11, "not an address"),
        (KERNEL + "[[module]]\nname='m'\nsymbols='x'\n", 5, "not an address, a letter"),
        ("[kernel]\nfile='a'\nsymbols=''\n", 3, "both file and symbols"),
        ("[kernel]\nfile='none'\n", 2, "none: No such file or directory"),
        ("[kernel]\nfile='kernel.toml'\n", 2, "not an ELF file"),
        ("[kernel]\nbits=16\n", 2, "bits may be 32 or 64"),
        ("[kernel]\nbyteorder='middle'\n", 2, "byteorder may be little or big"),
        ("[kernel]\nmachine=-1\n", 2, "machine is no e_machine"),
        (
            "[kernel]\nbits = 32\nsymbols = 'ffffffff81000000 T _stext'\n",
            3,
            "an address of more than 32 bits",
        ),
        (
            # What only looks like a module's table does not count.
            "[kernel]\nsymbols = '''\n[[module]]\n'''\n",
            3,
            "not an address",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, where: int, reason: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        described(tmp_path, text)

    assert caught.value.where == f"line {where}"
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"{tmp_path / 'kernel.toml'}: line {where}: ")


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "kernel.toml").write_bytes(b"[kernel]\n\xff")

    with pytest.raises(ManifestError, match="line 2: not UTF-8"):
        Manifest(tmp_path / "kernel.toml").linker_files()


@pytest.mark.parametrize("example_", sorted(EXAMPLES.iterdir()), ids=lambda p: p.stem)
def test_the_examples_describe_a_kernel_with_two_modules(example_: Path) -> None:
    files = Manifest(example_).linker_files()

    assert files[0].name == "kernel"
    assert len(files) == 3


_WORDS = st.sampled_from(
    [
        *("[kernel]\n", "[[module]]\n", "name = 'm'\n", "symbols = '''\n", "'''\n"),
        *("address = 0x1000\n", "size = -1\n", "ffffffff81000000 T _stext\n", '"""'),
        *("state = 'Loading'\n", "file = '.'\n", "module = [", "{}", "]\n", "x = 1\n"),
        *("bits = 32\n", "= ", "'", "\\", "\u2028", "0000000000000000 t a\n", "[" * 99),
    ]
)


@given(st.lists(_WORDS | st.text(max_size=8), max_size=12).map("".join))
@example(KERNEL + DUMMY)
@example("x = " + "[" * 100_000)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_any_text_is_a_description_or_an_error_of_ours(text: str) -> None:
    with suppress(ManifestError):
        parse_description(text, Path("kernel.toml"))
