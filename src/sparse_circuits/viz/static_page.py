"""A self-contained HTML page without script: a title, what it says, and sections of tables and pictures.

Its policy allows exactly its own style (by hash) and images from data URLs. Texts are escaped where they are put in.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from sparse_circuits.viz.page import asset

STYLE = """
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 8px; }
th, td { white-space: normal; }
thead th:first-child { text-align: left; }
td.prose { text-align: left; }
th:last-child, td:last-child, tbody tr:last-child { font-weight: inherit; }
tbody th { white-space: nowrap; }
"""


def static_page(title: str, statement: str, sections: Iterable[str]) -> str:
    """The page as text. sections: from `section`."""
    style = f"{asset('base.css')}\n{STYLE}"
    allowed = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header class="page"><h1>{escape(title)}</h1><p class="statement">{escape(statement)}</p></header>
<main class="page">
{body}
</main>
</body>
</html>
"""


def section(title: str, inner: str) -> str:
    """A titled card around HTML."""
    return f'<section><h2>{escape(title)}</h2><div class="card scroll-x">{inner}</div></section>'


def picture(svg: str, alt: str) -> str:
    """An SVG as an image of its own, where its styles are its own affair."""
    image = base64.b64encode(svg.encode("utf-8")).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{image}">'


WIDEST_FIGURE = 40
"""Characters of a cell from which on it is text, which begins on the left."""
PROSE = ' class="prose"'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], links: Sequence[str | None] = ()) -> str:
    """A table of texts. links: per row, what its first cell leads to."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for number, row in enumerate(rows):
        to = links[number] if number < len(links) else None
        first = escape(row[0]) if to is None else f'<a href="{escape(to)}">{escape(row[0])}</a>'
        rest = "".join(f"<td{PROSE if len(cell) > WIDEST_FIGURE else ''}>{escape(cell)}</td>" for cell in row[1:])
        lines.append(f'<tr><th scope="row">{first}</th>{rest}</tr>')
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
