"""Subjects for the validation metrics: the compiled quote model, a small model with faults planted in it, and runs by hand.

The small model answers the quote model's task with one head: a constant query finds the token with the quote (`act_in[2]` marks
it, `k[0]` reads the mark), `v[0]` carries its kind (`act_in[0]`, -1 or 1) to channel 1 of the stream, which writes the answer.
Its circuit is those channels. Faults are further weights, or nodes left out; each test says which.

`by_hand` runs one prompt without padding, every site rebuilt with plain indexing: nothing of masks, scorers or patches.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.circuit.circuit import Circuit, Origin
from sparse_circuits.data.tokenizer import tokenizer_hash, vocab_size
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.taps import Chain, Record, Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Node
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task
from sparse_circuits.validate.ground_truth import GroundTruth, quote_model
from sparse_circuits.validate.subject import Subject


@cache
def truth() -> GroundTruth:
    return quote_model()


def all_nodes(model: SparseTransformer) -> tuple[Node, ...]:
    layout = NodeLayout.of(model.widths)
    return layout.nodes(torch.ones(layout.size))


def circuit_of(
    model: SparseTransformer, nodes: Sequence[Node], values: Mapping[str, Tensor], task: Task | None = None, **changes
) -> Circuit:
    """A circuit with nothing measured, of the quote task unless told otherwise."""
    task = truth().task if task is None else task
    unknown = dict.fromkeys(("loss", "calibrated_loss", "model_loss", "empty_loss", "accuracy"))
    return Circuit(
        task=task.name,
        model=Origin(where="", hash=model_hash(model)),
        task_origin=Origin(where="", hash=task.hash),
        tokenizer=Origin(where="", hash=tokenizer_hash(truth().tokenizer)),
        nodes=tuple(nodes),
        nodes_total=NodeLayout.of(model.widths).size,
        edges=(),
        values=values,
        **unknown,
        **changes,
    )


def quotes(nodes: Sequence[Node] | None = None, n: int = 12) -> Subject:
    """The quote model with the nodes given, by default those of its true circuit."""
    known = truth()
    circuit = circuit_of(known.model, known.nodes if nodes is None else nodes, known.reference.values)
    return Subject.of(circuit, known.model, known.task, known.tokenizer, n=n)


SMALL = tuple(
    Node.parse(name)
    for name in (
        "0.attn.act_in[0]",
        "0.attn.act_in[2]",
        "0.attn.k[0]",
        "0.attn.v[0]",
        "0.attn.resid_delta[1]",
        "final_resid[1]",
    )
)
"""The circuit of the small model."""
BLIND = tuple(node for node in SMALL if str(node) not in ("0.attn.act_in[2]", "0.attn.k[0]"))
"""That circuit without what its head looks for."""


@cache
def small_model(
    writes: tuple[tuple[int, int, float], ...] = (), neurons: tuple[float, ...] = (), reads: tuple[int, ...] = (1,)
) -> SparseTransformer:
    """The small model with further weights.

    writes: (v, channel of the stream, weight); every further v reads the kind of quote, as v[0] does. neurons: each reads channel
    1 with weight 4 and writes it with this weight. reads: channels that write the answer.
    """
    tokenizer = truth().tokenizer
    config = ModelConfig(
        vocab_size=vocab_size(tokenizer), n_layer=1, d_model=8, n_head=1, d_head=4, d_mlp=8, bigram=False
    )
    model = SparseTransformer(config).eval()
    pairs = [truth().task.pairs(split, 64, tokenizer) for split in ("train", "val", "test")]
    weights = model.state_dict()
    for name, weight in weights.items():
        weight.fill_(1.0 if name.endswith("gain") else 0.0)
    embed, unembed = weights["embed.weight"], weights["unembed.weight"]
    embed[:, 7] = 3.0
    for part in pairs:
        a, b = part.tokens.unbind(1)
        embed[a[a != b]] = torch.tensor([-1.0, 0, 1, 0, 0, 0, 0, 3])
        embed[b[a != b]] = torch.tensor([1.0, 0, 1, 0, 0, 0, 0, 3])
    into_head, out_of_head = weights["blocks.0.attn.c_attn.weight"], weights["blocks.0.attn.c_proj.weight"]
    weights["blocks.0.attn.c_attn.bias"][0] = 4.0  # q[0]
    into_head[4, 2] = 4.0  # k[0]
    for v, channel, weight in ((0, 1, 3.0), *writes):
        into_head[8 + v, 0] = 1.0
        out_of_head[channel, v] += weight
    for index, weight in enumerate(neurons):
        weights["blocks.0.mlp.c_fc.weight"][index, 1] = 4.0
        weights["blocks.0.mlp.c_proj.weight"][1, index] = weight
    first, second = pairs[0].completions[0].tolist()
    unembed[first, list(reads)], unembed[second, list(reads)] = -6.0, 6.0
    return model


def small(model: SparseTransformer | None = None, nodes: Sequence[Node] = SMALL, n: int = 6, **changes) -> Subject:
    """The small model with the nodes given; ablation values are means over training prompts."""
    model = small_model() if model is None else model
    known = truth()
    values = task_means(model, known.task.pairs("train", 64, known.tokenizer))
    circuit = circuit_of(model, nodes, {site: value.detach() for site, value in values.items()}, **changes)
    return Subject.of(circuit, model, known.task, known.tokenizer, n=n)


def prompts(pairs: Pairs) -> list[tuple[list[int], int, int]]:
    """(token ids, right completion, wrong completion) of every prompt, A and B of a pair in turn."""
    return [
        (pairs.tokens[i, side, : pairs.lengths[i, side]].tolist(), both[side], both[1 - side])
        for i, both in enumerate(pairs.completions.tolist())
        for side in (0, 1)
    ]


def by_hand(
    subject: Subject,
    ids: Sequence[int],
    kept: Collection[Node] | None = None,
    patches: Mapping[Node, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [V] at the end of one prompt, and the activations [T, w] at every node site and pattern.

    kept: all others take their ablation value; None: nothing is ablated. patches: node -> its value at every token.
    """
    widths, kept = subject.layout.widths, None if kept is None else set(kept)

    def rebuilt(site: str, x: Tensor) -> Tensor:
        new = x.clone()
        gone = [c for c in range(widths[site]) if kept is not None and Node(site, c) not in kept]
        new[0, :, gone] = subject.circuit.values[site][gone]
        for node, values in (patches or {}).items():
            if node.site == site:
                new[0, :, node.channel] = values
        return new

    seen = Record([*widths, *(f"{layer}.attn.pattern" for layer in range(subject.model.config.n_layer))])
    replace = Replace({site: lambda x, site=site: rebuilt(site, x) for site in widths})
    with torch.no_grad():
        logits = subject.model(torch.tensor([list(ids)]), tap=Chain(replace, seen), weights=weights)
    return logits[0, -1].double(), {site: x[0].double() for site, x in seen.acts.items()}


def loss_by_hand(subject: Subject, kept: Collection[Node] | None, weights: Mapping[str, Tensor] | None = None) -> float:
    """Mean binary loss over all prompts."""
    terms = []
    for ids, right, wrong in prompts(subject.pairs):
        logits, _ = by_hand(subject, ids, kept, weights=weights)
        terms.append(float(F.cross_entropy(logits[[right, wrong]][None], torch.tensor([0]))))
    return sum(terms) / len(terms)
