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
        # Others' BPF programs may come and go between two opens; not every time.
        for attempt in range(10):
            capture = tmp_path / f"capture-{attempt}"
            write_capture(capture, device=server.device)
            image = server.device.read_bytes()
            if (capture / "ksyms").read_bytes() == image:
                break
        else:
            pytest.fail("a capture never has the bytes of the next open")
    captured, running = Kernel.load(capture), Kernel.running()

    for name in ("s29_many.o", "s05_typeless_ambiguous_weak.o", "s12_func_ok.o"):
        obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
        theirs = resolve(obj, running)
        assert resolve(obj, captured)._replace(kernel=theirs.kernel) == theirs
