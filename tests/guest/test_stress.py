"""Modules come and go many times while four processes read the device."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ksymsfs.errors import SourceChangingError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.running import RunningKernel
from tests.guest.kernel_modules import load, loading, unload
from tests.integration.server import FUSEPY, LIBFUSE3, Binding, environment, serving

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

READERS = 4

# So many opens one after another may fail with ENXIO, of three tries each. A try fails
# when a module comes or goes in the 20 ms (emulated) in which those of all modules are
# read: measured on 6.12, one in six.
IN_A_ROW = 2


@pytest.mark.parametrize(
    ("binding", "cycles"), [(FUSEPY, 200), (LIBFUSE3, 25)], ids=["fusepy", "libfuse3"]
)
def test_no_reader_sees_a_torn_image_or_an_error_that_a_retry_does_not_cure(
    binding: Binding, cycles: int, tmp_path: Path
) -> None:
    stop, reference = tmp_path / "stop", tmp_path / "reference"
    with serving(tmp_path, binding=binding) as server:
        with loading("dummy"):
            # Beyond the moment in which a module still has its init symbols.
            time.sleep(1)
            reference.write_bytes(server.device.read_bytes())
        argv = [sys.executable, "-m", "tests.guest.reader", str(server.device)]
        readers = [
            subprocess.Popen(
                [*argv, str(reference), str(stop)],
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(READERS)
        ]
        try:
            # All see both states, however seldom they come to read after that.
            all_say(readers, "without")
            load("dummy")
            all_say(readers, "with")
            unload("dummy")
            for cycle in range(cycles):
                load("dummy")
                # Mostly as fast as it goes; now and then time for a whole snapshot.
                time.sleep(0.5 if cycle % 8 == 0 else 0)
                unload("dummy")
                time.sleep(0.5 if cycle % 8 == 4 else 0)
            stop.touch()
            said = [reader.communicate(timeout=60)[0] for reader in readers]
        finally:
            stop.touch()
            for reader in readers:
                reader.kill()
                reader.wait()
        log = server.says()

    print(*said, log)
    assert [reader.returncode for reader in readers] == [0] * READERS
    seen = [json.loads(text) for text in said]
    assert all(counts["torn"] == 0 for counts in seen)
    assert max(counts["most enxio in a row"] for counts in seen) <= IN_A_ROW
    assert "Traceback" not in log


def all_say(readers: Sequence[subprocess.Popen[str]], word: str) -> None:
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == f"{word}\n"


REFUSED = "kvm_intel"
"""Without VMX its init function fails, and this processor is emulated."""


def test_a_module_that_refuses_to_load_shifts_no_symbol_and_is_not_announced(
    tmp_path: Path,
) -> None:
    load("kvm")
    show = ["modinfo", "-n", REFUSED]
    file = subprocess.check_output(show, text=True).strip()
    source = RunningKernel()
    source.snapshot()
    calm = contents(source.snapshot()[1])
    announced = Path("/sys/kernel/uevent_seqnum").read_text()
    again = f"while ! insmod {shlex.quote(file)} 2>/dev/null; do echo; done"
    refusals = tmp_path / "refusals"
    with refusals.open("w") as out:
        loads = subprocess.Popen(["sh", "-c", again], stdout=out)
    taken = 0
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                files = source.snapshot()[1]
            except SourceChangingError:
                continue
            taken += 1
            assert contents(files) == calm
        assert loads.poll() is None, "it was not refused"
    finally:
        loads.kill()
        loads.wait()
        source.close()

    assert taken
    assert refusals.stat().st_size > 10
    assert Path("/sys/kernel/uevent_seqnum").read_text() == announced


def contents(files: Sequence[LinkerFile]) -> dict[str, tuple[bytes, bytes]]:
    return {f.name: (f.symtab.tobytes(), bytes(f.strtab)) for f in files}
