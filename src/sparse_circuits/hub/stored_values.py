"""Reading values from a foreign file, of whichever type they happen to be stored: numbers as 0-d tensors, lists as tensors.

Each reader takes the stored value and where it stands, and returns one type; anything else is a ValueError, one line, that
names the place. (Used by viz_data.py.)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.sites import FINAL_SITE, NODE_BLOCK_SITES, Node, split_site


def as_node(site: Any, channel: Any, where: str) -> Node:
    """One channel of a node site."""
    kind = split_site(site)[1] if isinstance(site, str) else None
    if site != FINAL_SITE and (kind not in NODE_BLOCK_SITES or kind == site):
        sites = ", ".join(NODE_BLOCK_SITES)
        raise ValueError(f"{where} names the site {site!r}; allowed: {{l}}.X with X one of {sites}, or {FINAL_SITE}")
    found = as_integer(channel, f"{where}[{site}]")
    if found < 0:
        raise ValueError(f"{where}[{site}] names channel {found}")
    return Node(site, found)


def required(holder: Mapping[Any, Any], key: str, where: str = "the file") -> Any:
    """The value of a key that must be there."""
    if holder.get(key) is None:
        raise ValueError(f"{where} has no {key!r}")
    return holder[key]


def as_mapping(value: Any, where: str) -> Mapping[Any, Any]:
    """A dictionary."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a dictionary, not {type(value).__name__}")
    return value


def as_items(value: Any, where: str) -> Sequence[Any]:
    """A list, from a list, a tuple or a tensor."""
    if isinstance(value, Tensor):
        value = as_tensor(value, where).tolist()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} must be a list, not {type(value).__name__}")
    return value


def as_parts(value: Any, count: int, where: str) -> Sequence[Any]:
    """A list or tuple of that many values."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise ValueError(f"{where} must come as {count} parts, not {type(value).__name__}")
    return value


def as_tensor(value: Any, where: str) -> Tensor:
    """A tensor of numbers, from a tensor or a list of them."""
    if not isinstance(value, (Tensor, list, tuple)):
        raise ValueError(f"{where} must hold tensors of numbers, not {type(value).__name__}")
    found = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
    if found.dtype == torch.bool:
        raise ValueError(f"{where} must hold numbers, not booleans")
    return found


def as_number(value: Any, where: str) -> float:
    """A finite number, from a number or a tensor of one."""
    one = isinstance(value, Tensor) and value.numel() == 1
    if not one and not isinstance(value, (int, float)):
        raise ValueError(f"{where} must be a number, not {type(value).__name__}")
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{where} holds {found}, which is no measured value")
    return found


def as_integer(value: Any, where: str) -> int:
    """A whole number, from a number or a tensor of one."""
    found = as_number(value, where)
    if not found.is_integer():
        raise ValueError(f"{where} must be a whole number, not {found}")
    return int(found)


def as_plain(value: Any) -> Any:
    """JSON values: tensors as numbers and lists, anything that JSON lacks as text."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple, set)):
        return [as_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
