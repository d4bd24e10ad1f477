"""The import rules: two packages that never meet, and arrows that go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "ksymsfs").rglob("*.py")) + sorted(
    (ROOT / "client" / "ksyms").rglob("*.py")
)


def module_name(path: Path) -> str:
    relative = path.relative_to(
        ROOT / "client" if "client" in path.relative_to(ROOT).parts else ROOT
    ).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


GRAPH = {module_name(path): sorted(set(imports(path))) for path in SOURCES}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_the_packages_never_import_each_other(module: str) -> None:
    other = "ksyms" if module.split(".")[0] == "ksymsfs" else "ksymsfs"

    assert [i for i in GRAPH[module] if i.split(".")[0] == other] == []


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_only_mount_loads_the_fuse_binding(module: str) -> None:
    bindings = {"fuse", "fusepy", "mfusepy"}

    found = {i.split(".")[0] for i in GRAPH[module]} & bindings

    assert not found or module == "ksymsfs.mount"


def test_imports_have_no_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for name in GRAPH[module]:
            if name in GRAPH and name != module:
                visit(name, (*path, module))
        done.add(module)

    for module in GRAPH:
        # The package modules only re-export: everything may be below them.
        visit(module, ())
