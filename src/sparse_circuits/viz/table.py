"""The report of a circuit for a terminal: verdict, key numbers, counts per layer and site, nodes with their effects.

`render` returns a rich renderable; `render_text` the same as plain text, for files and for output that is no terminal.
"""

import io
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparse_circuits.viz.document import Document, Header, NodeView

WIDTH = 110
UNKNOWN = "not published"


def render_text(document: Document, *, width: int = WIDTH, node_limit: int | None = 40) -> str:
    """The report as plain text without colours or escapes."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(render(document, node_limit=node_limit))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def render(document: Document, *, node_limit: int | None = 40) -> RenderableType:
    """The report; `node_limit` most important nodes are listed, None lists all."""
    return Group(
        _title(document.header), _numbers(document.header), _places(document), _node_list(document, node_limit)
    )


def _title(header: Header) -> Text:
    verdicts = {True: ("met", "bold green"), False: ("MISSED", "bold red"), None: (UNKNOWN, "bold")}
    met, style = verdicts[header.met_target]
    title = Text.assemble((header.task, "bold"), "  ", (f"target {met}", style), f"\n{header.statement}\n")
    if header.published_loss is not None:
        circuit, model = (_number(header.published_loss[name]) for name in ("circuit", "model"))
        title.append(f"published loss {circuit} nats, full model {model} (on which prompts is not said)\n")
    return title


def _numbers(header: Header) -> Table:
    table = Table(title="loss, nats", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for split in ("train", "val", "test"):
        table.add_column(split, justify="right")
    rows = {"circuit": header.loss, "calibrated": header.calibrated_loss, "full model": header.model_loss}
    unknown = "-" if header.published_loss is None else UNKNOWN
    for name, losses in rows.items():
        known = {losses.train, losses.val, losses.test} != {None}
        first = (_number(losses.train), _number(losses.val)) if known else ("", "")
        table.add_row(name, *first, _number(losses.test, unknown))
    table.add_row("empty circuit", "", "", _number(header.empty_loss, unknown))
    measured = "loss" if header.target_on == "loss" else "calibrated loss"
    table.add_row(f"target ({measured})", "", "", _number(header.target_loss, unknown))
    return table


def _places(document: Document) -> Table:
    """Nodes at every site of every layer, and the edges inside the layer."""
    kinds = list(dict.fromkeys(site.kind for site in document.sites if site.layer is not None))
    edges = Counter[str]()
    for matrix in document.matrices:
        edges[matrix.source.partition(".")[0]] += matrix.edges
    kept = {(site.layer, site.kind): site.nodes for site in document.sites}
    header = document.header
    counts = {"embed": header.edges_embed, "unembed": header.edges_unembed, "bias": header.edges_bias}
    beside = ", ".join(f"{name} {UNKNOWN}" if n is None else f"{n} {name}" for name, n in counts.items())
    title = f"\n{header.nodes} of {header.nodes_total} nodes, {header.edges} edges ({beside} beside them)"
    if header.removable is not None:
        title += f"; {header.removable or 'none'} of them could go alone"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer")
    for name in (*(kind.replace(".", "\n") for kind in kinds), "edges"):
        table.add_column(name, justify="right")
    for layer in range(header.n_layer):
        counts = (kept[layer, kind] for kind in kinds)
        table.add_row(str(layer), *(str(count or "·") for count in counts), str(edges[str(layer)] or "·"))
    for site in document.sites:
        if site.layer is None:
            table.add_row(site.site, *([""] * (len(kinds) - 1)), str(site.nodes), "")
    return table


def _node_list(document: Document, limit: int | None) -> RenderableType:
    ranked = sorted(document.nodes, key=lambda node: -(node.effect if node.effect is not None else float("-inf")))
    shown = ranked if limit is None else ranked[:limit]
    inputs = Counter(edge.target for edge in document.edges)
    outputs = Counter(edge.source for edge in document.edges)
    place = {node.name: index for index, node in enumerate(document.nodes)}
    table = Table(title="\nnodes, most important first", title_justify="left", box=None, pad_edge=False)
    table.add_column("node")
    for name in ("effect, nats", "edges in", "edges out", "bias", "ablated to"):
        table.add_column(name, justify="right")
    table.add_column("")
    for node in shown:
        index = place[node.name]
        numbers = (_number(node.effect), str(inputs[index]), str(outputs[index]))
        table.add_row(Text(node.name), *numbers, _number(node.bias), _number(node.ablation_value), _marks(node))
    hidden = len(ranked) - len(shown)
    return Group(table, Text(f"... and {hidden} more")) if hidden else table


def _marks(node: NodeView) -> str:
    return ", ".join(name for name, given in (("constant", node.constant), ("stranded", node.stranded)) if given)


def _number(value: float | None, unknown: str = "-") -> str:
    return unknown if value is None else f"{value:.4g}"
