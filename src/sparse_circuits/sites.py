"""The vocabulary of the library: sites, nodes, edges, their order and their widths.

A *site* is a named place in the forward pass where an activation can be read or replaced; the names are those of the
published models (METHOD D7). A *node* is one channel of a node site, written `2.mlp.post_act[37]`. Everything that
speaks about activations (taps, masks, circuits, the viewer) uses these names and this order and nothing else.

Sites of layer l, in the order of the forward pass:
    {l}.resid_in    {l}.attn.act_in  .q  .k  .v  .y  .resid_delta
    {l}.resid_mid   {l}.mlp.act_in  .post_act  .resid_delta
and after the last layer `final_resid`. Delivered only when named in full: `embed`, `{l}.attn.pattern`,
`{l}.mlp.pre_act`, what the norms multiply by, `{l}.attn.norm_scale`, `{l}.mlp.norm_scale`, `final_norm_scale`, and what
the bigram table adds to the logits, `bigram`.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

BLOCK_SITES = (
    "resid_in",
    "attn.act_in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.y",
    "attn.resid_delta",
    "resid_mid",
    "mlp.act_in",
    "mlp.post_act",
    "mlp.resid_delta",
)
NODE_BLOCK_SITES = tuple(site for site in BLOCK_SITES if site not in ("resid_in", "attn.y", "resid_mid"))
REQUEST_BLOCK_SITES = ("attn.norm_scale", "attn.pattern", "mlp.norm_scale", "mlp.pre_act")
FINAL_SITE = "final_resid"
START_BLOCK_SITES = ("resid_in", "resid_mid")

_NODE = re.compile(r"(?P<site>[a-z0-9_.]+)\[(?P<channel>\d+)\]")


class Node(NamedTuple):
    """One channel of one node site."""

    site: str
    """Full site name, e.g. `2.mlp.post_act`."""
    channel: int
    """Index into the last axis of the activation at that site."""

    def __str__(self) -> str:
        return f"{self.site}[{self.channel}]"

    @classmethod
    def parse(cls, text: str) -> "Node":
        """Reads `site[channel]`; raises ValueError on anything else."""
        match = _NODE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a node name; write it as site[channel], e.g. 2.mlp.post_act[37]")
        return cls(match["site"], int(match["channel"]))


class Edge(NamedTuple):
    """A nonzero weight between two kept nodes (METHOD D5)."""

    source: Node
    target: Node
    weight: float | None
    """None in a circuit imported without its model."""


class TokenEdge(NamedTuple):
    """A nonzero embedding entry (token writes node) or unembedding entry (node writes token's logit) (METHOD D5)."""

    token: int
    node: Node
    weight: float


def all_sites(n_layer: int) -> tuple[str, ...]:
    """The sites that `*` means, in forward order."""
    return (*(f"{layer}.{site}" for layer in range(n_layer) for site in BLOCK_SITES), FINAL_SITE)


def node_sites(n_layer: int) -> tuple[str, ...]:
    """The sites whose channels are nodes, in forward order (METHOD D4)."""
    return (*(f"{layer}.{site}" for layer in range(n_layer) for site in NODE_BLOCK_SITES), FINAL_SITE)


def request_sites(n_layer: int) -> tuple[str, ...]:
    """The sites delivered only when named in full."""
    per_block = (f"{layer}.{site}" for layer in range(n_layer) for site in REQUEST_BLOCK_SITES)
    return ("embed", *per_block, "final_norm_scale", "bigram")


def start_sites(n_layer: int) -> tuple[str, ...]:
    """The residual sites at which a forward pass can be entered."""
    return (*(f"{layer}.{site}" for layer in range(n_layer) for site in START_BLOCK_SITES), FINAL_SITE)


def start_before(site: str) -> str:
    """The last residual site at which a pass can be entered so that it still comes by this one.

    A sublayer begins where it reads the residual stream, so `2.mlp.post_act` -> `2.resid_mid`, `2.attn.q` -> `2.resid_in`.
    """
    layer, place = split_site(site)
    if layer is None:
        return FINAL_SITE
    return f"{layer}.{START_BLOCK_SITES[place == 'resid_mid' or place.startswith('mlp.')]}"


def split_site(site: str) -> tuple[int | None, str]:
    """`2.mlp.post_act` -> (2, "mlp.post_act"); `final_resid` -> (None, "final_resid")."""
    head, _, tail = site.partition(".")
    return (int(head), tail) if head.isdecimal() and tail else (None, site)


def site_widths(n_layer: int, d_model: int, d_attn: int, d_mlp: int, d_read: int | None = None) -> dict[str, int]:
    """Channels at every site of `all_sites`.

    d_attn is n_head * d_head, which need not equal d_model; d_read is the width of act_in, None = d_model.
    """
    wide = {"attn.q": d_attn, "attn.k": d_attn, "attn.v": d_attn, "attn.y": d_attn, "mlp.post_act": d_mlp}
    wide |= {"attn.act_in": d_read or d_model, "mlp.act_in": d_read or d_model}
    return {site: wide.get(split_site(site)[1], d_model) for site in all_sites(n_layer)}


def match_sites(patterns: str | Iterable[str], n_layer: int) -> tuple[str, ...]:
    """Full names, globs or a list of either -> site names in forward order.

    Globs range over `all_sites`; the sites of `request_sites` must be named in full. Raises ValueError for a pattern
    that matches nothing.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    usual, extra = all_sites(n_layer), request_sites(n_layer)
    chosen: set[str] = set()
    for pattern in listed:
        found = [site for site in usual if fnmatchcase(site, pattern)] or [site for site in extra if site == pattern]
        if not found:
            raise ValueError(unknown_site(pattern, n_layer))
        chosen.update(found)
    return tuple(site for site in (*usual, *extra) if site in chosen)


def unknown_site(given: str, n_layer: int) -> str:
    """The one line that tells a user which site names exist."""
    blocks = ", ".join(BLOCK_SITES)
    named = ", ".join(("embed", *(f"{{l}}.{site}" for site in REQUEST_BLOCK_SITES), "final_norm_scale", "bigram"))
    return (
        f"unknown site {given!r}; allowed: {{l}}.X with l in 0..{n_layer - 1} and X one of {blocks}, or {FINAL_SITE}; "
        f"by full name only: {named}"
    )


def check_nodes(nodes: Iterable[Node], widths: Mapping[str, int]) -> None:
    """Raises ValueError unless every node lies at a node site and inside that site's width."""
    allowed = [site for site in widths if split_site(site)[1] in (*NODE_BLOCK_SITES, FINAL_SITE)]
    for node in nodes:
        if node.site not in allowed:
            raise ValueError(f"{node} is not at a node site of this model; allowed sites: {', '.join(allowed)}")
        if not 0 <= node.channel < widths[node.site]:
            raise ValueError(f"{node} does not exist: {node.site} has channels 0..{widths[node.site] - 1}")
