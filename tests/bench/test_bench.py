"""The benchmark runs, and says what it measured. No time is asserted anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.__main__ import main
from bench.goals import Goal, goals
from bench.measure import Item, ProbeError, Results, Sample, run
from bench.prepare import _C_PEERS, HERE
from bench.probe import build
from bench.report import Verdict, as_text, judge
from bench.synthetic import kallsyms_table

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler"
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    directory = tmp_path_factory.mktemp("bench")
    arguments = ["--rounds", "2", "--sizes", "1000,20000", "--trace", "1000"]
    arguments += ["--kallsyms", str(data / "demo/kallsyms.txt")]
    arguments += ["--build", str(directory / "build"), "--output", str(directory)]
    assert main([*arguments, "--only", "build", "--only", "load"]) == 0
    return directory


@pytest.fixture(scope="module")
def report(outcome: Path) -> dict[str, Any]:
    found = json.loads((outcome / "results.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_json_has_every_measurement_with_time_and_memory(
    report: dict[str, Any],
) -> None:
    items = {item["name"]: item for item in report["items"]}

    assert {"ksymsfs: build, 1000 symbols", "ksyms: load + first symbolize"} <= set(
        items
    )
    for item in items.values():
        assert item["cpu"] > 0
        assert item["wall"] > 0
        assert item["rss"] > 1000
        assert item["rounds"] == 2


def test_every_goal_has_a_verdict_and_those_without_peers_are_not_measured(
    report: dict[str, Any],
) -> None:
    verdicts = {goal["what"]: goal for goal in report["goals"]}

    assert len(verdicts) == len(goals([42, 1000, 20000]))
    for goal in report["goals"]:
        assert ("at_most" in goal) != ("at_least" in goal)
        assert (goal["measured"] is None) == (goal["verdict"] == "not measured")
    assert verdicts["build 1000, memory"]["verdict"] == "met"
    assert verdicts["symbolize / drgn"]["verdict"] == "not measured"


def test_the_peers_that_are_missing_are_named_with_the_reason(
    report: dict[str, Any],
) -> None:
    assert report["missing"]["bcc"]
    assert report["missing"]["blazesym"].startswith("Rust")


def test_the_text_shows_what_the_json_holds(
    outcome: Path, report: dict[str, Any]
) -> None:
    text = (outcome / "results.txt").read_text()

    assert text == as_text(report)
    for entry in [*report["goals"], *report["items"]]:
        assert entry.get("what", entry.get("name")) in text


def test_the_chart_is_an_svg_document_with_the_growth_in_it(outcome: Path) -> None:
    root = ElementTree.parse(outcome / "results.svg").getroot()
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]

    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert any(word and "number of symbols" in word for word in words)


@needs_compiler
def test_the_c_builder_makes_the_same_image_to_the_byte(
    outcome: Path, tmp_path: Path
) -> None:
    table = outcome / "build/kallsyms_20000"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    subprocess.run(
        [outcome / "build/build_image", table, theirs],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    build(str(table), str(ours))

    assert ours.read_bytes() == theirs.read_bytes()


def test_a_synthetic_table_has_the_shape_of_a_real_one() -> None:
    lines = kallsyms_table(5000, 20).decode().splitlines()
    kernel = [line for line in lines if "\t" not in line]
    modules = list(dict.fromkeys(line.partition("\t")[2] for line in lines))[1:]
    addresses = [line[:16] for line in kernel]

    assert len(lines) == 5000
    assert len(kernel) == 3000
    assert modules == [f"[module_{number:03}]" for number in reversed(range(20))]
    assert addresses == sorted(addresses)
    assert lines[3000:] != sorted(lines[3000:])
    assert kallsyms_table(5000, 20) == kallsyms_table(5000, 20)


def sample(cpu: float, ops: int = 1) -> Sample:
    return Sample(cpu, cpu, ops, 0, 0)


def test_a_ratio_compares_what_ran_in_the_same_round() -> None:
    results = Results()
    # A machine that is ten times as slow in the second round, and a third without us.
    for number, speed in enumerate((1, 10, 1)):
        results.add("theirs", number, sample(2 * speed))
    for number, speed in enumerate((1, 10)):
        results.add("ours", number, sample(600 * speed, ops=100))

    assert results.ratio("ours", "theirs") == 3


@pytest.mark.parametrize(
    ("at_least", "value", "word"),
    [
        (False, 1.4, "met"),
        (False, 1.6, "missed"),
        (True, 1.6, "met"),
        (True, 1, "missed"),
    ],
)
def test_a_goal_is_met_up_to_its_limit(at_least: bool, value: float, word: str) -> None:
    goal = Goal("something", 1.5, ("us",), lambda results: value, at_least=at_least)
    results = Results()
    results.add("us", 0, sample(1))

    assert [v.word for v in judge([goal], results)] == [word]
    assert Verdict(goal, None).word == "not measured"


def test_a_program_that_fails_is_an_error_with_its_message() -> None:
    with pytest.raises(ProbeError, match="broken: no such thing"):
        run(Item("broken", ("sh", "-c", "echo no such thing >&2; exit 3")))


def test_every_c_program_is_one_that_the_harness_compiles() -> None:
    sources = {path.stem for path in (HERE / "peers").glob("*.c")}

    assert sources == {name.rstrip("23") for name in _C_PEERS}
