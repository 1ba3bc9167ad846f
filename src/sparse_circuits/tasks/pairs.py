"""Prompt pairs as text and as token ids, and what makes a tokenised pair well posed (METHOD 1e, D3).

1. Each completion is one token, and it is the one that the natural text continues with:
   encode(prompt + completion + continuation) == encode(prompt) + [completion] + ... for both prompts.
2. Both prompts of a pair end in the same token, so the last token alone tells nothing.
3. Prompts lose their beginning beyond 255 tokens and are right-padded with 0.

Shapes: n pairs, class axis of 2 (0 = A, 1 = B, never shuffled: METHOD D6), T tokens of the longest prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from ..data.tokenizer import encode_batch, token_text

GROUP_TOKENS, MOST_GROUPS = 4096, 4
"""`Pairs.by_length`: a forward of fewer tokens than this gains nothing from a shorter one beside it."""
SINGLE_TOKEN = "single-token completions"
"""Name of the condition that each completion is one token."""
MAX_PROMPT = 255
"""Tokens of a prompt; longer ones lose their beginning (METHOD 1e)."""


class Pair(NamedTuple):
    """One pair as text; field order A before B."""

    prompt_a: str
    prompt_b: str
    completion_a: str
    completion_b: str
    template: int
    """index of the template within its split"""
    continuation_a: str = ""
    continuation_b: str = ""

    def prompt(self, side: int) -> str:
        """Prompt of class A (0) or B (1)."""
        return self.prompt_b if side else self.prompt_a

    def completion(self, side: int) -> str:
        """Completion of class A (0) or B (1)."""
        return self.completion_b if side else self.completion_a


class Fault(NamedTuple):
    """What is wrong with a tokenised pair."""

    condition: str
    detail: str
    fix: str


class EncodedPair(NamedTuple):
    """A pair with its token ids; `faults` is empty where it is well posed."""

    pair: Pair
    prompts: tuple[list[int], list[int]]
    completions: tuple[int, int]
    faults: list[Fault]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A frozen batch of pairs, on the CPU unless moved by `to`."""

    tokens: Int64[Tensor, "n 2 T"]
    """prompts, right-padded with 0; [:, 0] is class A"""
    lengths: Int64[Tensor, "n 2"]
    """tokens of each prompt"""
    completions: Int64[Tensor, "n 2"]
    """token A, token B"""
    texts: tuple[Pair, ...]
    """the same pairs as text, untruncated"""
    fixed_completions: bool
    """both completions are the same in every pair of the task (METHOD D6: only then may a calibration shift)"""

    @property
    def n(self) -> int:
        return len(self.texts)

    @property
    def flat_tokens(self) -> Int64[Tensor, "rows T"]:
        """Rows A, B, A, B, ...: one forward for both prompts of all pairs."""
        return self.tokens.flatten(0, 1)

    @property
    def last(self) -> Int64[Tensor, "rows"]:
        """Position of the last prompt token in each row of `flat_tokens`."""
        return self.lengths.flatten() - 1

    def take(self, indices: Sequence[int] | Int64[Tensor, "m"]) -> "Pairs":
        """The pairs at these indices, in this order, padded to the longest of them."""
        chosen = [int(index) for index in indices]
        rows = torch.tensor(chosen, dtype=torch.long, device=self.tokens.device)
        texts = tuple(self.texts[index] for index in chosen)
        lengths = self.lengths[rows]
        tokens = self.tokens[rows][..., : int(lengths.max())] if chosen else self.tokens[rows]
        return Pairs(tokens, lengths, self.completions[rows], texts, self.fixed_completions)

    def by_length(self, copies: int = 1) -> list[Int64[Tensor, "m"]]:
        """Indices of the pairs in a few groups of similar length, which need less padding than all together; one group where
        the batch (taken `copies` times) is too small to gain by it."""
        tokens = copies * self.tokens.numel()
        groups = max(1, min(MOST_GROUPS, self.n, tokens // GROUP_TOKENS))
        order = self.lengths.max(-1).values.sort(stable=True).indices
        return list(order.tensor_split(groups))

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on another device."""
        tokens, lengths, completions = (part.to(device) for part in (self.tokens, self.lengths, self.completions))
        return Pairs(tokens, lengths, completions, self.texts, self.fixed_completions)


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Batches of one task one after another, padded to the longest prompt of all."""
    width = max(part.tokens.shape[-1] for part in parts)
    tokens = torch.cat([torch.nn.functional.pad(part.tokens, (0, width - part.tokens.shape[-1])) for part in parts])
    lengths, completions = (torch.cat([getattr(part, name) for part in parts]) for name in ("lengths", "completions"))
    texts = tuple(pair for part in parts for pair in part.texts)
    return Pairs(tokens, lengths, completions, texts, parts[0].fixed_completions)


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair]) -> list[EncodedPair]:
    """Tokenises pairs in one batch; prompts keep their last 255 tokens. Faults are reported, not raised."""
    texts = [text for p in pairs for text in (p.prompt_a, p.prompt_b, p.completion_a, p.completion_b)]
    texts += [p.prompt_a + p.completion_a + p.continuation_a for p in pairs]
    texts += [p.prompt_b + p.completion_b + p.continuation_b for p in pairs]
    ids = encode_batch(tokenizer, texts)
    return [
        _encoded(pair, ids[4 * i : 4 * i + 4], (ids[4 * len(pairs) + i], ids[5 * len(pairs) + i]), tokenizer)
        for i, pair in enumerate(pairs)
    ]


def _encoded(pair: Pair, ids: list[list[int]], whole: tuple[list[int], list[int]], tokenizer: Any) -> EncodedPair:
    """Checks one pair: `ids` of prompts A, B and completions A, B; `whole` of the natural texts."""
    faults = []
    for side in (0, 1):
        prompt, completion, text = ids[side], ids[2 + side], pair.completion(side)
        if not prompt:
            faults.append(Fault("same last token", f"prompt {'AB'[side]} is empty", "write at least one token"))
        if len(completion) != 1:
            detail = f"completion {text!r} splits into {len(completion)} tokens {_shown(tokenizer, completion)}"
            fix = "train a tokenizer whose corpus contains it or choose another completion"
            faults.append(Fault(SINGLE_TOKEN, f"{detail} in this tokenizer", fix))
        elif whole[side][: len(prompt) + 1] != prompt + completion:
            near = whole[side][max(0, len(prompt) - 2) : len(prompt) + 2]
            detail = f"in {(pair.prompt(side) + text)[-40:]!r} completion {text!r} is not the token after the prompt"
            fix = "end the prompt where the tokenizer splits (punctuation merges) or change what follows"
            faults.append(Fault("natural continuation", f"{detail} (read as {_shown(tokenizer, near)})", fix))
    if ids[0][-1:] != ids[1][-1:]:
        ends = f"{_shown(tokenizer, ids[0][-1:])} and {_shown(tokenizer, ids[1][-1:])}"
        detail = f"prompts {pair.prompt_a[-40:]!r} and {pair.prompt_b[-40:]!r} end in different tokens {ends}"
        faults.append(Fault("same last token", detail, "end both prompts in the same token"))
    prompts = (ids[0][-MAX_PROMPT:], ids[1][-MAX_PROMPT:])
    return EncodedPair(pair, prompts, ((ids[2] or [-1])[0], (ids[3] or [-1])[0]), faults)


def pack(chosen: Sequence[EncodedPair], fixed_completions: bool) -> Pairs:
    """Right-pads and stacks; at least one pair."""
    lengths = torch.tensor([[len(prompt) for prompt in encoded.prompts] for encoded in chosen])
    width = int(lengths.max())
    rows = [[prompt + [0] * (width - len(prompt)) for prompt in encoded.prompts] for encoded in chosen]
    completions = torch.tensor([encoded.completions for encoded in chosen])
    return Pairs(torch.tensor(rows), lengths, completions, tuple(e.pair for e in chosen), fixed_completions)


def _shown(tokenizer: Any, ids: Sequence[int]) -> str:
    return " ".join(repr(token_text(tokenizer, token)) for token in ids) or "(none)"
