"""One self-contained HTML file of a circuit: styles, script and data inline, nothing fetched, works offline from disk.

The page is assets/page.html with five slots: title, stylesheets, script, the view document as JSON, and a content
security policy that allows exactly that style and that script (by hash) and no connection of any kind. The script is
the ES modules of assets/ in the order of MODULES, joined into one: their `import` lines fall away and `export` is
dropped, so their top-level names must be unique (tests/viz/test_page.py checks both). Token texts reach the page as
JSON and are only ever inserted as text.
"""

import base64
import hashlib
import html
import re
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import circuit_tokenizer
from sparse_circuits.files import write_text
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.task import Task
from sparse_circuits.viz.document import Document, build_document

STYLES = ("base.css", "graph.css", "heat.css")
MODULES = (
    "dom.js",
    "state.js",
    "heat.js",
    "attention.js",
    "layout.js",
    "graph.js",
    "panel.js",
    "summary.js",
    "card.js",
    "curve.js",
    "tables.js",
    "main.js",
)
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|let|function|class) )", re.MULTILINE)
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def report(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    out: str | Path = "circuit.html",
    tokenizer: Any = None,
) -> Path:
    """Writes the one-file page of a circuit and returns its path.

    tokenizer: None loads the one the circuit was made with. Raises ValueError where that is not possible.
    """
    texts = circuit_tokenizer(circuit) if tokenizer is None else tokenizer
    return write_page(build_document(circuit, model, task, texts), out)


def write_page(document: Document, out: str | Path) -> Path:
    """Writes the page of a view document, atomically, and returns its path. Raises OSError."""
    path = Path(out)
    write_text(path, render_page(document))
    return path


def render_page(document: Document) -> str:
    """The page as text."""
    style, script = "\n".join(asset(name) for name in STYLES), join_modules()
    policy = (
        f"default-src 'none'; script-src '{_source_hash(script)}'; style-src '{_source_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    slots = {
        "csp": policy,
        "title": html.escape(f"{document.header.task} · circuit"),
        "style": style,
        "data": embed_json(document.model_dump_json()),
        "script": script,
    }
    return _SLOT.sub(lambda slot: slots[slot[1]], asset("page.html"))


def join_modules() -> str:
    """All modules as one script."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", asset(name))) for name in MODULES)


def asset(name: str) -> str:
    """The text of one file of assets/."""
    return (package_files("sparse_circuits.viz") / "assets" / name).read_text(encoding="utf-8")


def embed_json(text: str) -> str:
    """JSON that cannot end, or comment out, the script element it stands in; it still parses to the same value."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
