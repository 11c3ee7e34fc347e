"""Turns: the slow tests share out the days. Each comes once in n days, and no day takes longer than its limit."""

import hashlib
import math
from collections.abc import Mapping

LIMIT = 4.0  # CPU minutes of a day


def _fill(minutes: Mapping[str, float], limit: float, n: int) -> list[list[str]] | None:
    "The names in n turns, or None where they do not fit."
    first = {name: int(hashlib.sha256(name.encode()).hexdigest(), 16) for name in minutes}
    turns: list[list[str]] = [[] for _ in range(n)]
    load = [0.0] * n
    for name in sorted(minutes, key=lambda name: (-minutes[name], first[name])):
        free = (k % n for k in range(first[name] % n, first[name] % n + n))
        place = next((k for k in free if not turns[k] or load[k] + minutes[name] <= limit), None)
        if place is None:
            return None
        turns[place].append(name)
        load[place] += minutes[name]
    return turns


def share_out(minutes: Mapping[str, float], limit: float = LIMIT) -> list[list[str]]:
    """The names of each turn, in as few turns as this rule needs: a name's hash says at which turn to begin; the first with room takes it.

    So a new name moves few others, as long as the number of turns stays. A name that takes more than `limit` has a turn of its own.
    """
    n = max(1, math.ceil(sum(min(one, limit) for one in minutes.values()) / limit - 1e-9))
    while (turns := _fill(minutes, limit, n)) is None:
        n += 1
    return turns
