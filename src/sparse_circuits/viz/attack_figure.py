"""The figure of a context-dilution attack (extra `plot`): what the circuit predicts beside what the model does.

Left the accuracy, right the mean contrast z_A - z_B of both classes, both over the fillings added; the circuit dashed, the model
solid, bands for the 95% intervals. Drawn as frontier_figure draws: on a `Figure` of its own, the same bytes for the same numbers.
"""

from pathlib import Path
from typing import Any

from sparse_circuits.validate.attack import Attack
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.viz.figure_files import write_figure

CLASS_COLORS = ("#5b3fd6", "#d9640a")
GREY = "#5d606c"


def draw_attack(attack: Attack, out: str | Path) -> Path:
    """Writes the figure as .svg or .png, atomically, and returns its path.

    Raises ValueError for another ending or where the extra `plot` is missing, OSError where it cannot be written.
    """
    return write_figure(out, (11.0, 4.0), lambda figure: _draw(figure, attack))


def _draw(figure: Any, attack: Attack) -> None:
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.16, top=0.88, wspace=0.2)
    left, right = figure.subplots(1, 2)
    at = [point.added for point in attack.points]
    scores = [point.score for point in attack.points]
    _line(left, at, [score.model_accuracy for score in scores], GREY, "model (measured)", "-")
    _line(left, at, [score.circuit_accuracy for score in scores], GREY, "circuit (predicted)", "--")
    left.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
    left.set_ylim(-0.03, 1.03)
    left.set_ylabel("share of prompts answered rightly")
    for side, color in enumerate(CLASS_COLORS):
        named = f"class {'AB'[side]}"
        _line(right, at, [p.contrasts_model[side] for p in attack.points], color, f"model, {named}", "-")
        _line(right, at, [p.contrasts_circuit[side] for p in attack.points], color, f"circuit, {named}", "--")
    right.axhline(0, color=GREY, linewidth=0.6, linestyle=":")
    right.set_ylabel("mean contrast z_A - z_B, logits")
    for axes in (left, right):
        axes.set_xlabel(f"{attack.filling} added to every prompt")
        axes.grid(True, linewidth=0.4, alpha=0.5)
        axes.legend(fontsize=8, frameon=False)
    correlation = "none" if attack.correlation is None else f"{attack.correlation:.2f}"
    figure.suptitle(f"{attack.task}: context dilution, correlation of contrasts {correlation}", fontsize=11)


def _line(axes: Any, at: list[int], found: list[Estimate], color: str, label: str, style: str) -> None:
    axes.plot(at, [e.value for e in found], style, color=color, label=label, marker="o", markersize=3, linewidth=1.4)
    axes.fill_between(at, [e.low for e in found], [e.high for e in found], color=color, alpha=0.12, linewidth=0)
