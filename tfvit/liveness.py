"""How much memory a program of steps holds at its fullest."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable, Mapping, Sequence


def peak(
    steps: Sequence[tuple[Iterable[Hashable], Iterable[Hashable]]], size: Mapping[Hashable, int]
) -> int:
    """The most that values hold at one time when steps run in order, each value freed after its last use.

    steps: what each reads, and what it makes. size: of the values; what no step reads is not held.
    """
    last = {value: i for i, (reads, _) in enumerate(steps) for value in reads}
    ends: collections.Counter = collections.Counter()
    live = most = 0
    for i, (_, made) in enumerate(steps):
        for value in made:
            if value in last:
                live += size[value]
                ends[last[value]] += size[value]
        most = max(most, live)
        live -= ends.pop(i, 0)
    return most
