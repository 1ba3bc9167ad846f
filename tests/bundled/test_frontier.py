"""The frontier in the docs: made of the default grid, complete, and what README and figure say of it."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sparse_circuits.frontier.curves import Curves, curves
from sparse_circuits.frontier.grid import Grid
from sparse_circuits.frontier.sweep import Frontier, read_frontier
from sparse_circuits.viz.frontier_figure import frontier_svg

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "frontier"


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return read_frontier(FOLDER)


@pytest.fixture(scope="module")
def shown(frontier: Frontier) -> Curves:
    return curves(frontier.records)


def test_it_is_the_default_grid_and_complete(frontier: Frontier) -> None:
    assert frontier.grid == Grid() and frontier.failed == {} and frontier.missing == ()
    assert any(0.0005 < record.nonzero_fraction < 0.0015 for record in frontier.records), "a point near 1 in 1,000"
    for record in frontier.records:
        assert [task.task for task in record.tasks] == list(frontier.grid.tasks)
        for task in record.tasks:
            if task.loss is None:
                assert task.status in ("unsolved", "unusable") and task.reason
            else:
                assert (task.status == "met") == (task.loss <= frontier.grid.target_loss)
                assert len(task.seeds) == frontier.grid.prune_seeds


def test_the_readme_says_what_the_files_say(frontier: Frontier, shown: Curves) -> None:
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    spent = sum(sum(record.seconds.values()) for record in frontier.records) / 60
    edges, nodes = (shown.mean_by_task(measure) for measure in ("edges", "nodes"))
    both = [task for task in shown.tasks if shown.by_task["edges", task].ratios]
    all_of_them = [ratio for task in both for ratio in shown.by_task["edges", task].ratios]
    found: Counter[str] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    for record in frontier.records:
        for task in (task for task in record.tasks if task.loss is not None):
            found[record.family] += 1
            held[record.family, "val"] += bool(task.met_on_val)
            held[record.family, "test"] += task.status == "met"
    single = [shown.by_task["edges", task].ratios[1] for task in both]
    for words in (
        f"{len(frontier.records)} models",
        f"{spent:.0f} minutes of one core",
        f"{edges:.1f} times as many edges",
        f"{nodes:.1f} times as many nodes",
        f"{min(single):.1f} to {max(single):.1f} times the edges",
        f"{min(all_of_them):.1f} to {max(all_of_them):.1f} over all",
        f"{held['sparse', 'val']} of {found['sparse']} sparse and {held['dense', 'val']} of {found['dense']} dense ones",
        f"{held['sparse', 'test']} and {held['dense', 'test']} do",
        f"{len(both)} of the {len(shown.tasks)} tasks",
    ):
        assert words in text


def test_the_figure_is_made_of_the_files(shown: Curves) -> None:
    def texts(svg: str) -> list[str]:
        return [
            "".join(element.itertext())
            for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        ]

    assert texts((FOLDER / "frontier.svg").read_text("utf-8")) == texts(frontier_svg(shown))
