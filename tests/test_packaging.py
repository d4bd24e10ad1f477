"""The distribution: metadata, what a wheel and an sdist carry, what they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import ksymsfs

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


MANUALS = ["ksyms.1", "mkksyms.1", "ksyms.4", "ksymsfs.8"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The wheel is built from the sdist, so that both are shown to be complete. The
    # build back end is the one installed here: no network is needed.
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def test_the_wheel_has_both_packages_typed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"ksymsfs-{ksymsfs.__version__}.dist-info"

    assert {name.split("/")[0] for name in names} - {
        f"ksymsfs-{ksymsfs.__version__}.data"
    } == {"ksymsfs", "ksyms", info}
    assert {"ksymsfs/py.typed", "ksyms/py.typed"} <= names
    assert f"{info}/licenses/LICENSE" in names


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    modules = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "ksymsfs"), (ROOT / "client", "ksyms"))
        for path in (base / package).rglob("*.py")
    }

    with zipfile.ZipFile(wheel) as archive:
        assert modules <= set(archive.namelist())


def test_manuals_completions_and_service_files_are_installed_and_only_so(
    wheel: Path,
) -> None:
    data = f"ksymsfs-{ksymsfs.__version__}.data/data"
    manuals = {f"share/man/man{page[-1]}/{page}" for page in MANUALS}
    completions = {
        f"share/{place.format(command)}"
        for command in PROJECT["scripts"]
        for place in (
            "bash-completion/completions/{}",
            "zsh/site-functions/_{}",
            "fish/vendor_completions.d/{}.fish",
        )
    }
    services = {"lib/systemd/system/ksymsfs.service", "etc/rc.d/ksymsfs"}

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        script = archive.getinfo(f"{data}/etc/rc.d/ksymsfs")

    expected = {f"{data}/{path}" for path in manuals | completions | services}
    assert {name for name in names if ".data/" in name} == expected
    assert script.external_attr >> 16 & 0o111 == 0o111
    inside = {name for name in names if name.startswith(("ksyms/", "ksymsfs/"))}
    assert {Path(name).suffix for name in inside} <= {".py", ".typed", ".toml"}


def test_the_sdist_has_the_tests_and_their_data(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")

    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {
        "LICENSE",
        "Makefile",
        "README.md",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/data/README.md",
        ".ci/setup",
    } <= names


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_each_command_runs_from_an_installed_wheel(
    wheel: Path, tmp_path: Path, command: str
) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps"),
            *("--no-index", "--target", str(tmp_path), str(wheel)),
        ],
        check=True,
    )

    result = subprocess.run(
        [tmp_path / "bin" / command, "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )

    assert re.search(rf"\b{re.escape(ksymsfs.__version__)}$", result.stdout.strip())


def test_dependencies_are_the_three_that_were_chosen() -> None:
    names = {re.split(r"[<>=!~ ]", text)[0] for text in PROJECT["dependencies"]}

    assert names == {"fusepy", "pyelftools", "numpy"}
    assert [
        re.split(r"[<>=]", text)[0]
        for text in PROJECT["optional-dependencies"]["fuse3"]
    ] == ["mfusepy"]
