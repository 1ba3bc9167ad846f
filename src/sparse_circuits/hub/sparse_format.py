"""Sparse tensors in a safetensors file: nonzero values and the gaps between them (docs/format.md).

A tensor NAME is stored as two: `NAME|values`, its nonzero entries in flat order, and `NAME|gaps`, unsigned bytes or 16-bit
words. A gap below the largest is the number of zeros before the next value; the largest says that so many zeros follow and no
value yet. The shape stands in the file's metadata, `sparse` = {NAME: shape} as JSON. At 0.1% nonzero an entry takes 6 bytes.

Exact: what counts as zero is the bit pattern +0, so -0.0 and every NaN come back as they were. Tensors that would not get
smaller stay dense. Decoding makes one dense tensor at a time.

Shapes: n values, g gaps (g >= n).
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

VALUES, GAPS = "|values", "|gaps"
METADATA_KEY = "sparse"
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.int8}
_WORDS = (torch.uint8, torch.uint16)


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What to write for these tensors, and the metadata that belongs to it (empty where nothing is sparse)."""
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = _encode(tensor.detach().cpu())
        if parts is None:
            stored[name] = tensor
        else:
            stored[name + VALUES], stored[name + GAPS] = parts
            shapes[name] = list(tensor.shape)
    return stored, ({METADATA_KEY: json.dumps(shapes)} if shapes else {})


def _encode(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """(values, gaps), or None where that would not be smaller."""
    flat = tensor.contiguous().view(-1)
    size = flat.element_size()
    places = flat.view(_BITS[size]).nonzero().view(-1)
    room = flat.numel() * size - len(places) * size  # bytes the gaps may take
    if len(places) >= room:  # even one byte each is too much
        return None
    zeros = torch.diff(places, prepend=torch.tensor([-1])) - 1
    words = [(int((zeros // torch.iinfo(word).max).sum()) + len(zeros)) * word.itemsize for word in _WORDS]
    word = _WORDS[words.index(min(words))]
    if min(words) >= room:
        return None
    return flat[places], _gaps(zeros, word)


def _gaps(zeros: Tensor, word: torch.dtype) -> Tensor:
    """Runs of zeros as words: zeros // most words `most`, then the rest."""
    most = torch.iinfo(word).max
    ends = (zeros // most + 1).cumsum(0) - 1  # where each run's last word stands
    gaps = torch.full((int(ends[-1]) + 1 if len(ends) else 0,), most, dtype=torch.int64)
    gaps[ends] = zeros % most
    return gaps.to(word)


def packed_shapes(metadata: Mapping[str, str], where: object) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the sparse tensors that a file's metadata names. Raises ValueError if it is damaged."""
    try:
        stored: Any = json.loads(metadata.get(METADATA_KEY, "{}"))
        shapes = {name: tuple(shape) for name, shape in stored.items()}
        whole = all(type(side) is int and side >= 0 for shape in shapes.values() for side in shape)
    except (ValueError, TypeError, AttributeError):
        whole, shapes = False, {}
    if not whole:
        raise ValueError(f"{where} is damaged: its metadata `{METADATA_KEY}` is no table of shapes; restore it")
    return shapes


def unpack(values: Tensor, gaps: Tensor, shape: tuple[int, ...], where: object) -> Tensor:
    """The dense tensor. Raises ValueError if values, gaps and shape do not fit each other."""
    size = math.prod(shape)
    whole = gaps.dtype in _WORDS and gaps.dim() == values.dim() == 1
    if whole:
        most = torch.iinfo(gaps.dtype).max
        wide = gaps.to(torch.int64)
        is_end = wide != most
        places = torch.where(is_end, wide + 1, wide).cumsum(0)[is_end] - 1
        whole = len(places) == len(values) and (not len(places) or int(places[-1]) < size)
        if whole:
            dense = torch.zeros(size, dtype=values.dtype)
            dense[places] = values
            return dense.view(shape)
    raise ValueError(
        f"{where} is damaged: values, gaps and shape {list(shape)} of a sparse tensor do not fit; restore it"
    )
