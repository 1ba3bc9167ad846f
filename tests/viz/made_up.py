"""A made-up circuit to view: a tiny sparse random model, a two-quote task, and nodes traced back from the logits.

No training, no files: seconds on a CPU. `made_up(...)` gives everything the viewer takes; tests in explain/, viz/ and
browser/ share it.
"""

import math
from functools import cache
from random import Random
from typing import Any, NamedTuple

import torch

from sparse_circuits.circuit.circuit import Calibration, Circuit, CurvePoint, Origin, SplitLosses
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.data.tokenizer import as_fast_tokenizer, train_tokenizer
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.edge_weights import SitePair, site_pairs
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import FINAL_SITE, Node, node_sites
from sparse_circuits.tasks.task import Task, Template

LINES = ["print('hello world')\n", 'print("good morning")\n', "def f(a, b):\n    return a + b\n", "x = [1, 2, 3]\n"]


class MadeUp(NamedTuple):
    """What `build_document` takes."""

    circuit: Circuit
    model: SparseTransformer
    task: Task
    tokenizer: Any


@cache
def quote_task() -> Task:
    def three(*prompts: str) -> tuple[Template, ...]:
        return tuple(Template(prompt, prompt.replace("'", '"'), "x = 1\n", "x = 1\n") for prompt in prompts)

    words = {"train": ("hello", "good", "blue"), "val": ("sad", "small"), "test": ("world", "green", "night", "river")}
    return Task(
        name="two_quotes",
        statement="Close a string with the quote that opened it.",
        determined_by="the prompts differ in the quote that opens the string",
        completions=("')\n", '")\n'),
        templates={
            "train": three("print('<word> <word2>"),
            "val": three("f('<word>"),
            "test": three("print('<word> <word2>", "def f():\n    return g('<word> and <word2>"),
        },
        fillers={"word": words},
    )


@cache
def tokenizer_of(size: int = 320) -> Any:
    task = quote_task()
    texts = [
        p.prompt(i) + p.completion(i) + "x = 1\n" for s in ("train", "test") for p in task.sample(s, 12) for i in (0, 1)
    ]
    return as_fast_tokenizer(train_tokenizer(texts * 4 + LINES * 4, size))


@cache
def sparse_model(n_layer: int, d_model: int, fraction: float) -> SparseTransformer:
    """Random weights of which only the largest fraction of each matrix is left."""
    vocab = len(tokenizer_of())
    config = ModelConfig(vocab_size=vocab, n_layer=n_layer, d_model=d_model, n_head=4, d_head=8, afrac=0.5)
    model = SparseTransformer(config).initialize(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "bigram.weight" or weight.dim() == 1:
                continue
            weight.normal_(generator=generator)
            keep = 0.25 if "embed" in name else fraction
            threshold = weight.abs().flatten().kthvalue(max(1, int((1 - keep) * weight.numel()))).values
            weight.mul_(weight.abs() > threshold)
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                bias.normal_(0, 0.3, generator=generator).mul_(bias > 0.1)
    return model.eval()


def traced_nodes(model: SparseTransformer, count: int) -> tuple[Node, ...]:
    """Nodes on random walks from the logits back to the tokens along the largest weights."""
    rng, order = Random(0), {site: i for i, site in enumerate(node_sites(model.config.n_layer))}
    incoming: dict[str, list[SitePair]] = {}
    for pair in site_pairs(model):
        incoming.setdefault(pair.target, []).append(pair)
    ends = model.unembed.weight.abs().sum(0).topk(max(2, count // 16)).indices.tolist()
    found: set[Node] = set()
    while len(found) < count:
        node: Node | None = Node(FINAL_SITE, rng.choice(ends))
        while node is not None and len(found) < count:
            found.add(node)
            if node.site.endswith("attn.v"):
                found |= {Node(f"{node.site[:-1]}{part}", node.channel) for part in "qk"}
            node = _before(node, incoming, order, rng)
    return tuple(sorted(found, key=lambda node: (order[node.site], node.channel)))


def _before(node: Node, incoming: dict[str, list[SitePair]], order: dict[str, int], rng: Random) -> Node | None:
    """A node that feeds this one: a strong weight into it, or an earlier writer of its residual channel."""
    if node.site in incoming:
        pair = rng.choice(incoming[node.site])
        weights, channels = pair.weight[node.channel].abs().topk(3)
        strong = [channel for weight, channel in zip(weights.tolist(), channels.tolist(), strict=True) if weight]
        return Node(pair.source, rng.choice(strong)) if strong else None
    writers = [site for site in order if site.endswith("resid_delta") and order[site] < order[node.site]]
    return Node(rng.choice(writers), node.channel) if writers and rng.random() < 0.85 else None


@cache
def made_up(count: int = 14, n_layer: int = 2, d_model: int = 32, fraction: float = 0.06, met: bool = True) -> MadeUp:
    """A circuit of about `count` nodes with invented losses and effects."""
    model, task, tokenizer = sparse_model(n_layer, d_model, fraction), quote_task(), tokenizer_of()
    nodes = traced_nodes(model, count)
    pairs = task.pairs("train", 6, tokenizer)
    prompts = {
        t for row, n in zip(pairs.flat_tokens.tolist(), pairs.lengths.flatten().tolist(), strict=True) for t in row[:n]
    }
    edges = find_edges(model, nodes, prompts, pairs.completions.flatten().tolist())
    generator = torch.Generator().manual_seed(count)
    effects = torch.rand(len(nodes), generator=generator).pow(4).mul(0.6).tolist()
    noise = torch.rand(60, generator=generator).tolist()
    sweep = sorted({max(0, round(1.12**i) - 1) for i in range(60) if 1.12**i < 2.5 * count})
    curve = (
        CurvePoint(
            nodes=k, loss=0.03 + 0.7 * math.exp(-2.2 * k / count) + 0.05 * noise[i], standard_error=0.02 * noise[-i]
        )
        for i, k in enumerate(sweep)
    )
    loss = SplitLosses(train=0.121, val=0.138, test=0.1437 if met else 0.2114)
    circuit = Circuit(
        task=task.name,
        model=Origin(where="runs/tiny/model", hash="ab" * 32),
        task_origin=Origin(where=task.name, hash=task.hash),
        tokenizer=Origin(where="runs/tiny/tokenizer", hash="cd" * 32),
        nodes=nodes,
        nodes_total=sum(width for site, width in model.widths.items() if site in node_sites(n_layer)),
        edges=edges.edges,
        edges_embed=edges.edges_embed,
        edges_unembed=edges.edges_unembed,
        edges_bias=edges.edges_bias,
        constant_nodes=edges.constant,
        stranded_nodes=edges.candidates[:1],
        values={site: torch.zeros(model.widths[site]) for site in node_sites(n_layer)},
        loss=loss,
        calibrated_loss=SplitLosses(train=0.101, val=0.113, test=0.1192),
        model_loss=SplitLosses(train=0.0213, val=0.0271, test=0.0304),
        empty_loss=0.6931,
        accuracy=0.966,
        calibration=Calibration(scale=1.31, shift=0.02),
        curve=tuple(curve),
        node_effects=tuple(effects),
        reference={"tokens": 262144, "corpus_hash": "ef" * 32},
        recipe={"k_coef": 1e-4, "lr": 3e-3, "steps": 2000, "weight_decay": 1e-3},
        seed=0,
    )
    return MadeUp(circuit, model, task, tokenizer)
