"""All node masks of a model as one flat vector, and the step function that learns them.

A `NodeLayout` says which slice of the vector belongs to which site. A mask is 1 where its tau >= 0; backwards the step is
replaced by the derivative of sigmoid(tau / temperature) (METHOD 1f).

Shapes: N nodes of the model, S independent masks, w width of a site.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.sites import NODE_BLOCK_SITES, Node, split_site


@dataclass(frozen=True)
class NodeLayout:
    """Node sites in forward order with their widths; the flat vector is their concatenation."""

    widths: Mapping[str, int]

    @classmethod
    def of(cls, widths: Mapping[str, int]) -> "NodeLayout":
        """From the widths of all sites of a model (sites.site_widths)."""
        return cls(
            {site: width for site, width in widths.items() if split_site(site)[1] in (*NODE_BLOCK_SITES, "final_resid")}
        )

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each site's slice begins."""
        begins, total = {}, 0
        for site, width in self.widths.items():
            begins[site], total = total, total + width
        return begins

    @property
    def size(self) -> int:
        """N."""
        return sum(self.widths.values())

    def split(self, flat: Float[Tensor, "*batch N"]) -> dict[str, Tensor]:
        """Site -> Float[*batch, w], views."""
        return dict(zip(self.widths, flat.split(list(self.widths.values()), -1), strict=True))

    def index(self, node: Node) -> int:
        """Position of a node in the flat vector."""
        return self.offsets[node.site] + node.channel

    def node(self, index: int) -> Node:
        """The node at a position of the flat vector."""
        site = max((site for site in self.offsets if self.offsets[site] <= index), key=self.offsets.__getitem__)
        return Node(site, index - self.offsets[site])

    def nodes(self, flat: Float[Tensor, " N"]) -> tuple[Node, ...]:
        """Nodes whose entry is above zero, in forward order."""
        return tuple(self.node(int(index)) for index in flat.nonzero().flatten())

    def flat(self, nodes: Iterable[Node]) -> Float[Tensor, " N"]:
        """The 0/1 vector of a set of nodes."""
        mask = torch.zeros(self.size)
        for node in nodes:
            mask[self.index(node)] = 1.0
        return mask

    def batched(self, masks: Float[Tensor, "S N"], rows: int) -> dict[str, Tensor]:
        """Site -> Float[S * rows, 1, w]: mask s for each of the batch rows s * rows .. (s + 1) * rows - 1."""
        return {site: part.repeat_interleave(rows, 0).unsqueeze(1) for site, part in self.split(masks).items()}

    def owned(self, masks: Float[Tensor, "S N"], owner: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Site -> Float[B, 1, w]: mask owner[b] for batch row b."""
        return {site: part[owner].unsqueeze(1) for site, part in self.split(masks).items()}

    def kept(self, masks: Float[Tensor, "S N"]) -> dict[str, Tensor]:
        """Site -> Int[n]: the channels that any of the masks keeps."""
        return {site: part.nonzero().flatten() for site, part in self.split((masks != 0).any(0).float()).items()}


def heaviside(tau: Float[Tensor, "*batch"], temperature: float) -> Float[Tensor, "*batch"]:
    """1 where tau >= 0, else 0; gradient sigmoid'(tau / temperature) / temperature."""
    return _Heaviside.apply(tau, temperature)


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tau, temperature):  # pyright: ignore
        ctx.save_for_backward(tau)
        ctx.temperature = temperature
        return (tau >= 0).to(tau.dtype)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore
        (tau,) = ctx.saved_tensors
        p = torch.sigmoid(tau / ctx.temperature)
        return grad * p * (1 - p) / ctx.temperature, None
