"""What transformers hands our classes, checked: one device, a float dtype, positions that are ours, no input we ignore."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.model.attention import token_positions


def check_positions(given: Tensor | None, mask: Tensor | None, tokens: Tensor, seen: int, matters: bool) -> None:
    """Raises ValueError for position_ids other than those the model counts itself."""
    if given is None or not matters or torch.compiler.is_compiling():
        return
    real = None if mask is None else mask.bool()
    expected = token_positions(tokens, seen, real).expand_as(tokens)
    where = torch.ones_like(tokens, dtype=torch.bool) if real is None else real[:, seen:]
    if not torch.equal(given.expand_as(tokens)[where], expected[where]):
        raise ValueError("position_ids differ from the positions counted from attention_mask; leave them out")


def refuse_unknown(kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for inputs that would change the result if they were read, such as inputs_embeds."""
    harmless = ("cache_position", "num_items_in_batch")
    unknown = [name for name, value in kwargs.items() if value is not None and name not in harmless]
    if unknown:
        raise ValueError(
            f"the model takes no {unknown[0]}; allowed: input_ids, attention_mask, labels, past_key_values and outputs"
        )


def one_device(device_map: Any) -> torch.device:
    """The one device of a device_map. Raises ValueError for a map over several."""
    listed = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    if len(listed) != 1:
        raise ValueError(f"device_map names {len(listed)} devices; allowed: one, since the model is not split")
    only = listed.pop()
    if only in (None, "cpu"):
        return torch.device("cpu")
    if only in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(only)
    except (RuntimeError, TypeError):
        raise ValueError(f"device_map {device_map!r} is no device; allowed: auto, cpu, cuda, cuda:0, ...") from None


def dtype_of(given: str | torch.dtype | None) -> torch.dtype | None:
    if given in (None, "auto") or isinstance(given, torch.dtype):
        return given if isinstance(given, torch.dtype) else None
    found = getattr(torch, str(given), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype {given!r} is unknown; allowed: auto, float32, bfloat16, float16, float64")
    return found
