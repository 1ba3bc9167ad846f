"""What transformers hands our classes, checked: one device, a float dtype, tokens, positions that are ours, no input we ignore.

And what it asks to see of a pass, as taps on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.model.attention import token_positions
from sparse_circuits.model.taps import Chain, Record, Replace, Tap
from sparse_circuits.sites import match_sites

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SAVING = {"safe_serialization": True, "save_original_format": True, "save_peft_format": True}
"""Arguments of `save_pretrained` with one possible meaning here; None is as good."""


def check_inputs(tokens: Tensor | None, labels: Tensor | None) -> None:
    """Raises ValueError unless these are rows of token ids, at least one, and labels of the same shape."""
    if not isinstance(tokens, Tensor):
        raise ValueError("the model needs input_ids, token ids of shape [batch, tokens]; inputs_embeds are not read")
    if tokens.ndim != 2 or not tokens.numel() or tokens.dtype not in (torch.int64, torch.int32):
        given = f"{str(tokens.dtype).removeprefix('torch.')} of shape {list(tokens.shape)}"
        raise ValueError(
            f"input_ids are {given}; allowed: int64 or int32 of shape [batch, tokens], at least one token per row"
        )
    if labels is not None and labels.shape != tokens.shape:
        raise ValueError(f"labels have shape {list(labels.shape)}; allowed: {list(tokens.shape)}, that of input_ids")


class Watched:
    """What a caller wants to see of a pass, and to change in it, as one tap."""

    def __init__(
        self,
        layers: int,
        states: bool | None,
        patterns: bool | None,
        activations: Sequence[str] | str,
        interventions: Mapping[str, Any],
        tap: Tap | None,
    ) -> None:
        self.sites = {
            "hidden_states": match_sites(["*.resid_in", "final_resid"], layers) if states else (),
            "attentions": match_sites([f"{layer}.attn.pattern" for layer in range(layers)], layers) if patterns else (),
            "activations": match_sites(activations, layers) if activations else (),
        }
        self.record = Record({site for sites in self.sites.values() for site in sites})
        replace = {site: value for glob, value in interventions.items() for site in match_sites(glob, layers)}
        taps = [*([tap] if tap is not None else []), *([Replace(replace)] if replace else [])]
        self.tap = Chain(*taps, self.record)  # recording comes last: what is delivered is what was used

    def found(self, kind: str) -> tuple[Tensor, ...]:
        """What was recorded of one kind, in forward order."""
        return tuple(self.record.acts[site] for site in self.sites[kind])

    @property
    def activations(self) -> dict[str, Tensor]:
        """Site name -> activation, of those asked for by name."""
        return {site: self.record.acts[site] for site in self.sites["activations"]}


def check_positions(given: Tensor | None, mask: Tensor | None, tokens: Tensor, seen: int, matters: bool) -> None:
    """Raises ValueError for position_ids other than those the model counts itself."""
    if given is None or not matters or torch.compiler.is_compiling():
        return
    if given.shape not in (tokens.shape, (1, tokens.shape[1])):
        raise ValueError(f"position_ids have shape {list(given.shape)}; allowed: {list(tokens.shape)}")
    real = None if mask is None else mask.bool()
    expected = token_positions(tokens, seen, real).expand_as(tokens)
    where = torch.ones_like(tokens, dtype=torch.bool) if real is None else real[:, seen:]
    if not torch.equal(given.expand_as(tokens)[where], expected[where]):
        raise ValueError("position_ids differ from the positions counted from attention_mask; leave them out")


def refuse_unknown(kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for inputs that would change the result if they were read, such as inputs_embeds."""
    unknown = [name for name, value in kwargs.items() if value is not None and name != "cache_position"]
    if unknown:
        raise ValueError(
            f"the model takes no {unknown[0]}; allowed: input_ids, attention_mask, labels, past_key_values and outputs"
        )


def refuse_saving(kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments of `save_pretrained` that would have to change what is written."""
    for name, value in kwargs.items():
        if value is not None and value is not SAVING.get(name):
            raise ValueError(f"save_pretrained got {name}={one_line(value)}, which nothing here reads; leave it out")


def kept_logits(logits: Float[Tensor, "B T V"], keep: int | Int[Tensor, " K"]) -> Float[Tensor, "B T_out V"]:
    """The last `keep` of the positions, all for 0, or those of a tensor. Raises ValueError for a negative count."""
    if isinstance(keep, Tensor):
        return logits[:, keep]
    if keep < 0:
        raise ValueError(f"logits_to_keep is {keep}; allowed: 0 for all, a count, or a tensor of positions")
    return logits[:, -keep:]


def next_token_loss(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"], items: int | Tensor | None
) -> Float[Tensor, ""]:
    """Cross-entropy, nats, of the label after each token; -100 is ignored.

    items: what the sum is divided by, when a trainer spreads a batch over several passes; None = the labels counted here.
    """
    given, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    given = given.float() if given.dtype.itemsize < 4 else given
    if items is None:
        return F.cross_entropy(given, wanted)
    return F.cross_entropy(given, wanted, reduction="sum") / items


def one_device(device_map: Any) -> torch.device:
    """The one device of a device_map. Raises ValueError for a map over several, and for one that is not there."""
    listed = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    devices = {_device(only, device_map) for only in listed}
    if len(devices) != 1:
        raise ValueError(f"device_map names {len(devices)} devices; allowed: one, since the model is not split")
    return devices.pop()


def _device(only: Any, device_map: Any) -> torch.device:
    if only is None:
        return torch.device("cpu")
    if isinstance(only, str) and only in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(only)
        torch.empty(0, device=device)  # is it there?
    except (RuntimeError, TypeError, AssertionError):  # the last: a torch built without CUDA
        device = None
    if device is None or device.type == "meta":
        raise ValueError(f"device_map {device_map!r} is no device here; allowed: auto, cpu, cuda, cuda:0, ...")
    return device


def dtype_of(given: Any) -> torch.dtype | None:
    """A dtype or its name as a dtype; None for `auto` and None. Raises ValueError for what weights cannot be."""
    if given is None or (isinstance(given, str) and given == "auto"):
        return None
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or found not in FLOATS:
        raise ValueError(
            f"dtype {one_line(given)} is no dtype of weights; allowed: auto, float32, bfloat16, float16, float64"
        )
    return found


def one_line(value: Any) -> str:
    """A value for a message, however many lines its repr has."""
    return " ".join(repr(value).split())
