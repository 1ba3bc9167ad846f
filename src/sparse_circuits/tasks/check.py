"""Is a task well posed under a tokenizer? Every condition of METHOD D3 and D10 that needs no model.

1. Structure: at least three templates per split, splits that share no template and no word, every declared list in use.
2. Tokens, on sampled pairs of every template of every split: each completion is the one token that the natural text
   continues with, and both prompts of a pair end in the same token (pairs.py).
3. Content, on the same pairs: the completions differ, no prompt asks for both answers, no prompt stands in two splits.

Every condition is reported, also the ones that hold. What only a model can tell (the empty circuit, and the bigram
table alone, must score at least 0.6) is measured elsewhere and added with `CheckReport.extended`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from typing import Any, NamedTuple

from .pairs import SINGLE_TOKEN, EncodedPair, Fault, encode_pairs
from .task import SLOT, SPLITS, Task, slot_source

MIN_TEMPLATES = 3
"""Templates per split (METHOD D10)."""
TOKEN_CONDITIONS = (SINGLE_TOKEN, "natural continuation", "same last token")

_Encoded = dict[str, list[EncodedPair]]


class Condition(NamedTuple):
    """One requirement and whether it holds."""

    name: str
    ok: bool
    detail: str
    """what was found"""
    fix: str
    """what to do about it; empty where it holds"""


@dataclass(frozen=True)
class CheckReport:
    """All conditions of one task under one tokenizer, in a fixed order."""

    task: str
    conditions: tuple[Condition, ...]

    @property
    def ok(self) -> bool:
        """True where every condition holds."""
        return all(condition.ok for condition in self.conditions)

    @property
    def failed(self) -> tuple[Condition, ...]:
        return tuple(condition for condition in self.conditions if not condition.ok)

    def extended(self, conditions: Iterable[Condition]) -> "CheckReport":
        """The report with further conditions behind its own."""
        return CheckReport(self.task, (*self.conditions, *conditions))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"task": self.task, "ok": self.ok, "conditions": [condition._asdict() for condition in self.conditions]}


def check_task(task: Task, tokenizer: Any, samples: int = 64) -> CheckReport:
    """Checks a task on `samples` pairs per template (all where there are fewer). Never raises for what it checks."""
    encoded = {
        split: encode_pairs(tokenizer, task.sample(split, samples * len(task.templates_of(split))))
        for split in task.splits
    }
    return CheckReport(
        task.name,
        (
            _enough_templates(task),
            _slots(task),
            _templates_disjoint(task),
            _words_disjoint(task),
            *_tokens(task, encoded),
            _completions_differ(encoded),
            _prompt_determines(encoded),
            _prompts_disjoint(encoded),
        ),
    )


def _condition(name: str, problems: Iterable[str], holds: str, fix: str) -> Condition:
    found = list(problems)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Condition(name, not found, found[0] + more if found else holds, fix if found else "")


def _enough_templates(task: Task) -> Condition:
    counts = {split: len(task.templates[split]) for split in SPLITS}
    problems = [f"{split} has {count} templates" for split, count in counts.items() if count < MIN_TEMPLATES]
    holds = ", ".join(f"{count} in {split}" for split, count in counts.items())
    return _condition("templates per split", problems, holds, f"write at least {MIN_TEMPLATES} for each split")


def _slots(task: Task) -> Condition:
    """Lists that no template uses, and `<wrod>` where `word` is declared."""
    lists = {**task.fillers, **task.fixed}
    templates = [template for split in task.splits for template in task.templates_of(split)]
    used = {source for template in templates for source in template.slots(lists).values()}
    problems = [f"no template uses the list {name!r}" for name in lists if name not in used]
    for template in templates:
        for name in sorted(set(SLOT.findall(template.a + template.b)) - set(template.slots(lists))):
            if close := get_close_matches(name, lists, n=1, cutoff=0.7):
                problems.append(f"<{name}> is no slot, but there is a list {close[0]!r}")
    fix = "name the slot like its list, or drop the list"
    return _condition("slots", problems, f"{len(lists)} lists, all used", fix)


def normalised(text: str, lists: Iterable[str]) -> str:
    """A prompt template without what does not make it another one: names of slots, amount of whitespace."""
    names = set(lists)
    bare = SLOT.sub(lambda match: "<>" if slot_source(match[1], names) else match[0], text)
    return " ".join(bare.split())


def _templates_disjoint(task: Task) -> Condition:
    lists = {**task.fillers, **task.fixed}
    shapes = {
        split: {normalised(text, lists): text for t in task.templates_of(split) for text in (t.a, t.b)}
        for split in task.splits
    }
    problems = [
        f"{one} and {two} share the template {shapes[one][shape]!r}"
        for one, two in _apart(task.splits)
        for shape in sorted(set(shapes[one]) & set(shapes[two]))
    ]
    holds = "no prompt template in two splits, slots and spacing aside"
    return _condition("splits disjoint by template", problems, holds, "keep each template in one split")


def _words_disjoint(task: Task) -> Condition:
    words = {split: {word for s in task.fillers.values() for word in s[split]} for split in SPLITS}
    words |= {
        split: {word for given in shift.words.values() for word in given} for split, shift in task.shifted.items()
    }
    problems = [
        f"{one} and {two} share the word {word!r}"
        for one, two in _apart(task.splits)
        for word in sorted(words[one] & words[two])
    ]
    holds = ", ".join(f"{len(words[split])} words in {split}" for split in SPLITS)
    fix = "keep each word in one split, or declare its list as fixed if the definition needs it everywhere"
    return _condition("splits disjoint by word", problems, holds, fix)


def _apart(splits: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Pairs of splits that must share nothing; a shifted split may be made of test, and shifts of each other."""
    for one, two in combinations(splits, 2):
        if {one, two} & {"train", "val"}:
            yield one, two


def _tokens(task: Task, encoded: _Encoded) -> Iterator[Condition]:
    """Where completions are words of a list, those that split are passed over when pairs are drawn: half must stay."""
    faults: dict[str, list[tuple[str, Fault]]] = {name: [] for name in TOKEN_CONDITIONS}
    for split, pairs in encoded.items():
        for item in pairs:
            for fault in item.faults:
                faults[fault.condition].append((f"{split} template {item.pair.template}: {fault.detail}", fault))
    count = sum(map(len, encoded.values()))
    for name, found in faults.items():
        problems = dict.fromkeys(text for text, _ in found)
        holds = f"in all {count} sampled pairs"
        if name == SINGLE_TOKEN and found and task.drawn_completions and len(found) <= count // 2:
            problems, holds = {}, f"in {count - len(found)} of {count} sampled pairs; the others are passed over"
        yield _condition(name, problems, holds, found[0][1].fix if found else "")


def _completions_differ(encoded: _Encoded) -> Condition:
    problems = dict.fromkeys(
        f"{split} template {item.pair.template}: both completions are {item.pair.completion_a!r}"
        for split, pairs in encoded.items()
        for item in pairs
        if item.pair.completion_a == item.pair.completion_b
        or (item.completions[0] == item.completions[1] and SINGLE_TOKEN not in {f.condition for f in item.faults})
    )
    return _condition("completions differ", problems, "in all sampled pairs", "give A and B different completions")


def _prompt_determines(encoded: _Encoded) -> Condition:
    """No token sequence (after truncation to what the model sees) with two answers."""
    answers: dict[tuple[int, ...], set[str]] = {}
    problems: dict[str, None] = {}
    for item in (item for pairs in encoded.values() for item in pairs):
        for side in (0, 1):
            known = answers.setdefault(tuple(item.prompts[side]), set())
            known.add(item.pair.completion(side))
            if len(known) > 1:
                both = " and ".join(sorted(map(repr, known)))
                problems[f"prompt {item.pair.prompt(side)[-60:]!r} has the answers {both}"] = None
    fix = "write into the prompts what tells A from B, within the last 255 tokens"
    return _condition("prompt determines the answer", problems, "no sampled prompt has two answers", fix)


def _prompts_disjoint(encoded: _Encoded) -> Condition:
    prompts = {
        split: {tuple(item.prompts[side]): item.pair.prompt(side) for item in pairs for side in (0, 1)}
        for split, pairs in encoded.items()
    }
    problems = [
        f"{one} and {two} share the prompt {prompts[one][ids][-60:]!r}"
        for one, two in _apart(tuple(encoded))
        for ids in prompts[one].keys() & prompts[two].keys()
    ]
    fix = "make the splits differ in templates and words"
    return _condition("no prompt in two splits", sorted(problems), "no sampled prompt stands in two splits", fix)
