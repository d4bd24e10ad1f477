"""A capture made from a mounted device, asked about BPF objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksyms import BpfObject, Kernel, resolve
from ksyms.capture import write_capture
from tests.integration.server import serving
from tests.ksyms import bpf_cases


@pytest.mark.fuse
@pytest.mark.kernel
def test_the_device_and_kallsyms_give_the_same_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_capture(tmp_path / "capture", device=server.device)
        image = server.device.read_bytes()
    captured, running = Kernel.load(tmp_path / "capture"), Kernel.running()

    assert (tmp_path / "capture/ksyms").read_bytes() == image
    for name in ("s29_many.o", "s05_typeless_ambiguous_weak.o", "s12_func_ok.o"):
        obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
        theirs = resolve(obj, running)
        assert resolve(obj, captured)._replace(kernel=theirs.kernel) == theirs
