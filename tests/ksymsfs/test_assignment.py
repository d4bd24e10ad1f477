"""The cheapest assignment, against all that there are."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksymsfs.assignment import cheapest_assignment


def total(costs: list[list[int]], columns: tuple[int, ...] | list[int]) -> int:
    return sum(row[column] for row, column in zip(costs, columns, strict=True))


@st.composite
def tables(draw: st.DrawFn) -> list[list[int]]:
    columns = draw(st.integers(1, 6))
    rows = draw(st.integers(0, columns))
    cost = st.integers(-5, 5) | st.sampled_from([1_000_000, -1_000])
    return [[draw(cost) for _ in range(columns)] for _ in range(rows)]


@settings(derandomize=True, max_examples=500, deadline=None)
@given(tables())
def test_no_other_assignment_is_cheaper(costs: list[list[int]]) -> None:
    found = cheapest_assignment(costs)

    assert len(set(found)) == len(found) == len(costs)
    columns = len(costs[0]) if costs else 0
    every = permutations(range(columns), len(costs))
    assert total(costs, found) == min(total(costs, other) for other in every)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], []),
        ([[3]], [0]),
        ([[1, 2]], [0]),
        ([[2, 1]], [1]),
        ([[1, 2], [1, 9]], [1, 0]),
        ([[5, 5, 0], [5, 0, 5], [0, 5, 5]], [2, 1, 0]),
    ],
)
def test_the_cheapest_one(costs: list[list[int]], expected: list[int]) -> None:
    assert cheapest_assignment(costs) == expected


def test_sixty_four_take_no_time_to_speak_of() -> None:
    costs = [[(i * 37 + j * 91) % 101 for j in range(64)] for i in range(64)]

    assert sorted(cheapest_assignment(costs)) == list(range(64))
