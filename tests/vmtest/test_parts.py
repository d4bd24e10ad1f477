"""What the host must have, and the cache of built parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vagrant.vmtest import cli
from vagrant.vmtest.parts import (
    PACKAGES,
    MissingPartError,
    VmError,
    cache_directory,
    cached,
    require,
    run,
)


@pytest.mark.parametrize("part", [part for part in PACKAGES if part[0] != "/"])
def test_a_missing_program_is_named_with_its_package(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)

    with pytest.raises(MissingPartError, match=f"{part}: .*apt-get install") as caught:
        require(part)

    assert PACKAGES[part] in str(caught.value)


def test_without_qemu_vmtest_says_so_before_it_builds_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KSYMSFS_VM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)

    status = cli.main(["--", "true"])

    assert status == 2
    assert capsys.readouterr().err == (
        "vmtest: qemu-system-x86_64: not found; "
        "install it: apt-get install qemu-system-x86\n"
    )
    assert not (tmp_path / "cache").exists()


def test_a_failed_command_is_reported_with_what_it_said() -> None:
    with pytest.raises(VmError, match=r"^sh: exit status 3: no such release"):
        run(["sh", "-c", "echo no such release >&2; exit 3"])


def test_the_cache_is_the_users_and_can_be_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KSYMSFS_VM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/user/cache")
    assert cache_directory() == Path("/home/user/cache/ksymsfs/vm")

    monkeypatch.setenv("KSYMSFS_VM_CACHE", "/elsewhere")
    assert cache_directory() == Path("/elsewhere")


def test_a_part_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "file").write_text("content")

    first = cached(tmp_path, "kernel", "k1", build, file=False)
    second = cached(tmp_path, "kernel", "k1", build, file=False)

    assert first == second
    assert (second / "file").read_text() == "content"
    assert len(built) == 1


def test_a_part_of_another_recipe_replaces_the_old_one(tmp_path: Path) -> None:
    old = cached(tmp_path, "image", "1", lambda new: write(new, "old"), file=True)

    new = cached(tmp_path, "image", "2", lambda new: write(new, "new"), file=True)

    assert new.read_text() == "new"
    assert not old.exists()


def test_a_build_that_fails_leaves_no_part_behind(tmp_path: Path) -> None:
    def build(directory: Path) -> None:
        (directory / "half").write_text("built")
        raise VmError("mirror", "unreachable")

    with pytest.raises(VmError):
        cached(tmp_path, "kernel", "k1", build, file=False)

    assert [path.name for path in tmp_path.iterdir()] == ["kernel.lock"]


def write(path: Path, text: str) -> None:
    path.write_text(text)
