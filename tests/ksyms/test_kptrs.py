"""Special fields of recorded objects, against what a 6.18 kernel did with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from ksyms.bpf.btf_load import btf_load
from ksyms.bpf.kernel_rules import FIELD_KINDS, POINTER_KINDS, RULES_6_18
from ksyms.bpf.kptrs import Kptrs, MapField, find_kptrs
from ksyms.bpf.object import BpfObject
from ksyms.bpf.refusal import Refusal
from ksyms.bpf.targets import KernelTypes
from ksyms.errors import BtfError
from tests.ksyms import bpf_cases
from tests.ksyms.kernels import recorded_kernel
from tests.ksyms.record_layouts import fingerprint, layout

ROWS = {row["object"]: row for row in bpf_cases.recorded("expected_kptr")}
BLOBS = bpf_cases.recorded("raw_btf")


@cache
def recorded_types() -> KernelTypes:
    """The types of the recorded kernel, with the destructors that were probed."""
    content = json.loads(bpf_cases.table("dtor_targets.json"))
    accepted = frozenset(content["accepted_ref_targets"])
    return KernelTypes(recorded_kernel("kernel"), lambda name, btf: name in accepted)


def kptrs_of(name: str) -> Kptrs:
    obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
    return find_kptrs(obj, recorded_types(), RULES_6_18)


def errno(refusal: Refusal | None) -> str | int:
    return refusal.result if refusal else 0


# As they were recorded: fields that are no pointers at each of their 4 bytes.
def recorded_form(field: MapField) -> Iterator[tuple[int, str]]:
    is_pointer = field.kind in POINTER_KINDS
    size = 4 if is_pointer else FIELD_KINDS[field.kind].size
    for offset in range(field.offset, field.offset + size, 4):
        yield offset, field.kind


@pytest.mark.parametrize("name", ROWS)
def test_the_recorded_answers_of_the_kernel_are_reproduced(name: str) -> None:
    row = ROWS[name]
    kptrs = kptrs_of(name)

    assert errno(kptrs.btf_load) == row["btf_load"]
    assert {found.map.name for found in kptrs.maps} == set(row["maps"])
    for found in kptrs.maps:
        recorded: dict[str, Any] = row["maps"][found.map.name]
        assert found.map.type == recorded["type"]
        if "map_create" in recorded:
            assert errno(found.map_create) == recorded["map_create"]
            assert found.map.value_size == recorded["value_size"]
            assert f"{found.map.map_flags:#x}" == recorded["flags"]
        # Where the map could not be made, other ways to look at its fields failed.
        if "probe" not in recorded:
            fields = [form for field in found.fields for form in recorded_form(field)]
            assert fields == [(f["off"], f["kind"]) for f in recorded["fields"]]


# A pointer's register, as the verifier calls it, ends in the name of its target.
@pytest.mark.parametrize("name", ROWS)
def test_targets_are_those_that_the_verifier_named(name: str) -> None:
    for found in kptrs_of(name).maps:
        targets = {f.offset: f.target.name for f in found.fields if f.target}
        for field in ROWS[name]["maps"][found.map.name]["fields"]:
            if "_or_null_" in field["reg"]:
                _, _, target = field["reg"].partition("_or_null_")
                assert targets[field["off"]] == target


@pytest.mark.parametrize("name", BLOBS)
def test_the_recorded_verdicts_on_btf_that_c_cannot_express(name: str) -> None:
    data = bytes.fromhex(BLOBS[name]["btf_hex"])

    refusal = btf_load(data, RULES_6_18, recorded_types())

    assert errno(refusal) == BLOBS[name]["errno"]


def test_random_layouts_get_the_verdicts_that_were_recorded() -> None:
    recorded = bpf_cases.recorded("layouts")
    assert recorded["sha256"] == fingerprint(), "record them again: record_layouts.py"

    for seed, expected in enumerate(recorded["errnos"]):
        try:
            refusal = btf_load(layout(seed), RULES_6_18, recorded_types())
        except BtfError:
            assert expected != 0, seed
        else:
            assert (refusal.errno if refusal else 0) == expected, seed


@pytest.mark.parametrize(
    ("name", "struct", "member"),
    [
        ("k02_ref_no_dtor.o", "struct v", "p"),
        ("k09h_nested_deep32.o", "struct v", ""),
        ("k19e_unknown_tag_only.o", "struct v", "p"),
        ("k29b_bad_kptr_in_key.o", "struct k", "p"),
        ("k41_nested_bad.o", "struct v", "i.bad"),
    ],
)
def test_a_refused_btf_names_the_struct_and_the_member(
    name: str, struct: str, member: str
) -> None:
    refusal = kptrs_of(name).btf_load

    assert refusal is not None
    assert (refusal.struct, refusal.member) == (struct, member)


def test_types_of_the_object_itself_are_told_from_those_of_the_kernel() -> None:
    def where(name: str) -> set[str | None]:
        (found,) = kptrs_of(name).maps
        return {field.target.where for field in found.fields if field.target}

    assert where("k01_ref_task.o") == {"vmlinux"}
    assert where("k04_ref_local.o") == {"local"}
    assert where("k32_flavour_target.o") == {"local"}
    assert where("k35f_local_name_is_kernel_unref.o") == {"vmlinux"}


def test_fields_are_named_in_c_terms() -> None:
    paths = {
        name: [field.path for field in kptrs_of(name).maps[0].fields]
        for name in (
            "k11c_array_2d.o",
            "k11d_array_of_struct.o",
            "k28c_two_timers_nested.o",
        )
    }

    assert paths["k11c_array_2d.o"] == [
        f"value.p[{row}][{column}]" for row in range(2) for column in range(3)
    ]
    assert paths["k11d_array_of_struct.o"] == [
        f"value.i[{number}].p" for number in range(3)
    ]
    assert paths["k28c_two_timers_nested.o"] == ["value.t", "value.i.t", "value.p"]


IGNORED = {
    "k07_target_void.o": ("value.p", "points to void"),
    "k08_target_union.o": ("value.p", "points to a union"),
    "k08b_target_fwd.o": ("value.p", "struct file, which the object only declares"),
    "k08e_target_ptr.o": ("value.p", "points to a pointer"),
    "k09d_nested_const_struct.o": ("value.i.p", "in a const struct"),
    "k10_in_union.o": ("value.p", "in a union"),
    "k10b_in_named_union.o": ("value.u.p", "in a union"),
    "k11b_array12.o": ("value.p[0..11]", "-E2BIG"),
    "k11e_array_of_struct_12.o": ("value.i[0..11].p", "more than 11 special"),
    "k11f_array_0.o": ("value.p[]", "in an array of no elements"),
    "k11g_array_of_struct_with_timer.o": ("value.i[0..1].p", "with a bpf_timer in it"),
    "k12d_10_plus_lock_timer_over.o": ("value.p0", "more than 11 special fields"),
    "k14b_packed_align4.o": ("value.p", "at offset 4, not aligned to 8 bytes"),
    "k15_typedef_ptr.o": ("value.p", "the pointer is a typedef"),
    "k16c_const_volatile_ptr.o": ("value.p", "the pointer itself is"),
    "k16d_restrict_ptr.o": ("value.p", "the pointer itself is restrict"),
    "k19b_same_tag_twice.o": ("value.p", "two tags, 'kptr' and 'kptr'"),
    "k19c_kptr_plus_rcu_tag.o": ("value.p", "two tags"),
    "k19f_kptr_ref_old_tag.o": ("value.p", "'kptr_ref': since Linux 6.4 it is kptr"),
    "k19g_decl_tag_not_type_tag.o": ("value.p", "a declaration tag here"),
    "k23_value_is_ptr.o": ("value", "the value is no struct but a pointer"),
    "k23b_value_is_array.o": ("value[0..1].p", "no struct but an array"),
    "k23c_value_is_union.o": ("value.p", "no struct but a union"),
    "k29_kptr_in_key.o": ("key.p", "in the key of a map"),
    "k34h_uptr_int.o": ("value.p", "points to an integer"),
    "k45_array_typedef_elem.o": ("value.e[0..1].p", "behind typedef el_t"),
    "k47c_user_tag_in_array.o": ("value.q[0]", "does not know the tag 'user'"),
    "k02_ref_no_dtor.o": ("value.p", "BPF_BTF_LOAD fails (-ENOENT)"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_pointer_that_is_ignored_is_listed_with_the_reason(name: str) -> None:
    path, reason = IGNORED[name]
    (found,) = kptrs_of(name).maps

    assert path in [pointer.path for pointer in found.ignored]
    assert reason in next(p.reason for p in found.ignored if p.path == path)


@pytest.mark.parametrize("name", ["k01_ref_task.o", "k11_array11.o", "k36_plain_ptr.o"])
def test_nothing_is_ignored_where_nothing_is_wrong(name: str) -> None:
    assert [found.ignored for found in kptrs_of(name).maps] == [()]


# k00b: the struct of the map has lost its tag before it comes into BTF.
def test_every_recorded_tag_is_a_field_or_has_a_reason() -> None:
    for name in ROWS:
        obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
        assert obj.btf is not None
        tagged = b"\0kptr\0" in obj.btf.strings or b"\0uptr\0" in obj.btf.strings
        listed = [(f.fields, f.ignored) for f in kptrs_of(name).maps]
        if not any(fields or ignored for fields, ignored in listed):
            assert not tagged, name
