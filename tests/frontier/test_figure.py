"""The figure, the page and the two verbs, on made-up points."""

import base64
import hashlib
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from frontier.made_up_points import four_points, point
from refusals import refused
from sparse_circuits.cli import main
from sparse_circuits.files import write_json
from sparse_circuits.frontier.curves import curves
from sparse_circuits.frontier.grid import Cells, Grid
from sparse_circuits.frontier.record import write_point
from sparse_circuits.viz.frontier_figure import draw_frontier, frontier_svg
from sparse_circuits.viz.frontier_page import render_frontier_page

NAMES = {"w64_f0.1_a0.25": "sparse", "dense_w16": "dense", "dense_w64": "dense"}


def texts(svg: str) -> list[str]:
    """What the figure says. Raises where it is no XML."""
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_figure_names_every_point_and_does_not_change() -> None:
    svg = frontier_svg(curves(four_points()))
    said = texts(svg)
    assert {record.name for record in four_points()} <= set(said)
    assert {"validation loss, nats", "edges of a circuit", "nodes of a circuit"} <= set(said)
    assert any("the 2 tasks that all compared meet" in text for text in said)
    assert frontier_svg(curves(four_points())) == svg


def test_frontiers_with_nothing_to_compare_are_drawn_without_a_warning() -> None:
    """One family, no circuit at all, one task, many: matplotlib's warnings are errors here."""
    alone = [point("w64", "sparse", 3.0, a=(4, 2)), point("w128", "sparse", 2.5, a=(9, 9))]
    assert "no dense circuit" in " ".join(texts(frontier_svg(curves(alone))))
    nobody = [point("w64", "sparse", 3.0, a="unsolved"), point("d", "dense", 3.0, a="unsolved")]
    assert "no sparse and no dense circuit" in " ".join(texts(frontier_svg(curves(nobody))))
    many = {f"task_{i}": (4, 2) for i in range(8)}
    said = texts(frontier_svg(curves([point("w64", "sparse", 3.0, **many), point("d", "dense", 2.0, **many)])))
    assert set(many) <= set(said) and said.count("no loss in common") == 8
    nothing = [point("w64", "sparse", 3.0, a="unusable")]
    assert frontier_svg(curves(nothing))


def test_files_by_their_ending(tmp_path: Path) -> None:
    """And drawing leaves matplotlib's settings as they were."""
    import matplotlib

    before, found = dict(matplotlib.rcParams), curves(four_points())
    assert draw_frontier(found, tmp_path / "a" / "f.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    with refused("f.pdf is no name for a figure", ".svg, .png"):
        draw_frontier(found, tmp_path / "f.pdf")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["f.png"]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with refused("need the extra `plot`", 'pip install "sparse-circuits[plot]"'):
        draw_frontier(curves(four_points()), tmp_path / "f.svg")
    assert not any(tmp_path.iterdir())


def test_the_page_is_one_file_under_its_own_policy() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    records = [*four_points(), point(hostile, "sparse", 2.7, quotes=(5, 5), brackets="missed", chains="unsolved")]
    page = render_frontier_page(curves(records), {"w512": "the loss is not finite & more"})
    assert page.count("<img") == 1 and "<script" not in page and "style=" not in page
    assert "&lt;img src=x" in page and "the loss is not finite &amp; more" in page
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{expected}'" in page and "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    (image,) = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert hostile in texts(base64.b64decode(image).decode())
    for words in ("2 edges, 4 nodes", "MISSED: 3 edges, 7 nodes", "not solved", "cannot be asked", "dense / sparse"):
        assert words in page


# --- the verbs


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, arguments), "--quiet"])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A frontier of which two points are finished and one failed."""
    root = tmp_path / "frontier"
    grid = Grid(sparse=(Cells(widths=(64,), fractions=(0.1,)),), dense_widths=(16, 64), tasks=("class_init",))
    write_json(root / "grid.json", {"kind": "frontier", "format_version": 1, "grid": grid.to_dict()})
    for (name, family), size in zip(list(NAMES.items())[:2], ((4, 3), (40, 60)), strict=True):
        record = point(name, family, 2.5, class_init=size)  # type: ignore[arg-type]
        write_point(root / "points" / name, record)
    write_json(root / "points" / "dense_w64" / "error.json", {"kind": "frontier_failure", "error": "too hot"})
    return root


def test_show_as_json_with_figure_and_page(folder: Path, tmp_path: Path) -> None:
    figure, page = tmp_path / "f.svg", tmp_path / "p.html"
    code, out, _ = run("frontier", "show", folder, "--out", figure, "--report", page, "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0 and found["figure"] == str(figure) and found["report"] == str(page)
    assert [row["name"] for row in found["points"]] == ["w64_f0.1_a0.25", "dense_w16"]
    assert found["points"][0]["mean"]["edges"]["common"] == pytest.approx(3)
    assert found["ratio_at_matched_loss"]["edges"]["common"]["ratios"] == pytest.approx([20, 20, 20])
    assert found["failed"] == {"dense_w64": "too hot"} and found["missing"] == []
    assert figure.is_file() and "too hot" in page.read_text("utf-8")


def test_show_for_a_person(folder: Path) -> None:
    code, out, _ = run("frontier", "show", folder)
    assert code == 0 and "| w64_f0.1_a0.25 | 2.500 |" in out
    assert "edges, dense / sparse at matched loss: 20.00 at 2.500 nats" in out and "dense_w64 FAILED: too hot" in out


def test_show_before_anything_is_finished(folder: Path, tmp_path: Path) -> None:
    for name in ("w64_f0.1_a0.25", "dense_w16"):
        (folder / "points" / name / "point.json").unlink()
    code, out, _ = run("frontier", "show", folder)
    assert code == 0 and "no point is finished" in out
    assert "dense_w64 FAILED: too hot" in out and "not there yet: w64_f0.1_a0.25, dense_w16" in out
    code, _, err = run("frontier", "show", folder, "--out", tmp_path / "f.svg")
    assert code == 2 and "no point of this frontier is finished" in err and not (tmp_path / "f.svg").exists()


def test_what_the_verbs_refuse(tmp_path: Path) -> None:
    for arguments, words in (
        (("show", tmp_path), "no frontier at"),
        (("run", "--out", tmp_path / "o", "--grid", "huge"), "unknown grid 'huge'; allowed: default, quick"),
        (("run", "--out", tmp_path / "o", "--workers", 0), "workers must be at least 1"),
    ):
        code, out, err = run("frontier", *arguments)
        assert code == 2 and out == "" and err.count("\n") == 1 and words in err
    assert not any(tmp_path.iterdir())
