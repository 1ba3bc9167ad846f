"""Writing a matplotlib figure (extra `plot`): .svg or .png, atomically, the same bytes for the same numbers.

A figure is drawn on a `Figure` of its own, never through pyplot, so that nothing global changes and no display is needed.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_circuits.files import write_bytes

ENDINGS = (".svg", ".png")
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "sparse_circuits"}
"""Text stays text in an SVG, and its ids do not change from call to call."""
Draw = Callable[[Any], None]


def write_figure(out: str | Path, size: tuple[float, float], draw: Draw) -> Path:
    """Draws on a figure of that size (inches) and writes it.

    Raises ValueError for another ending or where the extra `plot` is missing, OSError where it cannot be written.
    """
    path = Path(out)
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} is no name for a figure; allowed endings: {', '.join(ENDINGS)}")
    write_bytes(path, render(path.suffix[1:], size, draw))
    return path


def render(kind: str, size: tuple[float, float], draw: Draw) -> bytes:
    """The figure as the bytes of one file, kind svg or png. Raises ValueError where the extra `plot` is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            'figures need the extra `plot`: pip install "sparse-circuits[plot]"; without --out and --report the numbers are '
            "still to be had"
        ) from None
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=size, dpi=150)
        draw(figure)
        target = io.BytesIO()
        figure.savefig(target, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return target.getvalue()
