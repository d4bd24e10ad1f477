"""What ``import ksyms`` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ksyms

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", ksyms.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(ksyms, name)

    assert value.__doc__
    assert name in dir(ksyms)


def test_all_is_sorted() -> None:
    assert ksyms.__all__ == sorted(ksyms.__all__)


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frob'"):
        _ = ksyms.frob  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import ksyms;"
        "print(sorted(set(sys.modules) - before))"
    )

    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "client")},
    )

    assert result.stdout == "['__future__', 'ksyms']\n"


@pytest.mark.parametrize(
    "error",
    [n for n in ksyms.__all__ if n.endswith("Error") and n != "KsymsError"],
)
def test_every_error_is_ours_and_a_built_in_one(error: str) -> None:
    bases = getattr(ksyms, error).__mro__

    assert ksyms.KsymsError in bases
    assert {LookupError, ValueError, PermissionError} & set(bases)
