"""Mined pairs: the questions of the twenty tasks as they stand in real Python files (METHOD 1e, D3).

1. Read the files of a source once. Of the standard library only those held out of training by the path rule that also
   splits the corpus: `split_place(path below the library's root) < HELD_OUT`, or below the `val_threshold` of the model's
   own corpus where that is smaller. A model that does not say one (the models in the box, whose corpus held out HELD_OUT;
   others' checkpoints, which nobody here trained on the library) is asked by HELD_OUT. Files of the user's own all count.
2. `mined_points.py` finds where a file decides what a task asks. The prompt is the file's text up to there; it begins
   with the enclosing top-level def or class where that fits into `context` tokens, else as early as fits, always at the
   line of a statement, and never later than what decides the answer. A prompt that comes again counts once.
3. A point is kept where both completions are one token after the prompt, the right one also before the file's own
   continuation (the rule of pairs.py for the tasks themselves), and the model has all tokens (`usable`).
4. A pair is a point of class A and one of class B from different files with the same last token, lengths within 8
   tokens and the same two completions; each point is in one pair at most. In the tasks on two names (var_swap, var_if)
   both prompts hold both names. Where class B is any name, completion B is that name; a point of class A that is asked
   alone meets the commonest of them.

Nothing is stored: the points are found in the files of this machine, so their number differs between Python versions.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

from jaxtyping import Bool
from torch import Tensor

from ..data.corpus import Files, TinyPython, open_source
from ..data.source import Document, Source, split_place
from ..data.tokenizer import encode_batch, tokenizer_hash
from .mined_file import CodeFile, Decision, read_code
from .mined_points import FINDERS, NAMES, USUAL_NAME
from .pairs import MAX_PROMPT, EncodedPair, Pair, Pairs, encode_pairs, pack

HELD_OUT = 0.2
"""Share of paths that is mined at most; a corpus built with this `val_fraction` trains on the others only."""
CONTEXT = 96
"""Tokens of a prompt at most."""
CLOSE = 8
"""Tokens by which the prompts of a pair may differ in length."""
_CONTINUATION = 64  # characters, more than the run of the pattern in which a completion ends


@dataclass(frozen=True)
class Point:
    """One place in a file where a task's question is answered."""

    side: int
    """class, 0 = A, 1 = B"""
    prompt: str
    completion: str
    """what the file goes on with"""
    wrong: str
    """the other class's completion"""
    continuation: str
    """what follows in the file"""
    file: str
    """path below the source's root"""
    line: int
    """in that file, from 1, of the completion's first character"""
    tokens: tuple[int, ...]
    """of the prompt"""
    answers: tuple[int, int]
    """token of the completion, token of the wrong one"""


@dataclass(frozen=True, eq=False)
class MinedTask:
    """What a source holds of one task."""

    name: str
    points: tuple[Point, ...]
    """by file and line"""
    pairs: Pairs | None
    """None where no two points match"""
    counts: Mapping[str, int]
    """points of class "A" and "B" """
    files: tuple[str, ...]
    """those that the points are from, sorted"""
    tokenizer_hash: str


class _Candidate(NamedTuple):
    """A decision with its prompt, before the tokenizer has had its say; `wrong` as in Decision."""

    decision: Decision
    prompt: str
    continuation: str
    file: str
    line: int


class _Kept(NamedTuple):
    """A point, and which points it may be paired with: those whose `offers` is among its `seeks`, and the reverse."""

    point: Point
    offers: str
    seeks: tuple[str, ...]


def mine_task(
    name: str,
    tokenizer: Any,
    source: str | Source | None = None,
    *,
    context: int = CONTEXT,
    usable: Bool[Tensor, "V"] | None = None,
    val_threshold: float | None = None,
    seed: int = 0,
) -> MinedTask:
    """The points and pairs of one task; see `mine_all`. Raises ValueError also where the source has none of this task."""
    mined = mine_all(tokenizer, [name], source, context=context, usable=usable, val_threshold=val_threshold, seed=seed)
    return mined[name]


def mine_all(
    tokenizer: Any,
    names: Sequence[str] | None = None,
    source: str | Source | None = None,
    *,
    context: int = CONTEXT,
    usable: Bool[Tensor, "V"] | None = None,
    val_threshold: float | None = None,
    seed: int = 0,
) -> dict[str, MinedTask]:
    """task -> its points and pairs; a task that does not occur has none. Every file is read once.

    names: tasks; all twenty by default. source: a source or its name (data/corpus.py), by default the part of the
    standard library that is held out of training; of a folder of your own every .py file. context: tokens of a prompt
    at most. usable: True for tokens that the model has an embedding for (METHOD D2). val_threshold: what the model's
    training held out of the library, where that is known (model.folder.stored_val_threshold). seed: which points are paired;
    the points are the same for every seed.
    Raises ValueError, one line, for an unknown task or context, or where the source has no point of any of the tasks.
    """
    chosen = tuple(FINDERS) if names is None else tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in FINDERS]
    if unknown or not chosen:
        given = f"unknown task {unknown[0]!r}" if unknown else "no task is given"
        raise ValueError(f"{given}; tasks that can be mined: {', '.join(FINDERS)}")
    if not 1 <= context <= MAX_PROMPT:
        raise ValueError(f"context is {context} tokens; allowed: 1 to {MAX_PROMPT}")
    opened = open_source("python-env" if source is None else source) if not isinstance(source, Source) else source
    found: dict[str, list[_Candidate]] = {name: [] for name in chosen}
    read, share = 0, mined_share(val_threshold)
    for document in _documents(opened, share):
        file = read_code(document.name, document.text)
        if file is not None:
            read += 1
            _search(file, found, tokenizer, context)
    known = None if usable is None else frozenset(usable.nonzero().flatten().tolist())
    identity = tokenizer_hash(tokenizer)
    kept = {name: _kept(name, found[name], tokenizer, context, known) for name in chosen}
    if not any(kept.values()):
        raise ValueError(_nothing(opened, chosen, read, sum(map(len, found.values())), share))
    return {name: _mined(name, kept[name], tokenizer, identity, seed) for name in chosen}


def held_out(source: Source) -> bool:
    """Whether the source is one that models here are trained on, so that only its held-out part may be mined."""
    return isinstance(source, TinyPython) or (isinstance(source, Files) and source.kind == "python-env")


def mined_share(val_threshold: float | None) -> float:
    """The share of the library's paths that is mined for a model whose corpus has this threshold; None: not known."""
    return HELD_OUT if val_threshold is None else min(HELD_OUT, val_threshold)


def _documents(source: Source, share: float) -> Iterator[Document]:
    """The texts that may be mined, each once."""
    ruled, seen = held_out(source), set()
    for document in source.documents():
        if (not ruled or split_place(document.split_key) < share) and document.text not in seen:
            seen.add(document.text)
            yield document


def _nothing(source: Source, names: Sequence[str], read: int, found: int, share: float) -> str:
    """Why a source gave no point, and what to do."""
    tasks = f"task {names[0]}" if len(names) == 1 else f"any of {len(names)} tasks"
    part, files = "", ".py files of this Python's syntax"
    if held_out(source):
        part, files = f"the held-out part ({share:.2g} of the paths) of ", "a folder of other Python code as the source"
    if not read:
        return f"{part}source {source.name!r} has no Python code to mine; give {files}"
    here = f"{read} Python file{'s' * (read > 1)} of {part}source {source.name!r}"
    if found:
        return (
            f"{here} ask {tasks} {found} times, but never in tokens that this tokenizer and model have; "
            "use a tokenizer and a model trained on such text, or more files"
        )
    return f"{here} never ask {tasks} within the context; give more files, a larger context or another task"


def _search(file: CodeFile, found: Mapping[str, list[_Candidate]], tokenizer: Any, context: int) -> None:
    """Adds the decisions of a file that a prompt of `context` tokens can ask, to the list of each task."""
    decisions = [(name, d) for name in found for d in FINDERS[name](file) if _is_answer(file.text, d)]
    if not decisions:
        return
    lines = [file.text[start:end] for start, end in zip(file.lines, file.lines[1:], strict=False)]
    before = [0, *accumulate(map(len, encode_batch(tokenizer, lines)))]
    begun = [file.text[file.lines[file.line(d.at - 1) - 1] : d.at] for _, d in decisions]
    for (name, decision), tokens in zip(decisions, encode_batch(tokenizer, begun), strict=True):
        reach = before[file.line(decision.at - 1) - 1] + len(tokens) - context
        start = _start(file, decision, before, reach)
        if start is not None:
            end = decision.at + len(decision.right)
            prompt, after = file.text[start : decision.at], file.text[end : end + _CONTINUATION]
            found[name].append(_Candidate(decision, prompt, after, file.name, file.line(decision.at)))


def _is_answer(text: str, decision: Decision) -> bool:
    """Whether the file goes on with the right completion, as a whole word where it is one."""
    following = text[decision.at + len(decision.right) :][:1]
    whole = not (decision.right[-1].isalnum() and (following.isalnum() or following == "_"))
    return decision.at > 0 and whole and text.startswith(decision.right, decision.at)


def _start(file: CodeFile, decision: Decision, before: Sequence[int], reach: int) -> int | None:
    """Where the prompt begins: a line before which there are at least `reach` tokens of the file; None if there is no such
    line that is early enough."""
    for start, end in file.definitions:
        if start <= decision.since and decision.at < end and before[file.line(start) - 1] >= reach:
            return start
    place = bisect_left(file.statements, file.lines[bisect_left(before, reach)]) if reach > 0 else 0
    start = file.statements[place] if place < len(file.statements) else len(file.text)
    return start if start <= decision.since else None


def _kept(
    name: str, candidates: Sequence[_Candidate], tokenizer: Any, context: int, usable: frozenset[int] | None
) -> list[_Kept]:
    """The points that this tokenizer can ask and this model can read, by file and line."""
    words = sorted({word for c in candidates for word in (c.decision.right, *c.decision.wrong)})
    words += [usual] if (usual := USUAL_NAME.get(name)) else []
    single = {
        word
        for word, ids in zip(words, encode_batch(tokenizer, words), strict=True)
        if len(ids) == 1 and (usable is None or ids[0] in usable)
    }
    names = Counter(c.decision.right for c in candidates if c.decision.any_name and c.decision.side == 1)
    common = [w for w, _ in sorted(names.items(), key=lambda item: (-item[1], item[0])) if w in single]
    common = (common or [word for word in (usual,) if word in single])[:1]
    asked: list[tuple[_Candidate, tuple[str, ...]]] = []
    for candidate in candidates:
        decision = candidate.decision
        wrong = tuple(word for word in decision.wrong or common if word in single)
        if name in NAMES:
            wrong = tuple(word for word in wrong if _holds(candidate.prompt, word[1:]))
        if wrong and decision.right in single:
            asked.append((candidate, wrong))
    asked = list({(c.prompt, c.decision.right): (c, wrong) for c, wrong in reversed(asked)}.values())
    encoded = encode_pairs(tokenizer, [_alone(candidate, wrong[0]) for candidate, wrong in asked])
    kept = [
        _Kept(_point(name, candidate, e), *_matches(candidate.decision, wrong))
        for (candidate, wrong), e in zip(asked, encoded, strict=True)
        if not e.faults and len(e.prompts[0]) <= context and (usable is None or usable.issuperset(e.prompts[0]))
    ]
    return sorted(kept, key=lambda k: (k.point.file, k.point.line))


def _holds(prompt: str, name: str) -> bool:
    """Whether a name stands in a prompt as a word of its own."""
    at = prompt.find(name)
    while at >= 0:
        around = prompt[at - 1 : at] + prompt[at + len(name) : at + len(name) + 1]
        if not any(letter.isalnum() or letter == "_" for letter in around):
            return True
        at = prompt.find(name, at + 1)
    return False


def _alone(candidate: _Candidate, wrong: str) -> Pair:
    """The point as a pair with itself, so that it is checked like any pair: the right completion is A, the wrong one B."""
    prompt = candidate.prompt
    return Pair(prompt, prompt, candidate.decision.right, wrong, 0, candidate.continuation)


def _matches(decision: Decision, wrong: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """What a point offers and seeks: its completion and its wrong ones, or where B is any name, only its class."""
    if decision.any_name:
        return "AB"[decision.side], ("AB"[not decision.side],)
    return decision.right, wrong


def _point(name: str, candidate: _Candidate, encoded: EncodedPair) -> Point:
    decision, pair = candidate.decision, encoded.pair
    side = int(pair.completion_a > pair.completion_b) if name in NAMES else decision.side
    return Point(
        side=side,
        prompt=pair.prompt_a,
        completion=pair.completion_a,
        wrong=pair.completion_b,
        continuation=candidate.continuation,
        file=candidate.file,
        line=candidate.line,
        tokens=tuple(encoded.prompts[0]),
        answers=encoded.completions,
    )


def _mined(name: str, kept: Sequence[_Kept], tokenizer: Any, identity: str, seed: int) -> MinedTask:
    points = tuple(k.point for k in kept)
    matched = [
        Pair(a.prompt, b.prompt, a.completion, b.completion, 0, a.continuation, b.continuation)
        for a, b in _match(name, kept, Random(f"{name}|{seed}"))
    ]
    encoded = [e for e in encode_pairs(tokenizer, matched) if not e.faults] if matched else []
    fixed = len({e.completions for e in encoded}) == 1 and name not in NAMES and name not in USUAL_NAME
    sides = Counter(point.side for point in points)
    return MinedTask(
        name=name,
        points=points,
        pairs=pack(encoded, fixed) if encoded else None,
        counts={"A": sides[0], "B": sides[1]},
        files=tuple(sorted({point.file for point in points})),
        tokenizer_hash=identity,
    )


def _match(name: str, kept: Sequence[_Kept], random: Random) -> list[tuple[Point, Point]]:
    """Pairs of points (A, B), greedily in random order: each meets the waiting one that is closest in length."""
    waiting: dict[tuple[int, str, int], list[_Kept]] = {}
    pairs = []
    for new in random.sample(kept, len(kept)):
        last, length = new.point.tokens[-1], len(new.point.tokens)
        partner = next((old for old in _waiting(waiting, new, last, length) if _fits(old, new)), None)
        if partner is None:
            waiting.setdefault((last, new.offers, length), []).append(new)
            continue
        waiting[last, partner.offers, len(partner.point.tokens)].remove(partner)
        order = (lambda p: p.completion) if name in NAMES else (lambda p: p.side)
        a, b = sorted((partner.point, new.point), key=order)
        pairs.append((a, b))
    return pairs


def _waiting(
    waiting: Mapping[tuple[int, str, int], list[_Kept]], new: _Kept, last: int, length: int
) -> Iterator[_Kept]:
    """Points that a new one seeks, those of the closest length first."""
    for difference in sorted(range(-CLOSE, CLOSE + 1), key=abs):
        for sought in new.seeks:
            yield from waiting.get((last, sought, length + difference), ())


def _fits(old: _Kept, new: _Kept) -> bool:
    return new.offers in old.seeks and old.point.file != new.point.file
