"""Drawing without repetition from spaces too large to list: all combinations of a template and its words.

Combinations are numbered; a permutation of the numbers is made step by step, and templates take turns.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any


def take_turns(streams: Sequence[Iterator[tuple[Any, Any]]], n: int) -> list[tuple[Any, Any]]:
    """Up to n items with distinct prompts, one from each stream in turn; a stream that ends drops out."""
    alive, seen, chosen = list(streams), set(), []
    while alive and len(chosen) < n:
        for stream in tuple(alive):
            item = next((item for item in stream if item[0][:2] not in seen), None)
            if item is None:
                alive.remove(stream)
            elif len(chosen) < n:
                seen.add(item[0][:2])
                chosen.append(item)
    return chosen


def permutation(total: int, rng: Random) -> Iterator[int]:
    """range(total) in random order, one at a time: Fisher-Yates that stores only the entries it moved."""
    moved: dict[int, int] = {}
    for here in range(total):
        there = rng.randrange(here, total)
        value, displaced = moved.get(there, there), moved.pop(here, here)
        if there != here:
            moved[there] = displaced
        yield value


def radices(slots: Mapping[str, str], words: Mapping[str, tuple[str, ...]]) -> list[int]:
    """How many words are left for each slot when earlier slots of its list have taken theirs."""
    sources = list(slots.values())
    return [len(words[source]) - sources[:i].count(source) for i, source in enumerate(sources)]


def unrank(
    number: int, slots: Mapping[str, str], sizes: Sequence[int], words: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """slot -> word of combination `number`; slots of one list get different words."""
    taken: dict[str, list[int]] = {}
    values = {}
    for (slot, source), radix in zip(slots.items(), sizes, strict=True):
        number, place = divmod(number, radix)
        for used in sorted(taken.setdefault(source, [])):
            place += place >= used
        taken[source].append(place)
        values[slot] = words[source][place]
    return values
