"""A made-up `viz_data.pt` of a handful of nodes, every number of it written down here, and files of made-up circuits.

`small()` is the plainest form the format allows; tests change it. Losses are stored ones: twice a mean in nats.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.model.edge_weights import site_biases, site_pairs
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Node

PROMPTS = [[5, 6, 7, 8], [5, 6, 9, 0], [5, 3, 7, 8], [5, 3, 9, 0]]
"""Two pairs; the second prompt of each class has three tokens."""


def small() -> dict[str, Any]:
    """A file of six nodes in two layers: model loss 0.1 nats, circuit loss 0.25 nats."""

    def sample(tokens: list[int], position: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return torch.tensor(tokens), torch.tensor([0.5 * token for token in tokens]), position

    activations = {4: torch.arange(16.0).view(4, 4), 7: -torch.ones(4, 4)}
    return {
        "circuit_data": {
            "0.attn.act_in": torch.tensor([1]),
            "0.attn.v": torch.tensor([2, 3]),
            "0.attn.resid_delta": torch.tensor([4, 7]),
            "1.mlp.act_in": torch.tensor([], dtype=torch.long),
            "final_resid": torch.tensor([4]),
        },
        "samples": {"0.attn.v": {2: {0.001: ([sample([1, 2], 1)], [sample([3, 4, 5], 0)]), 0.5: ([], [])}}},
        "importances": {
            "beeg_model_config": {"n_layer": 2, "d_model": 8, "pfrac": 0.5, "afrac_loctypes": "attn_in"},
            "loss": 0.2,
            "interv_loss": 0.5,
            "ch_interv_losses": {
                "0.attn.act_in": [0.5],
                "0.attn.v": [0.75, 0.5],
                "0.attn.resid_delta": [1.5, 0.25],
                "final_resid": [3.0],
            },
            "layer_interv_losses": {"0.attn": 0.75},
            "pair_data": [
                [
                    torch.tensor([[0.125, 0.0], [0.0, 0.0], [0.0, 0.0625]]),
                    [2, 3, "bias"],
                    [4, 7],
                    ("0.attn.v", "0.attn.resid_delta"),
                ],
                [torch.tensor([[0.0, 0.25]]), [1], [2, 3], ("0.attn.act_in", "0.attn.v")],
            ],
            "pair_data_connections": [
                [torch.tensor([[-2.0, 1.0]]), [1], [2, 3], ("0.attn.act_in", "0.attn.v")],
            ],
            "task_samples": (torch.tensor(PROMPTS), {"0.attn.resid_delta": activations}),
        },
        "all_loss": [(0, 1.5), (8, 0.5)],
        "num_total_nodes": 100,
        "prune_config": {"k": 6, "lr": 0.01},
    }


def write(data: Any, folder: Path, name: str = "viz_data.pt") -> Path:
    """The file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(data, folder / name)
    return folder / name


def of_circuit(circuit: Circuit, model: SparseTransformer, prompts: Iterable[list[int]]) -> dict[str, Any]:
    """The file somebody would publish of a circuit of ours: effects 0.5 where there is a weight, connections = weights."""
    kept: dict[str, list[int]] = {}
    for node in circuit.nodes:
        kept.setdefault(node.site, []).append(node.channel)
    biases = site_biases(model)
    effects, connections = [], []
    for source, target, weight, *_ in site_pairs(model):
        rows, columns = kept.get(source, []), kept.get(target, [])
        part = torch.cat([weight[columns][:, rows].T, biases[target][columns][None]])
        names = (source, target)
        effects.append([0.5 * (part != 0).float(), [*rows, "bias"], columns, names])
        connections.append([part.clone(), [*rows, "bias"], columns, names])
    longest = max(len(prompt) for prompt in prompts)
    padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
    config = model.config
    return {
        "circuit_data": {site: torch.tensor(channels) for site, channels in kept.items()},
        "importances": {
            "beeg_model_config": {"n_layer": config.n_layer, "d_model": config.d_model, "n_mlp": config.mlp_width},
            "loss": 0.2,
            "interv_loss": 0.5,
            "ch_interv_losses": {site: [0.5] * len(channels) for site, channels in kept.items()},
            "pair_data": effects,
            "pair_data_connections": connections,
            "task_samples": (torch.tensor(padded), {}),
        },
        "num_total_nodes": circuit.nodes_total,
    }


def channel_keys(stored: Any) -> Any:
    """The same nesting with every whole-number key as a 0-d tensor."""
    if not isinstance(stored, dict):
        return stored
    return {torch.tensor(key) if isinstance(key, int) else key: channel_keys(value) for key, value in stored.items()}


def named(*names: str) -> tuple[Node, ...]:
    return tuple(Node.parse(name) for name in names)
