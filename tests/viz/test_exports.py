"""The verb `circuit export`: both formats from a circuit folder, and what it says to bad input."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import networkx
import pytest

from sparse_circuits.circuit.circuit import Origin
from sparse_circuits.cli import main
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder, write_text
from sparse_circuits.model.folder import save_model
from viz.made_up import made_up

STARTS = {
    "train": ("print('<word>", "f('<word>", "x = g('<word>"),
    "val": ("y = h('<word>", "z('<word>", "a = b('<word>"),
    "test": ("def f():\n    return g('<word>", "k = l('<word>", "m('<word>"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, task.jsonl and circuit/, a circuit of that model for that task."""
    root = tmp_path_factory.mktemp("exports")
    circuit, model, _, tokenizer = made_up(40)
    with new_folder(root / "model") as draft:
        save_model(model, draft, tokenizer_hash(tokenizer))
        save_tokenizer(tokenizer, draft)
    words = ["hello", "good", "blue", "sad", "small", "world", "green", "night"]
    rows: list[dict[str, Any]] = [{"task": "quotes", "completions": ["')\n", '")\n'], "slots": {"word": words}}]
    for split, starts in STARTS.items():
        rows += [{"split": split, "a": start, "b": start.replace("'", '"')} for start in starts]
    write_text(root / "task.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    here = Origin(where=str(root / "model"), hash=None)
    circuit.replace(model=here, tokenizer=here, task_origin=Origin(where="quotes", hash=None)).save(root / "circuit")
    return root


def export(place: Path, *options: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    given = ("circuit", "export", place / "circuit", "--task", place / "task.jsonl", *options, "--quiet", "--json")
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(option) for option in given])
    return code, out.getvalue(), err.getvalue()


def test_graphml(place: Path) -> None:
    out = place / "circuit.graphml"
    code, said, _ = export(place, "--to", "graphml", "--out", out)
    graph = networkx.read_graphml(out)
    assert code == 0
    counts = {"nodes": graph.number_of_nodes(), "edges": graph.number_of_edges()}
    assert json.loads(said) == {"file": str(out), "format": "graphml", **counts}
    assert sum(name.startswith("n") for name in graph) == len(made_up(40).circuit.nodes)


def test_attribution_graph(place: Path) -> None:
    out = place / "one.json"
    code, said, _ = export(place, "--to", "attribution-graph", "--out", out, "--pair", 1, "--label", 1)
    graph = json.loads(out.read_text("utf-8"))
    assert code == 0
    counts = {"nodes": len(graph["nodes"]), "edges": len(graph["links"])}
    assert json.loads(said) == {"file": str(out), "format": "attribution-graph", **counts}
    assert graph["metadata"]["slug"] == "one"
    assert '"' in graph["metadata"]["prompt"] and "'" not in graph["metadata"]["prompt"]  # class B


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "gexf", "--out", "x.gexf"), ("'gexf'", "allowed: graphml, attribution-graph")),
        (("--to", "attribution-graph", "--out", "x.html"), ("'x.html'", "NAME.json")),
        (("--to", "attribution-graph", "--out", "x.json", "--pair", 2), ("pair 2", "pairs 0..1")),
    ],
)
def test_bad_input_is_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, error = export(place, *options)
    assert code == 2 and said == "" and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []
