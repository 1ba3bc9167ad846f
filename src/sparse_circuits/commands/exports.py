"""The verb that writes a circuit for other programs: GraphML, or an attribution graph of one prompt."""

from pathlib import Path

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, open_circuit

FORMATS = ("graphml", "attribution-graph")
PAIRS = 2
"""Pairs to record for an attribution graph; attention patterns come with that many."""


def circuit_export(
    folder: Where,
    to: str,
    out: str,
    model: str | None = None,
    task: str | None = None,
    pair: int = 0,
    label: int = 0,
    common: Shared = DEFAULTS,
) -> Output:
    """Writes a circuit as GraphML, or what it does on one prompt as an attribution graph.

    Args:
        folder: Circuit folder.
        to: graphml, or attribution-graph (the JSON that circuit-tracer's page reads).
        out: New file; an attribution graph must be called NAME.json, and the page knows it as NAME.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
        pair: Which pair's prompt an attribution graph is of, 0 or 1; --seed draws others.
        label: Which prompt of the pair, 0 for class A or 1 for class B.
    """
    from sparse_circuits.files import write_json, write_text
    from sparse_circuits.viz.attribution_graph import attribution_graph
    from sparse_circuits.viz.document import build_document
    from sparse_circuits.viz.graphml import graphml_tree, tree_text

    path = Path(out)
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; allowed: {', '.join(FORMATS)}")
    if to == "attribution-graph" and path.suffix != ".json":
        raise ValueError(f"the page reads no {path.name!r}; call the attribution graph NAME.json")
    document = build_document(*open_circuit(folder, model, common, task), n_pairs=PAIRS, seed=common.seed)
    if to == "graphml":
        tree = graphml_tree(document)
        write_text(path, tree_text(tree))
        counts = {"nodes": len(tree.findall("graph/node")), "edges": len(tree.findall("graph/edge"))}
    else:
        graph = attribution_graph(document, pair=pair, label=label, slug=path.stem)
        write_json(path, graph)
        counts = {"nodes": len(graph["nodes"]), "edges": len(graph["links"])}
    text = f"{to} of {document.header.task}: {counts['nodes']} nodes, {counts['edges']} edges, in {path}"
    return Output({"file": str(path), "format": to, **counts}, text)
