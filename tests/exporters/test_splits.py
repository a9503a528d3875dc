"""Splits by micrograph."""

import pytest

from vitreous.exporters.splits import SPLITS, assign_splits


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (8, 1, 1)), (300, (240, 30, 30))]
)
def test_sizes(n: int, expected: tuple[int, int, int]) -> None:
    splits = list(assign_splits([f"m{i}" for i in range(n)]).values())
    assert tuple(splits.count(name) for name in SPLITS) == expected


def test_only_the_names_decide() -> None:
    names = [f"m{i}" for i in range(40)]
    assert assign_splits(names) == assign_splits(names[::-1])
    in_order = [assign_splits(names)[name] for name in names]
    assert in_order != sorted(in_order)
