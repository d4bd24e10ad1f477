"""The cheapest way to give each row a column of its own."""

from __future__ import annotations

from collections.abc import Sequence


def cheapest_assignment(costs: Sequence[Sequence[int]]) -> list[int]:
    """The column of each row, so that the sum of *costs* is the least.

    There must be at least as many columns as rows. The Hungarian method in its shortest
    path form (Jonker and Volgenant 1987): rows squared times columns.
    """
    rows, columns = len(costs), len(costs[0]) if costs else 0
    # Index 0 stands for nothing: rows and columns are counted from 1.
    row_price, column_price = [0] * (rows + 1), [0] * (columns + 1)
    row_of = [0] * (columns + 1)
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        slack: list[float] = [float("inf")] * (columns + 1)
        came_from = [0] * (columns + 1)
        done = [False] * (columns + 1)
        while row_of[column]:
            done[column] = True
            here = row_of[column]
            best, next_column = float("inf"), 0
            for other in range(1, columns + 1):
                if done[other]:
                    continue
                reduced = (
                    costs[here - 1][other - 1] - row_price[here] - column_price[other]
                )
                if reduced < slack[other]:
                    slack[other], came_from[other] = reduced, column
                if slack[other] < best:
                    best, next_column = slack[other], other
            step = int(best)
            for other in range(columns + 1):
                if done[other]:
                    row_price[row_of[other]] += step
                    column_price[other] -= step
                else:
                    slack[other] -= step
            column = next_column
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    found = [0] * rows
    for column in range(1, columns + 1):
        if row_of[column]:
            found[row_of[column] - 1] = column - 1
    return found
