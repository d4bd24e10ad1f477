"""The FUSE bindings: which one is taken, what it is given, what it may do."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ksymsfs import mount
from ksymsfs.errors import MountError
from ksymsfs.fs import Filesystem
from ksymsfs.mount import Sweeper, load_binding, serve
from tests.ksymsfs.fakes import World


def module(name: str, **attributes: object) -> ModuleType:
    found = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(found, attribute, value)
    return found


class Binding:
    """A binding that mounts nothing; *ends* is what FUSE() does at the end."""

    def __init__(self, *, is_mfusepy: bool, starts: bool = True) -> None:
        self.starts = starts
        self.error: Exception | None = None
        self.connection = SimpleNamespace(max_background=12)
        self.options: dict[str, Any] = {}
        self.operations: Any = None
        self.mountpoint = ""
        if is_mfusepy:
            self.fuse_version_major = 3

    def FUSE(self, operations: Any, mountpoint: str, **options: Any) -> None:
        self.operations, self.options = operations, options
        self.mountpoint = mountpoint
        if self.starts:
            if hasattr(self, "fuse_version_major"):
                operations.init_with_config(self.connection, None)
            else:
                operations("init", "/")
        if self.error is not None:
            raise self.error

    def fuse_get_context(self) -> tuple[int, int, int]:
        return 0, 0, 4711


@pytest.fixture
def filesystem() -> Filesystem:
    return Filesystem(World().device, caller=lambda: 0)


def run(binding: Binding, filesystem: Filesystem) -> None:
    serve(filesystem, "/mnt", binding)  # type: ignore[arg-type]


def test_the_first_binding_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    works = module("second", FUSE=1, Operations=1)
    monkeypatch.setitem(sys.modules, "first", None)  # cannot be imported
    monkeypatch.setitem(sys.modules, "second", works)

    assert load_binding(("first", "second", "third")) is works


def test_python_fuse_is_not_taken_for_fusepy(monkeypatch: pytest.MonkeyPatch) -> None:
    works = module("second", FUSE=1, Operations=1)
    monkeypatch.setitem(sys.modules, "first", module("first", Fuse=1))
    monkeypatch.setitem(sys.modules, "second", works)

    assert load_binding(("first", "second")) is works


def test_a_binding_without_its_library_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What fusepy raises at import where there is no libfuse2.
    (tmp_path / "no_libfuse.py").write_text('raise OSError("Unable to find libfuse")')
    monkeypatch.syspath_prepend(tmp_path)
    works = module("second", FUSE=1, Operations=1)
    monkeypatch.setitem(sys.modules, "second", works)

    assert load_binding(("no_libfuse", "second")) is works


def test_a_binding_that_does_not_know_the_libfuse_there_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What mfusepy raises at import on FreeBSD where there is libfuse3 alone.
    (tmp_path / "alien.py").write_text('raise AttributeError("wrong major version: 3")')
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MountError, match="alien: wrong major version: 3"):
        load_binding(("alien",))


def test_without_any_binding_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "first", None)
    monkeypatch.setitem(sys.modules, "second", module("second"))

    with pytest.raises(MountError) as caught:
        load_binding(("first", "second"))

    message = str(caught.value)
    assert "apt install libfuse2" in message
    assert "ksymsfs[fuse3]" in message
    assert "second: not fusepy" in message


@pytest.mark.parametrize("is_mfusepy", [False, True], ids=["fusepy", "mfusepy"])
def test_releases_of_many_processes_do_not_queue_twice(
    filesystem: Filesystem, is_mfusepy: bool
) -> None:
    binding = Binding(is_mfusepy=is_mfusepy)

    run(binding, filesystem)

    # libfuse3 has no such option, and would refuse to mount.
    assert ("max_background" in binding.options) is not is_mfusepy
    assert (binding.connection.max_background == 1000) is is_mfusepy


@pytest.mark.parametrize("is_mfusepy", [False, True], ids=["fusepy", "mfusepy"])
def test_it_is_mounted_for_everybody_with_one_thread_and_lasting_attributes(
    filesystem: Filesystem, is_mfusepy: bool
) -> None:
    binding = Binding(is_mfusepy=is_mfusepy)

    run(binding, filesystem)

    options = binding.options
    for name in ("foreground", "nothreads", "raw_fi", "default_permissions"):
        assert options[name] is True
    for name in ("allow_other", "nosuid", "nodev", "noexec", "use_ino"):
        assert options[name] is True
    assert options["entry_timeout"] > 1e8
    assert options["attr_timeout"] > 1e8
    assert options["fsname"] == options["subtype"] == "ksymsfs"


def test_mfusepy_gets_operations_that_cannot_be_called(filesystem: Filesystem) -> None:
    # It warns where they can be, and finds them by attribute.
    binding = Binding(is_mfusepy=True)

    run(binding, filesystem)

    assert not callable(binding.operations)
    assert binding.operations.readlink("/ksyms") == "snapshots/1"


def test_fusepy_gets_operations_that_are_called(filesystem: Filesystem) -> None:
    binding = Binding(is_mfusepy=False)

    run(binding, filesystem)

    assert binding.operations("readlink", "/ksyms") == "snapshots/1"


def test_freebsd_is_given_what_it_knows_and_a_mount_that_is_there(
    filesystem: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, Mapping[str, object]]] = []

    @contextmanager
    def mounted(path: str, options: Mapping[str, object]) -> Iterator[str]:
        given.append((path, options))
        yield "/elsewhere"

    monkeypatch.setattr(mount, "ON_FREEBSD", True)
    monkeypatch.setattr(mount, "mounted", mounted)
    binding = Binding(is_mfusepy=True)

    run(binding, filesystem)

    ((path, kernel),) = given
    assert path == "/mnt"
    assert binding.mountpoint == "/elsewhere"
    assert kernel == {
        **dict.fromkeys(("fsname", "subtype"), "ksymsfs"),
        **dict.fromkeys(("default_permissions", "allow_other"), True),
        **dict.fromkeys(("nosuid", "noexec", "noatime"), True),
    }
    # A name would be looked up no more after ESTALE, which is not tried again there.
    assert binding.options["entry_timeout"] == 0
    assert binding.options["attr_timeout"] > 1e8


@pytest.mark.parametrize("is_mfusepy", [False, True], ids=["fusepy", "mfusepy"])
def test_an_error_before_the_start_is_a_refused_mount(
    filesystem: Filesystem, is_mfusepy: bool
) -> None:
    binding = Binding(is_mfusepy=is_mfusepy, starts=False)
    binding.error = RuntimeError(1)

    with pytest.raises(MountError, match="/mnt: libfuse refused to mount"):
        run(binding, filesystem)


def test_an_error_after_the_start_is_libfuse3s_end_by_a_signal(
    filesystem: Filesystem,
) -> None:
    binding = Binding(is_mfusepy=True)
    binding.error = RuntimeError(8)

    run(binding, filesystem)


def test_the_caller_is_the_thread_of_the_request() -> None:
    binding = Binding(is_mfusepy=False)

    assert mount.caller_of(binding) == 4711  # type: ignore[arg-type]


def test_the_sweeper_tries_to_open_what_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []
    enough = threading.Event()
    real = os.open

    def open_(path: Any, *arguments: Any, **options: Any) -> Any:
        if not str(path).startswith("/mnt/"):
            return real(path, *arguments, **options)
        tried.append(str(path))
        if len(tried) == 3:
            enough.set()
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "open", open_)
    sweeper = Sweeper("/mnt")
    sweeper.sweep(1)
    sweeper.start()
    sweeper.sweep(2)
    sweeper.sweep(3)

    assert enough.wait(20)
    assert tried == [f"/mnt/snapshots/{n}" for n in (1, 2, 3)]
