"""The vocabulary: names, order and widths of the sites, node names, globs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusals import refused
from sparse_circuits.sites import (
    Node,
    all_sites,
    check_nodes,
    match_sites,
    node_sites,
    request_sites,
    site_widths,
    split_site,
    start_sites,
    unknown_site,
)

ONE_LAYER = (
    "0.resid_in",
    "0.attn.act_in",
    "0.attn.q",
    "0.attn.k",
    "0.attn.v",
    "0.attn.y",
    "0.attn.resid_delta",
    "0.resid_mid",
    "0.mlp.act_in",
    "0.mlp.post_act",
    "0.mlp.resid_delta",
    "final_resid",
)


def test_the_names_of_the_release_in_forward_order() -> None:
    assert all_sites(1) == ONE_LAYER
    assert len(all_sites(2)) == 23
    assert node_sites(1) == tuple(s for s in ONE_LAYER if s not in ("0.resid_in", "0.attn.y", "0.resid_mid"))
    assert start_sites(2) == ("0.resid_in", "0.resid_mid", "1.resid_in", "1.resid_mid", "final_resid")
    assert all_sites(0) == ("final_resid",)
    in_block = ("0.attn.norm_scale", "0.attn.pattern", "0.mlp.norm_scale", "0.mlp.pre_act")
    assert request_sites(1) == ("embed", *in_block, "final_norm_scale", "bigram")
    assert all_sites(11)[-2:] == ("10.mlp.resid_delta", "final_resid")
    assert not set(all_sites(3)) & set(request_sites(3))


def test_widths_give_the_node_count_of_a_published_model() -> None:
    """csp_yolo1 reports 136,192 nodes (RELEASE_FORMAT 1.9): 12 layers, d_model 1024, 128 heads of 8, d_mlp 4096."""
    widths = site_widths(12, 1024, 1024, 4096)
    assert sum(widths[site] for site in node_sites(12)) == 136_192
    assert tuple(widths) == all_sites(12)
    narrow = site_widths(1, d_model=5, d_attn=7, d_mlp=11)
    assert [narrow[site] for site in ONE_LAYER] == [5, 5, 7, 7, 7, 7, 5, 5, 5, 11, 5, 5]


@given(st.integers(0, 99), st.sampled_from(node_sites(1)), st.integers(0, 10**6))
def test_a_node_name_reads_back(layer: int, site: str, channel: int) -> None:
    place = split_site(site)[1]
    node = Node(place if place == "final_resid" else f"{layer}.{place}", channel)
    assert Node.parse(str(node)) == node
    assert split_site(node.site) == (None if place == "final_resid" else layer, place)


@pytest.mark.parametrize(
    "text", ["", "2.mlp.post_act", "2.mlp.post_act[]", "x[-1]", "x[1] ", "X[1]", "[3]", "x[1][2]", "x[1.0]"]
)
def test_what_is_no_node_name(text: str) -> None:
    with refused(repr(text), "2.mlp.post_act[37]"):
        Node.parse(text)


def test_nodes_must_exist() -> None:
    widths = site_widths(12, 4, 6, 8)
    check_nodes([Node("11.attn.q", 5), Node("final_resid", 3), Node("0.mlp.post_act", 7)], widths)
    with refused("11.attn.q[6]", "0..5"):
        check_nodes([Node("final_resid", 0), Node("11.attn.q", 6)], widths)
    for site in ("0.attn.y", "0.resid_in", "12.attn.q", "embed", "0.mlp.pre_act"):
        with refused(f"{site}[0]", "0.attn.act_in, 0.attn.q,", "2.mlp.resid_delta, 3.attn.act_in", "final_resid"):
            check_nodes([Node(site, 0)], widths)


def test_globs_give_names_in_forward_order() -> None:
    assert match_sites("*", 3) == all_sites(3)
    assert match_sites(["final_resid", "2.*.act_in", "embed", "0.attn.q"], 3) == (
        "0.attn.q",
        "2.attn.act_in",
        "2.mlp.act_in",
        "final_resid",
        "embed",
    )
    assert match_sites(iter(["1.resid_*", "1.*"]), 2) == tuple(site for site in all_sites(2) if site.startswith("1."))
    assert match_sites("1.attn.pattern", 2) == ("1.attn.pattern",)
    assert match_sites("1.*", 12) == tuple(f"1.{split_site(site)[1]}" for site in ONE_LAYER[:-1])  # not layers 10, 11


@pytest.mark.parametrize("pattern", ["act_in", "0.attn", "3.attn.q", "*.pattern", "EMBED", "0.Attn.q", "final_resid "])
def test_patterns_that_match_nothing(pattern: str) -> None:
    with refused(repr(pattern), "0..2", "attn.resid_delta", "by full name only: embed", "final_norm_scale"):
        match_sites(["*", pattern], 3)
    assert "\n" not in unknown_site(pattern, 3)
