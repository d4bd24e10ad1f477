"""Facts: what a capture says of its kernel beside symbols and types."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, get_args

from ksyms.destructors import Destructors, FoundBy
from ksyms.errors import CaptureError

FORMAT = 1


class Facts(NamedTuple):
    """None stands for what nobody knows."""

    release: str | None = None
    """uname -r."""
    machine: str | None = None
    """uname -m."""
    kallsyms_all: bool | None = None
    """CONFIG_KALLSYMS_ALL: whether kallsyms has data symbols, not functions alone."""
    destructors: Destructors | None = None
    """The types that referenced kptrs may point to."""
    modules: tuple[str, ...] = ()
    """Modules with BTF, in the order of their BTF ids: that of their loading."""
    page_size: int | None = None
    """Bytes."""

    def to_json(self) -> str:
        """The text of a capture's facts.json."""
        destructors = self.destructors and {
            "found_by": self.destructors.found_by,
            "types": sorted(self.destructors.types),
        }
        content = {
            "format": FORMAT,
            "release": self.release,
            "machine": self.machine,
            "kallsyms_all": self.kallsyms_all,
            "destructors": destructors,
            "page_size": self.page_size,
            "modules": self.modules,
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes, path: str) -> Facts:
        """Read a facts.json; *path* is for messages. Raises CaptureError."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CaptureError(path, f"not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CaptureError(path, f'no facts of a capture with "format": {FORMAT}')
        reader = _Reader(content, path)
        return cls(
            reader.get("release", str),
            reader.get("machine", str),
            reader.get("kallsyms_all", bool),
            _destructors(reader),
            tuple(reader.names("modules")),
            reader.get("page_size", int),
        )


def _destructors(reader: _Reader) -> Destructors | None:
    content = reader.get("destructors", dict)
    if content is None:
        return None
    inner = _Reader(content, reader.path)
    found_by = inner.get("found_by", str)
    for known in get_args(FoundBy):
        if found_by == known:
            return Destructors(known, frozenset(inner.names("types")))
    raise CaptureError(reader.path, f'"found_by" is {found_by!r}')


class _Reader:
    def __init__(self, content: dict[str, Any], path: str) -> None:
        self.content = content
        self.path = path

    def get(self, key: str, kind: type) -> Any:
        value = self.content.get(key)
        if value is not None and not isinstance(value, kind):
            raise CaptureError(self.path, f'"{key}" is {value!r}, no {kind.__name__}')
        return value

    def names(self, key: str) -> list[str]:
        names = self.get(key, list) or []
        for name in names:
            if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
                raise CaptureError(self.path, f'"{key}" has {name!r}, which is no name')
        return names
