"""Every recorded answer of libbpf 1.8, and all that it leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import KsymsError
from ksyms.bpf.instruction import Instruction
from ksyms.bpf.object import BpfObject
from ksyms.btf_types import Kind
from ksyms.check import Answer
from ksyms.kallsyms import KallsymsImage
from ksyms.kernel import Kernel
from ksyms.kptr_check import check_kptrs
from ksyms.report.records import answer_record
from ksyms.report.text import answer_text
from ksyms.resolution import Resolution, ResolvedExtern, resolve
from tests.ksyms import bpf_cases
from tests.ksyms.btf_writer import BtfWriter
from tests.ksyms.images import kernel_image
from tests.ksyms.kernels import made_up_kernel, recorded_kernel

ROWS = bpf_cases.recorded("expected_ksym")


def load(name: str) -> BpfObject:
    return BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)


def run(name: str, kernel: Kernel | str) -> Resolution:
    kernel = recorded_kernel(kernel) if isinstance(kernel, str) else kernel
    return resolve(load(name), kernel)


def by_name(resolution: Resolution) -> dict[str, ResolvedExtern]:
    return {found.extern.name: found for found in resolution.externs}


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row['object']}-{row['tables']}" for row in ROWS]
)
def test_libbpf_gave_this_verdict_text_and_address(row: dict[str, Any]) -> None:
    answer = run(row["object"], row["tables"])
    found = by_name(answer)

    assert (answer.result, answer.error) == (row["result"], row["error"])
    assert list(answer.messages[:1]) == row["messages"]
    for extern in row["externs"]:
        ours = found[extern["name"]]
        if "addr" in extern:
            assert ours.address == int(extern["addr"], 16)
        if "btf_id" in extern:
            assert ours.btf_id == extern["btf_id"]
            # What it did not record of variables is told by the id.
            assert extern["btf"] in (ours.btf, "vmlinux-or-module")
            assert ours.extern.kind == extern["kind"]
        if "weak_unresolved" in extern:
            assert (ours.status, ours.address, ours.btf_id) == (
                "unresolved",
                None,
                None,
            )


def test_an_image_of_the_same_kernel_gives_the_same_answers() -> None:
    text = recorded_kernel("kernel")
    image = kernel_image(kallsyms=bpf_cases.table("kallsyms_real.txt"))
    kernel = Kernel(
        name=text.name,
        symbols=KallsymsImage(image, "image"),
        btf=text.btf,
        facts=text.facts,
    )

    for row in ROWS:
        if row["tables"] == "kernel":
            assert run(row["object"], kernel) == run(row["object"], text)


def test_all_problems_are_reported_in_libbpfs_order() -> None:
    answer = run("s05b_two_bad_order.o", "a")

    assert answer.messages == (
        "extern (ksym) 'init_once': resolution is ambiguous: "
        "0xffffffff81234560 or 0xffffffff81334560",
        "extern 'aaa_missing' (strong): not resolved",
    )
    assert {name: e.status for name, e in by_name(answer).items()} == {
        "aaa_missing": "error",
        "init_once": "error",
    }


def test_what_follows_a_failure_is_resolved_all_the_same() -> None:
    found = by_name(run("y04b_kptr_restrict_all_zero.o", "a"))

    assert found["init_once"].status == "error"
    assert found["schedule"].address == 0xFFFFFFFF81434560


def test_without_btf_every_typed_extern_fails_even_a_weak_one() -> None:
    answer = run("s12c_func_missing_weak_guarded.o", made_up_kernel(b"1 T a\n", None))

    assert answer.result == "-ESRCH"
    assert answer.messages == (
        "failed to find valid kernel BTF",
        "Error loading vmlinux BTF: -ESRCH",
    )
    assert [e.status for e in answer.externs] == ["error"]


def test_typeless_externs_need_no_btf() -> None:
    kernel = made_up_kernel(b"1000 T schedule\n", None)

    assert run("s01_typeless_func.o", kernel).is_ok


def test_typed_externs_need_no_kallsyms() -> None:
    assert run("s12_func_ok.o", "missing").is_ok
    assert run("s12_func_ok.o", "bad").is_ok


def test_kconfig_externs_are_listed_and_left_to_libbpf() -> None:
    answer = run("s27_kconfig_and_ksym.o", "kernel")
    found = by_name(answer)["LINUX_KERNEL_VERSION"]

    assert answer.is_ok
    assert found.status == "unresolved"
    assert "configuration" in (found.message or "")


# -- instructions


def instructions(answer: Resolution) -> list[tuple[str, Instruction, str | None]]:
    return [(i.extern, i.instruction, i.module) for i in answer.instructions]


def test_a_typeless_address_goes_into_both_halves() -> None:
    ((_, insn, _),) = instructions(run("s01_typeless_func.o", "a"))

    assert (insn.src_reg, insn.imm, insn.next_imm) == (0, 0x81434560, 0xFFFFFFFF)


def test_an_unresolved_weak_address_becomes_zero() -> None:
    ((_, insn, _), *_) = instructions(run("s03_typeless_missing_weak.o", "a"))

    assert (insn.code, insn.src_reg, insn.imm, insn.next_imm) == (0x18, 0, 0, 0)


def test_a_typed_variable_becomes_its_btf_id() -> None:
    ((_, insn, module), *_) = instructions(run("s06_typed_percpu_struct.o", "a"))

    assert (insn.src_reg, insn.imm, insn.next_imm, module) == (3, 10665, 0, None)


def test_a_modules_variable_waits_for_the_modules_file_descriptor() -> None:
    ((_, insn, module), *_) = instructions(run("y10d_mod_var.o", "a"))

    assert (insn.src_reg, insn.imm, insn.next_imm, module) == (3, 126591, 0, "modb")


def test_a_call_becomes_a_kfunc_call_with_the_modules_slot_of_fd_array() -> None:
    found = {
        name: (insn.src_reg, insn.off, insn.imm, module)
        for name, insn, module in instructions(run("y10b_mod_func_two_mods.o", "a"))
    }

    assert found == {
        "bpf_rcu_read_lock": (2, 0, 65472, None),
        "bpf_rcu_read_unlock": (2, 0, 65474, None),
        "mod_kfunc_a": (2, 1, 126587, "moda"),
        "mod_kfunc_b": (2, 2, 126587, "modb"),
    }


def test_a_call_to_an_unresolved_weak_function_is_poisoned() -> None:
    answer = run("s12d_func_missing_weak_unguarded.o", "a")
    ((_, insn, _),) = instructions(answer)

    assert (insn.code, insn.src_reg, insn.off, insn.imm) == (0x85, 0, 0, 2002000000)


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_instructions_survive_the_way_to_bytes_and_back(byteorder: str) -> None:
    short = Instruction(0x85, 1, 2, -3, 0xFFFFFFFF)
    long = Instruction(0x18, 9, 3, 0, 7, 8)

    for insn in (short, long):
        data = insn.to_bytes(byteorder)
        assert len(data) == (16 if insn is long else 8)
        assert Instruction.from_bytes(data, byteorder) == insn


def test_big_endian_objects_resolve_and_are_warned_about() -> None:
    data = bpf_cases.archive()["objects-eb/s12_func_ok.o"]
    answer = resolve(BpfObject.from_bytes(data), recorded_kernel("a"))

    assert answer.is_ok
    assert answer.instructions[0].instruction.imm == 65886
    assert "big-endian" in answer.warnings[0]


# -- warnings


def test_a_typed_variable_that_kallsyms_lacks_is_warned_about() -> None:
    (warning,) = run("s06_typed_percpu_struct.o", "a").warnings

    assert warning == (
        "extern 'runqueues' is in BTF but not in kallsyms (it has no "
        'CONFIG_KALLSYMS_ALL): the kernel will say "ldimm64 failed to find the address '
        "for kernel symbol 'runqueues'.\""
    )


def test_a_function_without_the_kfunc_tag_is_warned_about() -> None:
    (warning,) = run("s18_func_not_a_kfunc.o", "kernel").warnings

    assert '"calling kernel function schedule is not allowed"' in warning
    assert run("s12_func_ok.o", "kernel").warnings == ()
    assert run("s17b_func_address_strong.o", "kernel").warnings == ()


def test_zeroed_kallsyms_are_warned_about_once() -> None:
    (warning,) = run("y04b_kptr_restrict_all_zero.o", "zero").warnings

    assert warning.startswith("every address in kallsyms is 0")
    # An absolute symbol at 0 is no such thing.
    assert run("y05_abs_symbol.o", "a").warnings == ()


def test_a_forward_declaration_in_a_prototype_is_warned_about() -> None:
    answer = run("s14d_func_fwd_struct_arg.o", "a")

    assert "'bpf_task_acquire' mentions 'task_struct'" in answer.warnings[0]


def weak_typed_and_typeless() -> BpfObject:
    """s20c with its typed variable made weak: no compiler is needed for one byte."""
    data = bytearray(bpf_cases.object_bytes("s20c_quirk_strong_typed_in_kallsyms.o"))
    found = load("s20c_quirk_strong_typed_in_kallsyms.o")
    (symbol,) = (e.symbol for e in found.externs if e.name == "schedule")
    (offset,) = symbol_table_offsets(bytes(data))
    data[offset + 24 * symbol + 4] = 2 << 4
    return BpfObject.from_bytes(bytes(data), name="s20b.o")


def symbol_table_offsets(data: bytes) -> list[int]:
    from io import BytesIO

    from elftools.elf.elffile import ELFFile

    sections = ELFFile(BytesIO(data)).iter_sections()
    return [s["sh_offset"] for s in sections if s["sh_type"] == "SHT_SYMTAB"]


def test_a_weak_typed_variable_found_only_in_kallsyms_resolves_to_btf_id_zero() -> None:
    answer = resolve(weak_typed_and_typeless(), recorded_kernel("a"))
    found = by_name(answer)["schedule"]
    insn = {i.extern: i.instruction for i in answer.instructions}["schedule"]

    assert answer.is_ok
    assert (found.status, found.address) == ("resolved", 0xFFFFFFFF81434560)
    assert (insn.src_reg, insn.imm) == (3, 0)
    assert "pseudo btf_id 0 in ldimm64" in answer.warnings[0]


def test_a_typed_variable_can_be_ambiguous_once_a_typeless_one_is_there() -> None:
    kernel = made_up_kernel(b"1 T _stext\n2 t schedule\n3 t schedule\n", BTF)
    answer = resolve(weak_typed_and_typeless(), kernel)

    assert answer.error == (
        "extern (ksym) 'schedule': resolution is ambiguous: 0x2 or 0x3"
    )


def test_kallsyms_order_decides_which_ambiguity_comes_first() -> None:
    kernel = made_up_kernel(
        b"1 T schedule\n2 T _stext\n3 t _stext\n4 t schedule\n", BTF
    )
    answer = resolve(weak_typed_and_typeless(), kernel)

    assert [message.split("'")[1] for message in answer.messages] == [
        "_stext",
        "schedule",
    ]


def variables(*names: str, kind: Kind = Kind.INT) -> bytes:
    writer = BtfWriter()
    target = writer.integer() if kind is Kind.INT else writer.composite("rq", 8)
    for name in names:
        writer.var(name, target)
    return writer.to_bytes()


BTF = variables("schedule")


def test_a_weak_variable_of_another_type_fails_all_the_same() -> None:
    kernel = made_up_kernel(
        b"1 D runqueues\n", variables("runqueues", kind=Kind.STRUCT)
    )
    answer = run("s07b_typed_incompat_kind_weak.o", kernel)

    assert answer.result == "-EINVAL"
    assert answer.error == (
        "extern (var ksym) 'runqueues': incompatible types, expected [3] int int, "
        "but kernel has [1] struct rq"
    )


def functions() -> bytes:
    """Types that s29_many.o and s20_typed_and_typeless.o ask for, in a few bytes."""
    writer = BtfWriter()
    task = writer.pointer(writer.composite("task_struct", 8, ("pid", 3, 0)))
    integer = writer.integer()
    writer.func("bpf_task_acquire", writer.proto(task, ("p", task)))
    release = writer.func("bpf_task_release", writer.proto(0, ("p", task)))
    writer.add(Kind.DECL_TAG, "bpf_kfunc", value=release, words=[-1])
    writer.var("runqueues", writer.composite("rq", 8, ("x", integer, 0)))
    writer.var("schedule", integer)
    return writer.to_bytes()


def test_the_small_kernel_has_what_the_objects_ask_for() -> None:
    kernel = made_up_kernel(TEXT, functions())

    assert run("s20_typed_and_typeless.o", kernel).is_ok
    assert run("s12_func_ok.o", kernel).is_ok


TEXT = b"1000 T schedule\n2000 t vprintk\n3000 d kfree.llvm.1\n"


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_a_spoiled_kernel_gives_a_resolution_or_our_error(data: st.DataObject) -> None:
    btf, text = bytearray(functions()), bytearray(TEXT)
    for spoiled in (btf, text):
        for _ in range(data.draw(st.integers(0, 5))):
            at = data.draw(st.integers(0, len(spoiled) - 1))
            spoiled[at] = data.draw(st.integers(0, 255))
    names = ["s29_many.o", "s20_typed_and_typeless.o", "s14e_func_int_width.o"]
    obj = load(data.draw(st.sampled_from(names)))
    try:
        kernel = made_up_kernel(bytes(text), bytes(btf))
        answer = resolve(obj, kernel)
        whole = Answer(answer, check_kptrs(obj, kernel))
    except KsymsError:
        return
    assert (answer.result == "ok") == (answer.error is None)
    assert resolve(obj, kernel) == answer
    json.dumps(answer_record(whole))
    assert list(answer_text(whole))
