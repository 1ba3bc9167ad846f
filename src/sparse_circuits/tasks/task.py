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
5. Beside train, val and test a task may declare shifted splits (longer context, deeper nesting, new names, other fillers): the
   same question asked out of distribution (METHOD F14). They are drawn like any split, and nothing is trained or chosen on them.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import prod
from random import Random
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..data.tokenizer import encode_batch, token_text
from ..files import json_hash
from .draw import permutation, radices, take_turns, unrank
from .pairs import EncodedPair, Pair, Pairs, encode_pairs, pack

SPLITS = ("train", "val", "test")
_Passed = Counter[
    int | str
]  # why pairs were passed over: a token without embedding, or what is wrong with a completion
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
class Shift:
    """A shifted split: templates of its own, and words that replace those of test; all other lists are test's."""

    templates: tuple[Template, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """list -> words"""


class UnusableTokens(ValueError):
    """A completion or a prompt is not well posed under a tokenizer: the task cannot be asked with it."""


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
    shifted: Mapping[str, Shift] = field(default_factory=dict)
    """name of a shifted split -> what it asks"""

    def __post_init__(self) -> None:
        for where, splits in (("templates", self.templates), *((f"list {k!r}", v) for k, v in self.fillers.items())):
            if set(splits) != set(SPLITS) or not all(splits.values()):
                given = ", ".join(split for split in splits if splits[split]) or "nothing"
                raise ValueError(f"task {self.name!r}: {where} given for {given}; give all of {', '.join(SPLITS)}")
        if shared := set(self.fillers) & set(self.fixed):
            raise ValueError(f"task {self.name!r}: list {min(shared)!r} is both per split and fixed; declare it once")
        if taken := set(self.shifted) & set(SPLITS):
            raise ValueError(f"task {self.name!r}: shifted split {min(taken)!r} has the name of a split; give another")
        for split in self.splits:
            if unknown := set(self.shifted[split].words if split in self.shifted else ()) - set(self.words("test")):
                raise ValueError(
                    f"task {self.name!r}: {split} has words for {min(unknown)!r}, which is no list; use one"
                )
            for name, words in self.words(split).items():
                if not words or len(set(words)) < len(words) or not all(words):
                    found = "no words" if not words else "an empty or repeated word"
                    raise ValueError(f"task {self.name!r}: list {name!r} has {found} in {split}; give different words")
            for index, template in enumerate(self.templates_of(split)):
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
        return len(texts) == 1 and not self.drawn_completions

    @cached_property
    def drawn_completions(self) -> bool:
        """True where completions hold slots: a word that the tokenizer splits is then passed over, not an error."""
        templates = [t for split in self.splits for t in self.templates_of(split)]
        names = (name for t in templates for name in SLOT.findall("".join(self.completions_of(t))))
        return any(slot_source(name, {**self.fillers, **self.fixed}) for name in names)

    def completions_of(self, template: Template) -> tuple[str, str]:
        """Completion texts A, B of a template of this task, slots unfilled."""
        return template.completions or self.completions

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test, and the shifted splits."""
        return (*SPLITS, *self.shifted)

    def templates_of(self, split: str) -> tuple[Template, ...]:
        """Templates of a split, shifted or not. Raises ValueError for a name that is no split of this task."""
        if split in self.shifted:
            return self.shifted[split].templates
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r} of task {self.name!r}; allowed: {', '.join(self.splits)}")
        return self.templates[split]

    def words(self, split: str) -> dict[str, tuple[str, ...]]:
        """list -> its words in a split, the fixed ones included; a shifted split has those of test but for its own."""
        own = self.shifted[split].words if split in self.shifted else {}
        base = "test" if split in self.shifted else split
        return {**{name: splits[base] for name, splits in self.fillers.items()}, **self.fixed, **own}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        shifted = {
            name: {
                "templates": [_template_dict(t) for t in s.templates],
                "words": {k: list(w) for k, w in s.words.items()},
            }
            for name, s in self.shifted.items()
        }
        return {
            "task": self.name,
            "statement": self.statement,
            "determined_by": self.determined_by,
            "completions": list(self.completions),
            "slots": {name: {split: list(splits[split]) for split in SPLITS} for name, splits in self.fillers.items()},
            "fixed": {name: list(words) for name, words in self.fixed.items()},
            "templates": {split: [_template_dict(t) for t in self.templates[split]] for split in SPLITS},
            **({"shifted": shifted} if shifted else {}),
        }

    def count(self, split: str) -> int:
        """How many combinations of template and words a split has; the number of distinct pairs is at most this."""
        templates, words = self.templates_of(split), self.words(split)
        return sum(prod(radices(t.slots(words), words)) for t in templates)

    def sample(self, split: str, n: int, seed: int = 0) -> tuple[Pair, ...]:
        """The first n distinct pairs as text (all where there are fewer), before any tokenizer or model has a say."""
        indices, words = self._indices(split, n), self.words(split)
        streams = [((pair, None) for pair in self._candidates(split, index, seed, words)) for index in indices]
        return tuple(pair for pair, _ in take_turns(streams, n))

    def pairs(
        self, split: str, n: int, tokenizer: Any, seed: int = 0, usable: Bool[Tensor, "V"] | None = None
    ) -> Pairs:
        """Draws n distinct pairs, balanced over templates; the same ones for the same (task, split, seed, tokenizer).

        `n`: how many; where the split has fewer, all of them (`.n` says how many). `usable`: True for tokens whose
        embedding row is not zero (METHOD D2); pairs with any other token are passed over, as are those whose completions
        draw words that this tokenizer splits, and a template is given up after 2,000 of them in a row. Raises ValueError,
        one line: UnusableTokens where a pair is not well posed under this tokenizer or where no pair has usable tokens.
        """
        usable_ids = None if usable is None else frozenset(usable.nonzero().flatten().tolist())
        passed: Counter[int] = Counter()
        indices = self._indices(split, n)
        chunk = max(16, -(-n // len(indices)))
        streams = [self._accepted(split, index, seed, tokenizer, usable_ids, chunk, passed) for index in indices]
        chosen = [encoded for _, encoded in take_turns(streams, n)]
        if not chosen:
            worst = [token for token, _ in passed.most_common() if isinstance(token, int)][:8]
            if not worst:
                raise UnusableTokens(
                    f"{next(iter(passed))}; use a tokenizer trained on text with these words, or other words"
                )
            names = ", ".join(repr(token_text(tokenizer, token)) for token in worst)
            raise UnusableTokens(
                f"task {self.name!r}, {split}: every pair holds a token without embedding in this model ({names}); "
                "use a model trained on text that contains them, or other words"
            )
        return pack(chosen, self.fixed_completions)

    def _indices(self, split: str, n: int) -> range:
        if n < 1:
            raise ValueError(f"task {self.name!r}: {n} pairs asked for; ask for at least 1")
        return range(len(self.templates_of(split)))

    def _candidates(self, split: str, index: int, seed: int, words: Mapping[str, tuple[str, ...]]) -> Iterator[Pair]:
        """Every combination of one template and the words, once, in random order."""
        template = self.templates_of(split)[index]
        slots = template.slots(words)
        sizes = radices(slots, words)
        texts = (template.a, template.b, *self.completions_of(template))
        for number in permutation(prod(sizes), Random(f"{self.name}|{split}|{seed}|{index}")):
            values = unrank(number, slots, sizes, words)
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
        chunk: int,
        passed: Counter,
    ) -> Iterator[tuple[Pair, EncodedPair]]:
        """What the model can read of one template, tokenised `chunk` at a time; counts the tokens it cannot."""
        candidates, rejected = self._candidates(split, index, seed, self._whole_words(split, tokenizer)), 0
        while batch := list(islice(candidates, chunk)):
            for encoded in encode_pairs(tokenizer, batch):
                for fault in encoded.faults:
                    raise UnusableTokens(f"task {self.name!r}, {split} template {index}: {fault.detail}; {fault.fix}")
                used = {*encoded.prompts[0], *encoded.prompts[1], *encoded.completions}
                missing = used - usable if usable is not None else ()
                passed.update(missing)
                rejected = rejected + 1 if missing else 0
                if rejected >= _PATIENCE:
                    return
                if not missing:
                    yield encoded.pair, encoded

    def _whole_words(self, split: str, tokenizer: Any) -> dict[str, tuple[str, ...]]:
        """The words of a split; lists that completions draw from lose those that this tokenizer splits.

        Raises UnusableTokens where fewer are left than a template needs.
        """
        words = self.words(split)
        for template in self.templates_of(split) if self.drawn_completions else ():
            slots = template.slots(words)
            for text in self.completions_of(template):
                for slot in (name for name in SLOT.findall(text) if name in slots):
                    given, needed = words[slots[slot]], list(slots.values()).count(slots[slot])
                    tokens = encode_batch(tokenizer, [text.replace(f"<{slot}>", word) for word in given])
                    whole = tuple(word for word, ids in zip(given, tokens, strict=True) if len(ids) == 1)
                    if len(whole) < needed:
                        lost = ", ".join(repr(word) for word in given if word not in whole)[:80]
                        raise UnusableTokens(
                            f"task {self.name!r}, {split}: of list {slots[slot]!r} {len(whole)} words are one token where "
                            f"{needed} are needed (others split: {lost}); use a tokenizer trained on text with them, or other words"
                        )
                    words[slots[slot]] = whole
        return words


def slot_source(name: str, lists: Collection[str]) -> str | None:
    """The list a slot draws from: `word` and `word2` draw from `word`; None where there is no such list."""
    return next((source for source in (name, name.rstrip("0123456789")) if source in lists), None)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return SLOT.sub(lambda match: values.get(match[1], match[0]), text)


def _template_dict(template: Template) -> dict[str, Any]:
    values: dict[str, Any] = {"a": template.a, "b": template.b}
    values |= {key: value for key in ("continuation_a", "continuation_b") if (value := getattr(template, key))}
    return values | ({"completions": list(template.completions)} if template.completions else {})
