"""Which kernel types a referenced kptr may point to: those with a destructor.

The kernel does not export its list (register_btf_id_dtor_kfuncs). Its own destructors
are named after the release function that they wrap, and that has the type:
bpf_task_release_dtor(void *) wraps bpf_task_release(struct task_struct *).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type
from ksyms.errors import CaptureError

_SUFFIX = "_dtor"
_NAME = re.compile(rb"[^\0]*" + _SUFFIX.encode() + rb"(?=\0)")

FoundBy = Literal["probe", "heuristic", "file"]


class Destructors(NamedTuple):
    """The struct names that a kernel accepts as targets of referenced kptrs."""

    found_by: FoundBy
    """probe: the kernel was asked (exact); heuristic: guessed from names in its BTF;
    file: somebody said so."""
    types: frozenset[str]


def guess_destructors(btf: Btf) -> Destructors:
    """The types with a ``*_release_dtor(void *)`` beside their ``*_release()``."""
    names = set()
    for function in _wrappers(btf):
        if _takes_void_pointer(btf, function.type_id):
            release = function.name.removesuffix(_SUFFIX)
            for wrapped in btf.lookup_all(release, Kind.FUNC)[:1]:
                names.add(_first_target(btf, wrapped.type_id))
    return Destructors("heuristic", frozenset(names - {""}))


# The functions of the BTF itself with such a name, which is much faster found in the
# strings (a module's can be in those of its base) than by looking at all functions.
def _wrappers(btf: Btf) -> Iterator[Type]:
    strings = btf.strings + (btf.base.strings if btf.base else b"")
    for name in dict.fromkeys(_NAME.findall(strings)):
        text = name.decode("utf-8", "surrogateescape")
        yield from btf.lookup_all(text, Kind.FUNC, own=True)


def load_destructors(path: str | Path) -> Destructors:
    """The set in the JSON file *path*: {"accepted_ref_targets": [name ...]}.

    Raises OSError and CaptureError.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        names = content["accepted_ref_targets"]
    except (ValueError, TypeError, LookupError) as error:
        raise CaptureError(
            str(path), 'no JSON object with a list "accepted_ref_targets"'
        ) from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise CaptureError(str(path), '"accepted_ref_targets" is no list of names')
    return Destructors("file", frozenset(names))


def _takes_void_pointer(btf: Btf, proto_id: int) -> bool:
    proto = btf.skip_modifiers(proto_id)
    if proto.kind is not Kind.FUNC_PROTO or proto.vlen != 1 or proto.type_id:
        return False
    pointer = btf.skip_modifiers(btf.params(proto)[0].type_id)
    return (
        pointer.kind is Kind.PTR
        and btf.skip_modifiers(pointer.type_id).kind is Kind.VOID
    )


def _first_target(btf: Btf, proto_id: int) -> str:
    proto = btf.skip_modifiers(proto_id)
    if proto.kind is not Kind.FUNC_PROTO or not proto.vlen:
        return ""
    pointer = btf.skip_modifiers(btf.params(proto)[0].type_id)
    if pointer.kind is not Kind.PTR:
        return ""
    target = btf.skip_modifiers(pointer.type_id)
    return target.name if target.kind is Kind.STRUCT else ""
