"""Published circuits: the golden file number by number, every quirk of the format, what a model adds, folders, refusals."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hub.made_up_viz import PROMPTS, channel_keys, named, of_circuit, small, write
from refusals import refused
from sparse_circuits.circuit.ablation import Reference, reference_sites, save_reference
from sparse_circuits.circuit.circuit import Circuit, PublishedLoss, load_circuit
from sparse_circuits.circuit.evaluate import evaluate
from sparse_circuits.commands.circuits import circuit_eval, circuit_show
from sparse_circuits.commands.common import headline
from sparse_circuits.commands.published import circuit_import
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder, write_json, write_text
from sparse_circuits.hub.load import load_model
from sparse_circuits.hub.published import PublishedCircuit, import_circuit, load_published
from sparse_circuits.hub.viz_data import BiasValue, Bucket, EdgeTable, EdgeValue
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Node, node_sites
from sparse_circuits.tasks.load import load_task
from sparse_circuits.viz.document import build_document
from sparse_circuits.viz.table import render_text
from viz.made_up import MadeUp, made_up

GOLDEN = Path(__file__).parent.parent / "golden" / "released" / "viz_like"


def facts(published: PublishedCircuit, file: bool = True) -> dict[str, Any]:
    """Everything it says, as values that compare. file: also which file it came from, and notes."""
    circuit = {name: x for name, x in vars(published.circuit).items() if name not in ("values", "folder")}
    plain = {name: x for name, x in vars(published).items() if name not in ("circuit", "samples", "task_samples")}
    task = published.task_samples
    found = {
        "circuit": circuit,
        **plain,
        "samples": {node: tuple(bucket_facts(x) for x in buckets) for node, buckets in published.samples.items()},
        "task": None if task is None else (task.tokens.tolist(), {n: x.tolist() for n, x in task.activations.items()}),
    }
    return found if file else {name: x for name, x in found.items() if name not in ("source", "notes")}


def bucket_facts(bucket: Bucket) -> tuple[Any, ...]:
    ends = (
        [(x.tokens.tolist(), x.activations.tolist(), x.position) for x in end] for end in (bucket.bottom, bucket.top)
    )
    return bucket.fraction, *ends


# --- the golden file


def by_site(nodes: Iterable[Node], values: Iterable[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for node, value in zip(nodes, values, strict=True):
        found.setdefault(node.site, []).append(value)
    return found


def test_every_golden_number() -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text("utf-8"))
    published = import_circuit(GOLDEN / "viz_data.pt")
    circuit, task = published.circuit, published.task_samples
    assert task is not None and circuit.published_loss is not None
    edges, biases = published.effects.edges, published.effects.biases
    assert {
        "loss_before_pruning": circuit.published_loss.model,
        "loss_after_pruning": circuit.published_loss.circuit,
        "k_nodes": len(circuit.nodes),
        "num_total_nodes": circuit.nodes_total,
        "node_loss_when_ablated": by_site(circuit.nodes, published.node_losses),
        "node_delta": by_site(circuit.nodes, circuit.node_effects),
        "layer_delta": published.layer_effects_as_shown,
        "n_edges": len(edges) + len(biases),  # the release counts the pseudo-node's rows too
        "n_bias_edges": len(biases),
        "edge_pairs": [list(pair) for pair in published.effects.pairs],
        "doc_lengths": list(task.lengths),
        "n_docs": len(task.tokens),
    } == expected
    assert (published.model_loss, published.loss) == (circuit.published_loss.model, circuit.published_loss.circuit)


def test_the_golden_file_agrees_with_itself() -> None:
    """Against the raw file, read here: texts, tables and curve."""
    raw = torch.load(GOLDEN / "viz_data.pt", weights_only=True)
    published = import_circuit(GOLDEN / "viz_data.pt")
    for table, key in ((published.effects, "pair_data"), (published.connections, "pair_data_connections")):
        assert table is not None
        seen = {(str(a), str(b)): x for a, b, x in table.edges} | {("bias", str(b)): x for b, x in table.biases}
        count = 0
        for matrix, sources, targets, (source, target) in raw["importances"][key]:
            for i, j in matrix.nonzero().tolist():
                name = "bias" if sources[i] == "bias" else f"{source}[{sources[i]}]"
                assert seen[name, f"{target}[{targets[j]}]"] == float(matrix[i, j])
                count += 1
        assert count == len(seen)
    for site, channels in raw["samples"].items():
        for channel, fractions in channels.items():
            for bucket in published.samples[Node(site, channel)]:
                for ours, theirs in zip((bucket.bottom, bucket.top), fractions[bucket.fraction], strict=True):
                    assert [x.tokens.tolist() for x in ours] == [tokens.tolist() for tokens, _, _ in theirs]
                    assert [x.activations.tolist() for x in ours] == [acts.tolist() for _, acts, _ in theirs]
                    assert [x.position for x in ours] == [position for _, _, position in theirs]
    assert published.task_samples is not None
    for site, channels in raw["importances"]["task_samples"][1].items():
        assert all(torch.equal(published.task_samples.activations[Node(site, c)], x) for c, x in channels.items())
    assert list(published.pruning_curve) == raw["all_loss"]
    assert published.config == raw["importances"]["beeg_model_config"] and published.prune_config == raw["prune_config"]


# --- the small file, by hand


@pytest.fixture
def published(tmp_path: Path) -> PublishedCircuit:
    return import_circuit(write(small(), tmp_path))


def test_units_are_halved_where_it_is_known_and_raw_where_not(published: PublishedCircuit) -> None:
    circuit = published.circuit
    assert circuit.published_loss == PublishedLoss(circuit=0.25, model=0.1)
    assert (published.loss_stored, published.model_loss_stored) == (0.5, 0.2)
    assert circuit.node_effects == (0.0, 0.125, 0.0, 0.5, -0.125, 1.25)
    assert published.node_losses_stored == (0.5, 0.75, 0.5, 1.5, 0.25, 3.0)
    assert published.layer_losses_stored == {"0.attn": 0.75} and published.layer_effects_as_shown == {"0.attn": 0.5}
    assert published.pruning_curve == ((0, 1.5), (8, 0.5))
    assert any("layer losses" in note for note in published.notes)


def test_nodes_edges_and_the_bias_pseudo_node(published: PublishedCircuit) -> None:
    nodes = named(
        *("0.attn.act_in[1]", "0.attn.v[2]", "0.attn.v[3]", "0.attn.resid_delta[4]", "0.attn.resid_delta[7]"),
        "final_resid[4]",
    )
    act_in, v2, v3, out4, out7, _ = nodes
    assert published.circuit.nodes == nodes and published.circuit.nodes_total == 100
    assert published.effects == EdgeTable(
        pairs=(("0.attn.v", "0.attn.resid_delta"), ("0.attn.act_in", "0.attn.v")),
        edges=(EdgeValue(v2, out4, 0.125), EdgeValue(act_in, v3, 0.25)),
        biases=(BiasValue(out7, 0.0625),),
    )
    assert published.connections is not None and len(published.connections.edges) == 2
    assert [(a, b, w) for a, b, w in published.circuit.edges] == [(act_in, v3, None), (v2, out4, None)]
    assert published.circuit.edges_bias == (out7,)


def test_what_the_file_does_not_say_is_none(published: PublishedCircuit) -> None:
    circuit = published.circuit
    unknown = ("loss", "calibrated_loss", "model_loss", "empty_loss", "accuracy", "target_loss", "ablation", "seed")
    unknown += ("values", "edges_embed", "edges_unembed", "constant_nodes", "stranded_nodes", "met_target")
    assert [getattr(circuit, name) for name in unknown] == [None] * len(unknown)
    assert (circuit.model.hash, circuit.task_origin.hash, circuit.tokenizer.hash) == (None, None, None)
    assert circuit.recipe == {"k": 6, "lr": 0.01} and published.comparison is None


def test_texts(published: PublishedCircuit) -> None:
    buckets = published.samples[Node("0.attn.v", 2)]
    assert [bucket_facts(bucket) for bucket in buckets] == [
        (0.001, [([1, 2], [0.5, 1.0], 1)], [([3, 4, 5], [1.5, 2.0, 2.5], 0)]),
        (0.5, [], []),
    ]
    task = published.task_samples
    assert task is not None and task.lengths == (4, 3, 4, 3) and task.pairs == ((0, 2), (1, 3))
    assert [text.tolist() for text in task.documents] == [[5, 6, 7, 8], [5, 6, 9], [5, 3, 7, 8], [5, 3, 9]]
    assert task.activations[Node("0.attn.resid_delta", 4)].tolist() == torch.arange(16.0).view(4, 4).tolist()


def test_a_document_of_padding_only_has_no_tokens(tmp_path: Path) -> None:
    """Zeros inside a text count; a real last 0 does not (as in the release)."""
    data = small()
    data["importances"]["task_samples"] = (torch.tensor([[0, 0, 0], [0, 4, 0]]), {})
    task = import_circuit(write(data, tmp_path)).task_samples
    assert task is not None and task.lengths == (0, 2)


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = write(small(), tmp_path)
    published = import_circuit(path)
    before = facts(published)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert facts(published) == before


# --- quirks: the same content in another form


def zero_d_channels(data: dict[str, Any]) -> None:
    data["samples"] = channel_keys(data["samples"])
    tokens, activations = data["importances"]["task_samples"]
    data["importances"]["task_samples"] = (tokens, channel_keys(activations))
    for entry in data["importances"]["pair_data"]:
        entry[1] = [x if x == "bias" else torch.tensor(x) for x in entry[1]]
        entry[2] = [torch.tensor(x) for x in entry[2]]


def zero_d_losses(data: dict[str, Any]) -> None:
    found = data["importances"]
    for name in ("loss", "interv_loss"):
        found[name] = torch.tensor(found[name], dtype=torch.float64)
    found["ch_interv_losses"] = {site: [torch.tensor(x) for x in xs] for site, xs in found["ch_interv_losses"].items()}
    found["layer_interv_losses"] = {name: torch.tensor(x) for name, x in found["layer_interv_losses"].items()}
    data["num_total_nodes"] = torch.tensor(data["num_total_nodes"])
    data["all_loss"] = [[torch.tensor(step), torch.tensor([loss])] for step, loss in data["all_loss"]]


def losses_as_tensors(data: dict[str, Any]) -> None:
    found = data["importances"]["ch_interv_losses"]
    data["importances"]["ch_interv_losses"] = {site: torch.tensor(xs) for site, xs in found.items()}


def nested_tables(data: dict[str, Any]) -> None:
    """One list per rank, one of them empty."""
    data["importances"]["pair_data"] = [[entry] for entry in data["importances"]["pair_data"]] + [[]]
    data["importances"]["pair_data_connections"] = [data["importances"]["pair_data_connections"]]


def four_entries_in_a_rank(data: dict[str, Any]) -> None:
    """A rank with four entries looks like an entry with four fields."""
    first, second = data["importances"]["pair_data"]
    data["importances"]["pair_data"] = [[first, second, copy.deepcopy(second), copy.deepcopy(first)]]


def other_dtypes(data: dict[str, Any]) -> None:
    (tokens, strengths, position) = data["samples"]["0.attn.v"][2][0.001][0][0]
    data["samples"]["0.attn.v"][2][0.001] = (
        [(tokens.to(torch.int16), strengths.half(), torch.tensor(position))],
        data["samples"]["0.attn.v"][2][0.001][1],
    )
    texts, activations = data["importances"]["task_samples"]
    bf16 = {site: {c: x.bfloat16() for c, x in channels.items()} for site, channels in activations.items()}
    data["importances"]["task_samples"] = (texts.to(torch.uint8), bf16)
    for entry in data["importances"]["pair_data"]:
        entry[0] = entry[0].double().t().contiguous().t()  # a view
    data["circuit_data"] = {site: x.to(torch.int32) for site, x in data["circuit_data"].items()}


def lists_for_tensors(data: dict[str, Any]) -> None:
    data["circuit_data"] = {site: x.tolist() for site, x in data["circuit_data"].items()}
    for entry in data["importances"]["pair_data"]:
        entry[0], entry[3] = entry[0].tolist(), list(entry[3])
    data["importances"]["task_samples"] = list(data["importances"]["task_samples"])


def other_order(data: dict[str, Any]) -> None:
    data["circuit_data"] = dict(reversed(data["circuit_data"].items()))
    data["circuit_data"]["0.attn.v"] = torch.tensor([3, 2])
    data["importances"]["ch_interv_losses"]["0.attn.v"].reverse()


def floats_for_nothing(data: dict[str, Any]) -> None:
    """torch.tensor([]) is a float tensor; matrices of nothing come in any shape."""
    data["circuit_data"]["1.mlp.act_in"] = torch.tensor([])
    data["circuit_data"]["1.mlp.resid_delta"] = torch.tensor([])
    data["importances"]["ch_interv_losses"]["1.mlp.act_in"] = []


def misplaced_prune_config(data: dict[str, Any]) -> None:
    data["circuit_data"]["prune_config"] = data.pop("prune_config")


def more_keys(data: dict[str, Any]) -> None:
    data["importances"]["timing"] = data["rank"] = 3


QUIRKS: tuple[Callable[[dict[str, Any]], None], ...] = (
    *(zero_d_channels, zero_d_losses, losses_as_tensors, nested_tables, four_entries_in_a_rank, other_dtypes),
    *(lists_for_tensors, other_order, floats_for_nothing, misplaced_prune_config, more_keys),
)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.__name__)
def test_a_quirk_changes_nothing(quirk: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    data = small()
    quirk(data)
    ours = facts(import_circuit(write(data, tmp_path / "quirk")), file=False)
    assert ours == facts(import_circuit(write(small(), tmp_path / "plain")), file=False)


def test_a_misplaced_prune_config_is_said(tmp_path: Path) -> None:
    data = small()
    misplaced_prune_config(data)
    assert any("inside circuit_data" in note for note in import_circuit(write(data, tmp_path)).notes)


def test_matrices_without_sources_or_targets(tmp_path: Path) -> None:
    data = small()
    table = data["importances"]["pair_data"]
    table.append([torch.zeros(0), [], [], ("0.mlp.act_in", "0.mlp.post_act")])
    table.append([torch.zeros(1, 0), ["bias"], [], ("1.mlp.act_in", "1.mlp.post_act")])
    effects = import_circuit(write(data, tmp_path)).effects
    assert len(effects.pairs) == 4 and len(effects.edges) == 2


@pytest.mark.parametrize("form", [None, "gone"])
def test_absent_parts_are_noted(form: str | None, tmp_path: Path) -> None:
    data = small()
    names = {"samples": data, "all_loss": data, "prune_config": data}
    names |= dict.fromkeys(("pair_data_connections", "task_samples", "layer_interv_losses"), data["importances"])
    for name, holder in names.items():
        holder.pop(name)
        if form is None:
            holder[name] = None
    published = import_circuit(write(data, tmp_path))
    assert {note for note in published.notes if "absent" in note} == {f"{name} is absent" for name in names}
    assert published.samples == {} and published.pruning_curve == () and published.layer_losses_stored == {}
    assert published.task_samples is None and published.connections is None and published.prune_config is None
    published.save(tmp_path / "saved")
    assert facts(load_published(tmp_path / "saved"))["task"] is None


def test_names_come_from_the_published_layout_or_the_caller(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "viz" / "csp_yolo1" / "quotes" / "prune_v2" / "64")
    circuit = import_circuit(path).circuit
    assert (circuit.task, circuit.model.where, circuit.task_origin.where) == ("quotes", "csp_yolo1", "quotes")
    assert import_circuit(path, task="own").circuit.task == "own"
    elsewhere = import_circuit(write(small(), tmp_path)).circuit
    assert (elsewhere.task, elsewhere.model.where) == ("unknown", "")


# --- files that are none


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def remove(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return remove


def with_value(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def put(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return put


ENTRY = [torch.tensor([[0.5]]), [1], [2], ("0.attn.act_in", "0.attn.v")]
WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = {
    **{
        f"no {path[-1]}": (without(*path), (f"has no {path[-1]!r}",))
        for path in (
            ("circuit_data",),
            ("importances",),
            ("num_total_nodes",),
            *(
                ("importances", key)
                for key in ("beeg_model_config", "loss", "interv_loss", "ch_interv_losses", "pair_data")
            ),
            ("importances", "ch_interv_losses", "0.attn.v"),
        )
    },
    "an unknown site": (with_value([1], "circuit_data", "0.attn.y"), ("0.attn.y", "allowed", "attn.q")),
    "a site without layer": (with_value([1], "circuit_data", "attn.q"), ("'attn.q'", "allowed")),
    "a layer too many": (
        lambda data: (
            with_value([1], "circuit_data", "2.attn.q")(data),
            with_value([1.0], "importances", "ch_interv_losses", "2.attn.q")(data),
        )[0],
        ("2.attn.q[1]", "2 layers"),
    ),
    "a node twice": (with_value(torch.tensor([2, 2]), "circuit_data", "0.attn.v"), ("0.attn.v[2] twice",)),
    "a channel below 0": (with_value(torch.tensor([-2, 2]), "circuit_data", "0.attn.v"), ("channel -2",)),
    "half a channel": (with_value([2.5, 3.0], "circuit_data", "0.attn.v"), ("whole number", "2.5")),
    "a mask for channels": (
        with_value(torch.tensor([True, False]), "circuit_data", "0.attn.v"),
        ("circuit_data[0.attn.v]", "not booleans"),
    ),
    "a loss too few": (with_value([0.5], "importances", "ch_interv_losses", "0.attn.v"), ("1 losses for 2 nodes",)),
    "a loss in words": (with_value("low", "importances", "loss"), ("loss must be a number, not str",)),
    "many losses": (with_value(torch.ones(2), "importances", "interv_loss"), ("interv_loss must be a number",)),
    "a loss that is none": (with_value(float("nan"), "importances", "interv_loss"), ("interv_loss holds nan",)),
    "a table that is none": (with_value(3, "importances", "pair_data"), ("pair_data must be a list",)),
    "an entry too short": (with_value(ENTRY[:3], "importances", "pair_data", 0), ("pair_data must",)),
    "a matrix too small": (
        with_value(torch.zeros(2, 2), "importances", "pair_data", 0, 0),
        ("pair_data of 0.attn.v -> 0.attn.resid_delta has shape (2, 2) for 3 sources and 2 targets",),
    ),
    "a bias row first": (with_value(["bias", 2, 3], "importances", "pair_data", 0, 1), ("'bias' before its last",)),
    "another word": (with_value([2, 3, "norm"], "importances", "pair_data", 0, 1), ("must be a number, not str",)),
    "an edge at a node that is not kept": (
        with_value([2, 9, "bias"], "importances", "pair_data", 0, 1),
        (),  # row 9 is all zero: allowed, see the test below
    ),
    "an edge of no number": (
        with_value(torch.tensor([[float("inf"), 0.0]]), "importances", "pair_data", 1, 0),
        ("pair_data holds inf",),
    ),
    "two values for an edge": (
        lambda data: data["importances"]["pair_data"].append(
            [torch.tensor([[0.5]]), [1], [3], ("0.attn.act_in", "0.attn.v")]
        ),
        ("0.attn.act_in[1] -> 0.attn.v[3] two different values",),
    ),
    "texts of two lengths": (
        with_value(([(torch.tensor([1, 2]), torch.tensor([1.0]), 0)], []), "samples", "0.attn.v", 2, 0.001),
        ("samples of 0.attn.v[2]", "2 tokens and 1 activations"),
    ),
    "a text without position": (
        with_value(([(torch.tensor([1]), torch.tensor([1.0]))], []), "samples", "0.attn.v", 2, 0.001),
        ("3 parts",),
    ),
    "task texts of one class": (
        with_value((torch.ones(3, 4), {}), "importances", "task_samples"),
        ("task_samples", "(3, 4)", "half per class"),
    ),
    "task activations of another shape": (
        with_value((torch.ones(2, 4), {"0.attn.v": {2: torch.ones(2, 3)}}), "importances", "task_samples"),
        ("task_samples of 0.attn.v[2]", "(2, 4)"),
    ),
    "a curve of losses only": (with_value([0.5, 0.25], "all_loss"), ("all_loss must come as 2 parts",)),
}
ALLOWED = {"an edge at a node that is not kept"}


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ALLOWED])
def test_a_wrong_file_is_refused_with_file_and_key(name: str, tmp_path: Path) -> None:
    change, words = WRONG[name]
    data = small()
    change(data)
    path = write(data, tmp_path)
    assert words
    with refused(str(path), *words):
        import_circuit(path)


def test_edges_need_kept_nodes_only_where_there_is_an_effect(tmp_path: Path) -> None:
    data = small()
    with_value([2, 9, "bias"], "importances", "pair_data", 0, 1)(data)
    assert len(import_circuit(write(data, tmp_path)).effects.edges) == 2
    data["importances"]["pair_data"][0][0][1, 0] = 0.5
    with refused("0.attn.v[9], which circuit_data does not keep"):
        import_circuit(write(data, tmp_path))


def test_files_of_another_kind(tmp_path: Path) -> None:
    text = tmp_path / "viz_data.pt"
    text.write_text("no zip", "utf-8")
    with refused(str(text)):
        import_circuit(text)
    with refused("no file nothing.pt"):
        import_circuit(tmp_path / "nothing.pt")
    with refused("must be a dictionary, not list"):
        import_circuit(write([1, 2], tmp_path))
    with refused("asks to run code"):
        import_circuit(write({"circuit_data": Path("x")}, tmp_path))


# --- with the model


@pytest.fixture(scope="module")
def made() -> MadeUp:
    return made_up()


def prompts_of(made: MadeUp) -> list[list[int]]:
    """A few training prompts of the task, class A first."""
    pairs = made.task.pairs("train", 6, made.tokenizer)
    rows = zip(pairs.tokens.transpose(0, 1).flatten(0, 1).tolist(), pairs.lengths.T.flatten().tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


@pytest.fixture
def with_model(made: MadeUp, tmp_path: Path) -> PublishedCircuit:
    data = of_circuit(made.circuit, made.model, prompts_of(made))
    return import_circuit(write(data, tmp_path), model=made.model)


def test_weights_are_the_models(made: MadeUp, with_model: PublishedCircuit) -> None:
    """`made.circuit` counted its edges on its own training prompts, which are those of the file."""
    ours, published = made.circuit, with_model.circuit
    assert published.nodes == ours.nodes and published.edges == ours.edges and published.edges_bias == ours.edges_bias
    assert published.edges_embed == ours.edges_embed and published.constant_nodes == ours.constant_nodes
    assert published.edges_unembed is None and published.stranded_nodes is None
    assert published.model.hash == model_hash(made.model)
    compared = with_model.comparison
    assert compared is not None and compared.connections_off == 0.0
    assert (compared.zero_weight, compared.unlisted, compared.zero_bias, compared.unlisted_bias) == ((), (), (), ())
    assert not any("counts" in note for note in with_model.notes)


def test_the_model_and_the_file_are_told_apart(tmp_path: Path) -> None:
    """One effect without weight, one weight without effect, in matrix and bias row, and one connection off by 2."""
    made = made_up(90)
    data = of_circuit(made.circuit, made.model, prompts_of(made))
    found = data["importances"]
    index = next(
        i for i, (x, *_) in enumerate(found["pair_data"]) if (x[:-1] == 0).any() and x[:-1].any() and x[-1].any()
    )
    matrix, rows, columns, (source, target) = found["pair_data"][index]
    i, j = (matrix[:-1] == 0).nonzero()[0].tolist()
    k, m = matrix[:-1].nonzero()[0].tolist()
    b = int(matrix[-1].nonzero()[0])
    matrix[i, j], matrix[k, m], matrix[-1, b] = 0.75, 0.0, 0.0
    found["pair_data_connections"][index][0][k, m] += 2
    data["num_total_nodes"] += 1
    published = import_circuit(write(data, tmp_path), model=made.model)
    compared = published.comparison
    assert compared is not None
    assert compared.zero_weight == (EdgeValue(Node(source, rows[i]), Node(target, columns[j]), 0.75),)
    assert [(a, b) for a, b, _ in compared.unlisted] == [(Node(source, rows[k]), Node(target, columns[m]))]
    assert compared.unlisted_bias == (Node(target, columns[b]),) and compared.zero_bias == ()
    assert compared.connections_off == pytest.approx(2.0)
    assert len(published.circuit.edges) == len(made.circuit.edges)
    assert any(f"counts {data['num_total_nodes']} nodes" in note for note in published.notes)


@pytest.mark.parametrize("name", ["rms_afrac_full_bigram", "relu_resid_nobias_learnbigram", "sink_catpos_afrac_full"])
def test_the_golden_file_fits_its_golden_model_only(name: str) -> None:
    """Its unexplained second table is exactly the weights."""
    model = load_model(GOLDEN.parent / name)
    if name != "rms_afrac_full_bigram":
        with refused("the published circuit is of a model with", "give its own model"):
            import_circuit(GOLDEN / "viz_data.pt", model=model)
        return
    published = import_circuit(GOLDEN / "viz_data.pt", model=model)
    compared, circuit = published.comparison, published.circuit
    assert compared is not None and compared.connections_off == 0.0
    assert (compared.zero_weight, compared.unlisted, compared.zero_bias, compared.unlisted_bias) == ((), (), (), ())
    assert len(circuit.edges) == 16 and len(circuit.edges_bias) == 24 and circuit.edges_embed


def test_without_prompts_the_embedding_is_not_known(made: MadeUp, tmp_path: Path) -> None:
    data = of_circuit(made.circuit, made.model, prompts_of(made))
    del data["importances"]["task_samples"]
    circuit = import_circuit(write(data, tmp_path), model=made.model).circuit
    assert circuit.edges_embed is None and circuit.constant_nodes is None and circuit.edges == made.circuit.edges


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_value(3, "importances", "beeg_model_config", "n_layer"), ("n_layer 3", "has 2")),
        (with_value(16, "importances", "beeg_model_config", "d_model"), ("d_model 16", "has 32")),
        (with_value(7, "importances", "beeg_model_config", "n_mlp"), ("d_mlp 7",)),
        (with_value(False, "importances", "beeg_model_config", "bias"), ("bias False",)),
        (
            with_value((torch.full((2, 3), 5000), {}), "importances", "task_samples"),
            ("token 5000", "the model has"),
        ),
    ],
)
def test_another_model_is_refused(
    change: Callable[[dict[str, Any]], None], words: tuple[str, ...], made: MadeUp, tmp_path: Path
) -> None:
    data = of_circuit(made.circuit, made.model, prompts_of(made))
    change(data)
    with refused(*words):
        import_circuit(write(data, tmp_path), model=made.model)


def test_a_channel_beyond_the_models_width_is_refused(made: MadeUp, tmp_path: Path) -> None:
    data = small()
    data["importances"]["beeg_model_config"] = {"n_layer": 2}
    data["circuit_data"]["final_resid"] = torch.tensor([1000])
    with refused("final_resid[1000] does not exist"):
        import_circuit(write(data, tmp_path), model=made.model)


def drawn_values(model: SparseTransformer) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        site: torch.randn(model.widths[site], generator=generator) for site in reference_sites(model.config.n_layer)
    }


def test_with_a_reference_it_scores_as_our_own_circuit(made: MadeUp, with_model: PublishedCircuit) -> None:
    """The same nodes with the same values in a circuit of our own give the same number."""
    values = drawn_values(made.model)
    ours: Circuit = made.circuit.replace(
        values=values,
        model=with_model.circuit.model,
        tokenizer=made.circuit.tokenizer.__class__(where="", hash=tokenizer_hash(made.tokenizer)),
    )
    expected = evaluate(ours.replace(calibration=None), made.model, made.task, tokenizer=made.tokenizer, n=8)
    theirs = with_model.circuit
    with refused("no ablation values", "with_reference(values)"):
        evaluate(theirs, made.model, made.task, tokenizer=made.tokenizer, n=8)
    ready = theirs.with_reference(values)
    assert ready.ablation is None and theirs.with_reference(values, "mean_pretrain").ablation == "mean_pretrain"
    assert evaluate(ready, made.model, made.task, tokenizer=made.tokenizer, n=8) == expected


def test_the_report_says_not_published(made: MadeUp, with_model: PublishedCircuit) -> None:
    ready = with_model.circuit.with_reference(drawn_values(made.model))
    bare = ready.replace(edges=tuple(edge._replace(weight=None) for edge in ready.edges), edges_embed=None)
    for circuit in (ready, bare):
        document = build_document(circuit, made.model, made.task, made.tokenizer, n_pairs=1)
        header = document.header
        assert header.met_target is None and header.published_loss == {"circuit": 0.25, "model": 0.1}
        assert (header.loss.test, header.seed, header.stranded_nodes) == (None, None, None)
        assert {node.stranded for node in document.nodes} == {None}
        assert [edge.weight for edge in document.edges] == [edge.weight for edge in circuit.edges]
        text = render_text(document)
        assert "target not published" in text and "published loss 0.25 nats, full model 0.1" in text
        assert "unembed not published" in text and "None" not in text


# --- folders


def test_a_folder_reads_back(published: PublishedCircuit, tmp_path: Path) -> None:
    published.save(tmp_path / "a" / "saved")
    again = load_published(tmp_path / "a" / "saved")
    assert again.source.where == "../../viz_data.pt" and again.source.hash == published.source.hash
    assert facts(again.replace(source=published.source)) == facts(published)
    circuit = load_circuit(tmp_path / "a" / "saved")
    assert {**vars(circuit), "folder": None} == vars(published.circuit)


def test_a_comparison_reads_back(made: MadeUp, with_model: PublishedCircuit, tmp_path: Path) -> None:
    ready = with_model.replace(circuit=with_model.circuit.with_reference(drawn_values(made.model)))
    ready.save(tmp_path / "saved")
    again = load_published(tmp_path / "saved")
    assert again.comparison == ready.comparison and again.circuit.edges == ready.circuit.edges
    assert again.circuit.values is not None and set(again.circuit.values) == set(drawn_values(made.model))


SITES = st.sampled_from(node_sites(2))
NUMBERS = st.floats(-4, 4, width=32)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Any file of a two-layer model: nodes, tables and texts of all small sizes."""
    kept = draw(st.dictionaries(SITES, st.lists(st.integers(0, 30), unique=True, max_size=3), max_size=4))
    pairs = (
        draw(st.lists(st.tuples(st.sampled_from([*kept]), st.sampled_from([*kept])), unique=True, max_size=3))
        if kept
        else []
    )

    def table() -> list[Any]:
        entries = []
        biased = set()  # a target has one bias, so at most one of its tables may give it
        for source, target in pairs:
            rows = [*kept[source], "bias"] if target not in biased and draw(st.booleans()) else kept[source]
            biased |= {target} if "bias" in rows else set()
            size = len(rows) * len(kept[target])
            flat = draw(st.lists(st.just(0.0) | NUMBERS, min_size=size, max_size=size))
            matrix = torch.tensor(flat).view(len(rows), len(kept[target]))
            entries.append([matrix, rows, kept[target], (source, target)])
        return entries

    def text() -> tuple[Any, ...]:
        acts = draw(st.lists(NUMBERS, max_size=3))
        return torch.tensor([*range(len(acts))]), torch.tensor(acts), draw(st.integers(0, 5))

    def texts() -> list[Any]:
        return [text() for _ in range(draw(st.integers(0, 2)))]

    def activations() -> torch.Tensor:
        return torch.tensor(draw(st.lists(NUMBERS, min_size=4, max_size=4))).view(2, 2)

    channels = {site: {c: activations() for c in cs} for site, cs in kept.items()}
    data = small() | {
        "circuit_data": {site: torch.tensor(channels) for site, channels in kept.items()},
        "samples": {site: {c: {0.1: (texts(), texts())} for c in cs} for site, cs in kept.items()},
        "all_loss": [(step, draw(NUMBERS)) for step in range(draw(st.integers(0, 2)))],
    }
    losses = {site: draw(st.lists(NUMBERS, min_size=len(cs), max_size=len(cs))) for site, cs in kept.items()}
    data["importances"] |= {
        "loss": draw(NUMBERS),
        "interv_loss": draw(NUMBERS),
        "ch_interv_losses": losses,
        "pair_data": table(),
        "pair_data_connections": draw(st.none() | st.just(table())),
        "task_samples": (torch.tensor([[1, 2], [3, 0]]), channels) if draw(st.booleans()) else None,
    }
    return data


@given(files())
def test_any_file_survives_its_folder(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    place = tmp_path_factory.mktemp("any")
    published = import_circuit(write(data, place))
    kept = {Node(site, c) for site, channels in data["circuit_data"].items() for c in channels.tolist()}
    assert set(published.circuit.nodes) == kept
    nonzero = sum(int((entry[0] != 0).sum()) for entry in data["importances"]["pair_data"])
    assert len(published.effects.edges) + len(published.effects.biases) == nonzero
    published.save(place / "saved")
    assert facts(load_published(place / "saved").replace(source=published.source)) == facts(published)
    assert {**vars(load_circuit(place / "saved")), "folder": None} == vars(published.circuit)


def edit(file: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stored = json.loads((folder / file).read_text("utf-8"))
        stored[key] = value
        write_json(folder / file, stored)

    return change


def cut(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])

    return change


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no published.json": lambda folder: (folder / "published.json").unlink(),
    "no samples": lambda folder: (folder / "samples.safetensors").unlink(),
    "no circuit": lambda folder: (folder / "circuit.json").unlink(),
    "cut samples": cut("samples.safetensors"),
    "cut json": cut("published.json"),
    "other samples": edit("published.json", "samples_sha256", "00"),
    "another kind": edit("published.json", "kind", "circuit"),
    "another version": edit("published.json", "format_version", 2),
    "a loss too few": edit("published.json", "node_losses_stored", [0.5]),
    "a loss in words": edit("published.json", "loss_stored", "low"),
    "no table": edit("published.json", "effects", None),
    "a table without pairs": edit("published.json", "effects", {"edges": [], "biases": []}),
    "a node misspelt": edit("published.json", "task_nodes", ["x"]),
    "a text too long": edit("published.json", "samples", [["0.attn.v[2]", [[0.1, [[99, 0]], []]]]]),
    "a text too few": edit("published.json", "samples", []),
    "a bucket too short": edit("published.json", "samples", [["0.attn.v[2]", [[0.1]]]]),
    "a comparison of nothing": edit("published.json", "comparison", {}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], published: PublishedCircuit, tmp_path: Path
) -> None:
    published.save(tmp_path / "saved")
    damage(tmp_path / "saved")
    with refused(str(tmp_path / "saved")):
        load_published(tmp_path / "saved")


def test_a_folder_of_other_things_is_not_replaced(published: PublishedCircuit, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", "utf-8")
    with refused("holds other files"):
        published.save(tmp_path / "mine")
    published.save(tmp_path / "saved")
    published.save(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        *("circuit.json", "published.json", "samples.safetensors"),
    ]


# --- the command


@pytest.fixture
def model_folder(made: MadeUp, tmp_path: Path) -> Path:
    with new_folder(tmp_path / "model") as draft:
        save_model(made.model, draft, tokenizer_hash(made.tokenizer))
        save_tokenizer(made.tokenizer, draft)
        values = drawn_values(made.model)
        save_reference(Reference(values=values, tokens=9, corpus_hash="ef", model_hash=model_hash(made.model)), draft)
    return tmp_path / "model"


def test_import_and_show(tmp_path: Path) -> None:
    path, out = write(small(), tmp_path), str(tmp_path / "circuit")
    said = circuit_import(str(path), out)
    shown = circuit_show(out)
    assert said.data == {**shown.data, "published": load_published(out).summary(), "path": out}
    assert json.loads(json.dumps(said.data)) == said.data and said.data["published"]["effects"] == 2
    for text in (said.text, shown.text):
        assert "published loss 0.2500 nats, model 0.1000" in text and "target not published" in text
        assert "None" not in text
    assert "final_resid[4]  +1.250" in shown.text and "0.attn.resid_delta[7]  -0.125" in shown.text
    with refused("no ablation values", "--reference"):
        circuit_eval(out)


def own_task() -> list[dict[str, Any]]:
    """A task file in the words of the made-up tokenizer."""
    header = {"task": "own", "completions": ["')\n", '")\n'], "slots": {"word": ["a", "b", "c", "d", "e", "f"]}}
    starts = ("print(", "f(", "g(")
    lines = [
        {"split": split, "a": f"{split[0]} = {start}'<word>", "b": f'{split[0]} = {start}"<word>'}
        for split in ("train", "val", "test")
        for start in starts
    ]
    return [header, *lines]


def test_import_with_model_and_reference_can_be_scored(made: MadeUp, model_folder: Path, tmp_path: Path) -> None:
    path = write(of_circuit(made.circuit, made.model, prompts_of(made)), tmp_path)
    out = str(tmp_path / "circuit")
    with refused("give --model"):
        circuit_import(str(path), out, reference=str(model_folder))
    said = circuit_import(str(path), out, model=str(model_folder), reference=str(model_folder), task="two_quotes")
    assert said.data["ablation"] == "mean_pretrain" and said.data["edges"] == len(made.circuit.edges)
    assert "0 published edges have weight 0, 0 nonzero weights" in said.text
    loaded = load_circuit(out)
    assert loaded.values is not None and loaded.reference == {"tokens": 9, "corpus_hash": "ef"}
    with refused("two_quotes", "give it with --task"):
        circuit_eval(out)
    task = tmp_path / "task.jsonl"
    write_text(task, "".join(json.dumps(line) + "\n" for line in own_task()))
    scored = circuit_eval(out, task=str(task), pairs=4)
    expected = evaluate(loaded, load_model(model_folder), load_task(task), tokenizer=made.tokenizer, n=4)
    assert scored.data["loss"] == expected.loss and scored.data["n_pairs"] == expected.n_pairs > 0


def test_a_headline_of_an_own_circuit_is_as_before(made: MadeUp) -> None:
    assert headline(made.circuit.summary()).splitlines()[1:] == [
        "test loss 0.1437 nats (train 0.1210, val 0.1380), target 0.15 met; model 0.0304, empty 0.6931"
    ]


def test_prompts_of_the_small_file_are_pairs() -> None:
    """The made-up file is what the format says: halves of the same length, pairs that differ."""
    half = len(PROMPTS) // 2
    assert all(a != b and len(a) == len(b) for a, b in zip(PROMPTS[:half], PROMPTS[half:], strict=True))
