"""A task: prompt pairs that differ in what must come next, written as templates with slots (METHOD 1e, D3, D10).

A task is data, not code, so a built-in task and one read from a JSONL file are the same thing:
1. A `Template` holds the prompts of class A and class B. `<word>` in it is a slot: it is filled from the list `word`;
   `<word2>` is a further, different word of the same list. Only declared lists make slots, so `a < b` stays code.
2. Lists in `fillers` have words of their own per split; lists in `fixed` belong to the definition and are shared.
3. All combinations of a template and its words form a numbered space. A split is walked in a random order that is a
   permutation of that space made step by step, so spaces of any size cost nothing and no pair comes twice; templates
   take turns. The first n pairs are the same for every larger n.
4. `pairs` tokenises, refuses what is not well posed under this tokenizer (pairs.py) and returns a frozen batch.
   `check.py` tests the rest of the conditions.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import prod
from random import Random
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..data.tokenizer import token_text
from ..files import json_hash
from .pairs import EncodedPair, Pair, Pairs, encode_pairs, pack

SPLITS = ("train", "val", "test")
_PATIENCE = 2000  # pairs in a row with unusable tokens after which a template counts as exhausted
SLOT = re.compile(r"<([A-Za-z_]\w*)>")


@dataclass(frozen=True)
class Template:
    """The two prompts of a pair before their slots are filled."""

    a: str
    """prompt of class A"""
    b: str
    """prompt of class B"""
    continuation_a: str = ""
    """natural text after completion A, e.g. `x = 1\\n`; it is never shown to the model"""
    continuation_b: str = ""
    """the same after completion B"""
    completions: tuple[str, str] | None = None
    """completions of this template; None: those of the task"""

    def slots(self, lists: Collection[str]) -> dict[str, str]:
        """slot -> list it draws from, in the order in which the prompts first name them."""
        found = {}
        for name in SLOT.findall(self.a + self.b):
            source = slot_source(name, lists)
            if source is not None:
                found[name] = source
        return found


@dataclass(frozen=True)
class Task:
    """A named kind of prompt pairs. Raises ValueError, one line, where the definition contradicts itself."""

    name: str
    statement: str
    """what the model has to do, one sentence for people"""
    determined_by: str
    """how the prompt determines the answer (METHOD D3)"""
    completions: tuple[str, str]
    """texts of completion A and B; they may hold slots of the prompts"""
    templates: Mapping[str, tuple[Template, ...]]
    """split -> templates"""
    fillers: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """list -> split -> words"""
    fixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """list -> words that the definition fixes for all splits"""

    def __post_init__(self) -> None:
        for where, splits in (("templates", self.templates), *((f"list {k!r}", v) for k, v in self.fillers.items())):
            if set(splits) != set(SPLITS) or not all(splits.values()):
                given = ", ".join(split for split in splits if splits[split]) or "nothing"
                raise ValueError(f"task {self.name!r}: {where} given for {given}; give all of {', '.join(SPLITS)}")
        if shared := set(self.fillers) & set(self.fixed):
            raise ValueError(f"task {self.name!r}: list {min(shared)!r} is both per split and fixed; declare it once")
        for split in SPLITS:
            for name, words in self.words(split).items():
                if not words or len(set(words)) < len(words) or not all(words):
                    found = "no words" if not words else "an empty or repeated word"
                    raise ValueError(f"task {self.name!r}: list {name!r} has {found} in {split}; give different words")
            for index, template in enumerate(self.templates[split]):
                self._check_slots(f"task {self.name!r}, {split} template {index}", template, self.words(split))

    def _check_slots(self, where: str, template: Template, words: Mapping[str, tuple[str, ...]]) -> None:
        slots = template.slots(words)
        for text in (*self.completions_of(template), template.continuation_a, template.continuation_b):
            unknown = [name for name in SLOT.findall(text) if slot_source(name, words) and name not in slots]
            if unknown:
                raise ValueError(f"{where}: {text!r} uses <{unknown[0]}>, which its prompts do not; use one of theirs")
        for source in set(slots.values()):
            needed, there = list(slots.values()).count(source), len(words[source])
            if needed > there:
                raise ValueError(f"{where} needs {needed} words of list {source!r}, which has {there}; add words")

    @cached_property
    def hash(self) -> str:
        """sha256 of everything that decides which pairs are drawn; the two sentences for people do not count."""
        content = self.to_dict()
        return json_hash({key: value for key, value in content.items() if key not in ("statement", "determined_by")})

    @property
    def fixed_completions(self) -> bool:
        """True where every pair of the task has the same two completions."""
        texts = {self.completions_of(t) for split in SPLITS for t in self.templates[split]}
        lists = {**self.fillers, **self.fixed}
        names = (name for pair in texts for name in SLOT.findall("".join(pair)))
        return len(texts) == 1 and not any(slot_source(name, lists) for name in names)

    def completions_of(self, template: Template) -> tuple[str, str]:
        """Completion texts A, B of a template of this task, slots unfilled."""
        return template.completions or self.completions

    def words(self, split: str) -> dict[str, tuple[str, ...]]:
        """list -> its words in a split, the fixed ones included."""
        return {**{name: splits[split] for name, splits in self.fillers.items()}, **self.fixed}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.name,
            "statement": self.statement,
            "determined_by": self.determined_by,
            "completions": list(self.completions),
            "slots": {name: {split: list(splits[split]) for split in SPLITS} for name, splits in self.fillers.items()},
            "fixed": {name: list(words) for name, words in self.fixed.items()},
            "templates": {split: [_template_dict(t) for t in self.templates[split]] for split in SPLITS},
        }

    def count(self, split: str) -> int:
        """How many combinations of template and words a split has; the number of distinct pairs is at most this."""
        words = self.words(_known(split))
        return sum(prod(_radices(t.slots(words), words)) for t in self.templates[split])

    def sample(self, split: str, n: int, seed: int = 0) -> tuple[Pair, ...]:
        """The first n distinct pairs as text (all where there are fewer), before any tokenizer or model has a say."""
        streams = [((pair, None) for pair in self._candidates(split, index, seed)) for index in self._indices(split, n)]
        return tuple(pair for pair, _ in _take_turns(streams, n))

    def pairs(
        self, split: str, n: int, tokenizer: Any, seed: int = 0, usable: Bool[Tensor, "V"] | None = None
    ) -> Pairs:
        """Draws n distinct pairs, balanced over templates; the same ones for the same (task, split, seed, tokenizer).

        `n`: how many; where the split has fewer, all of them (`.n` says how many). `usable`: True for tokens whose
        embedding row is not zero (METHOD D2); pairs with any other token are passed over, and a template is given up
        after 2,000 of them in a row. Raises ValueError, one line, where a pair is not well posed under this tokenizer
        or where no pair has usable tokens only.
        """
        usable_ids = None if usable is None else frozenset(usable.nonzero().flatten().tolist())
        unusable: dict[int, int] = {}
        indices = self._indices(split, n)
        chunk = max(16, -(-n // len(indices)))
        streams = [self._accepted(split, index, seed, tokenizer, usable_ids, unusable, chunk) for index in indices]
        chosen = [encoded for _, encoded in _take_turns(streams, n)]
        if not chosen:
            worst = sorted(unusable, key=lambda token: -unusable[token])[:8]
            names = ", ".join(repr(token_text(tokenizer, token)) for token in worst)
            raise ValueError(
                f"task {self.name!r}, {split}: every pair holds a token without embedding in this model ({names}); "
                "use a model trained on text that contains them, or other words"
            )
        return pack(chosen, self.fixed_completions)

    def _indices(self, split: str, n: int) -> range:
        if n < 1:
            raise ValueError(f"task {self.name!r}: {n} pairs asked for; ask for at least 1")
        return range(len(self.templates[_known(split)]))

    def _candidates(self, split: str, index: int, seed: int) -> Iterator[Pair]:
        """Every combination of one template, once, in random order."""
        template, words = self.templates[split][index], self.words(split)
        slots = template.slots(words)
        radices = _radices(slots, words)
        texts = (template.a, template.b, *self.completions_of(template))
        for number in _permutation(prod(radices), Random(f"{self.name}|{split}|{seed}|{index}")):
            values = _unrank(number, slots, radices, words)
            a, b, completion_a, completion_b = (_fill(text, values) for text in texts)
            after = (_fill(text, values) for text in (template.continuation_a, template.continuation_b))
            yield Pair(a, b, completion_a, completion_b, index, *after)

    def _accepted(
        self,
        split: str,
        index: int,
        seed: int,
        tokenizer: Any,
        usable: frozenset[int] | None,
        unusable: dict[int, int],
        chunk: int,
    ) -> Iterator[tuple[Pair, EncodedPair]]:
        """What the model can read of one template, tokenised `chunk` at a time; counts the tokens it cannot."""
        candidates, rejected = self._candidates(split, index, seed), 0
        while batch := list(islice(candidates, chunk)):
            for encoded in encode_pairs(tokenizer, batch):
                for fault in encoded.faults:
                    raise ValueError(f"task {self.name!r}, {split} template {index}: {fault.detail}; {fault.fix}")
                used = {*encoded.prompts[0], *encoded.prompts[1], *encoded.completions}
                missing = used - usable if usable is not None else ()
                for token in missing:
                    unusable[token] = unusable.get(token, 0) + 1
                rejected = rejected + 1 if missing else 0
                if rejected >= _PATIENCE:
                    return
                if not missing:
                    yield encoded.pair, encoded


def _take_turns(streams: Sequence[Iterator[tuple[Pair, Any]]], n: int) -> list[tuple[Pair, Any]]:
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


def _permutation(total: int, rng: Random) -> Iterator[int]:
    """range(total) in random order, one at a time: Fisher-Yates that stores only the entries it moved."""
    moved: dict[int, int] = {}
    for here in range(total):
        there = rng.randrange(here, total)
        value, displaced = moved.get(there, there), moved.pop(here, here)
        if there != here:
            moved[there] = displaced
        yield value


def _radices(slots: Mapping[str, str], words: Mapping[str, tuple[str, ...]]) -> list[int]:
    """How many words are left for each slot when earlier slots of its list have taken theirs."""
    sources = list(slots.values())
    return [len(words[source]) - sources[:i].count(source) for i, source in enumerate(sources)]


def _unrank(
    number: int, slots: Mapping[str, str], radices: Sequence[int], words: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """slot -> word of combination `number`; slots of one list get different words."""
    taken: dict[str, list[int]] = {}
    values = {}
    for (slot, source), radix in zip(slots.items(), radices, strict=True):
        number, place = divmod(number, radix)
        for used in sorted(taken.setdefault(source, [])):
            place += place >= used
        taken[source].append(place)
        values[slot] = words[source][place]
    return values


def slot_source(name: str, lists: Collection[str]) -> str | None:
    """The list a slot draws from: `word` and `word2` draw from `word`; None where there is no such list."""
    return next((source for source in (name, name.rstrip("0123456789")) if source in lists), None)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return SLOT.sub(lambda match: values.get(match[1], match[0]), text)


def _template_dict(template: Template) -> dict[str, Any]:
    values: dict[str, Any] = {"a": template.a, "b": template.b}
    values |= {key: value for key in ("continuation_a", "continuation_b") if (value := getattr(template, key))}
    return values | ({"completions": list(template.completions)} if template.completions else {})


def _known(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    return split
