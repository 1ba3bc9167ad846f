"""Using a model: recording and replacing activations, and sampling text with a key-value cache."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_circuits.model.attention import KVCache
from sparse_circuits.model.contexts import network_of
from sparse_circuits.model.taps import Record, Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import match_sites


@torch.no_grad()
def record(model: nn.Module, tokens: Int[Tensor, "B T"], sites: str | Iterable[str] = "*") -> dict[str, Tensor]:
    """Activations of one pass: site name -> Float[B, T, width]. `sites`: full names, globs or a list (METHOD D7).

    model: what load_model gave, or the transformers class around it.
    """
    network = network_of(model)
    names = match_sites(sites, network.config.n_layer)
    tap = Record(names)
    network(tokens, tap=tap)
    return {name: tap.acts[name] for name in names}


def intervene(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    replacements: Mapping[str, Tensor | Callable[[Tensor], Tensor]],
) -> Float[Tensor, "B T V"]:
    """Logits with activations replaced at some sites, after AbsTopK, not re-sparsified.

    replacements: site name or glob -> function of the activation [B, T, w] (or a tensor) of the same shape.
    """
    network = network_of(model)
    named = {site: value for glob, value in replacements.items() for site in match_sites(glob, network.config.n_layer)}
    return network(tokens, tap=Replace(named))


@torch.no_grad()
def generate(
    model: SparseTransformer,
    tokens: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Int[Tensor, "B T_out"]:
    """Samples continuations; temperature 0 takes the likeliest token. top_p: share of probability drawn from.

    Raises ValueError for an empty prompt or settings out of range.
    """
    if tokens.shape[1] == 0:
        raise ValueError("the prompt has no tokens; give at least one character")
    if temperature < 0 or not math.isfinite(temperature) or not 0 < top_p <= 1 or max_new_tokens < 0:
        given = f"temperature {temperature}, top_p {top_p}, max_new_tokens {max_new_tokens}"
        raise ValueError(f"cannot sample with {given}; allowed: temperature >= 0, top_p in (0, 1], max_new_tokens >= 0")
    generator = torch.Generator(tokens.device).manual_seed(seed)
    cache, fresh = KVCache(), tokens
    for _ in range(max_new_tokens):
        last = torch.full((len(tokens),), fresh.shape[1] - 1, device=tokens.device)
        logits = model(fresh, cache=cache, logits_at=last)[:, 0].float()
        fresh = _choose(logits, temperature, top_p, generator)
        tokens = torch.cat([tokens, fresh], 1)
    return tokens


def _choose(
    logits: Float[Tensor, "B V"], temperature: float, top_p: float, generator: torch.Generator
) -> Int[Tensor, "B 1"]:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits - logits.amax(-1, keepdim=True)  # a temperature near 0 must not make inf - inf
    p, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    return order.gather(-1, torch.multinomial(p, 1, generator=generator))
