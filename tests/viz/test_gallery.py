"""The list of circuits: every page it leads to is there, numbers are the circuits' own, texts are escaped."""

import re
from pathlib import Path

import pytest

import sparse_circuits as sc
from sparse_circuits.bundled import folders
from sparse_circuits.bundled.folders import bundled_circuits, circuit_folder
from sparse_circuits.cli import main
from sparse_circuits.viz.gallery import write_gallery
from sparse_circuits.viz.static_page import table
from viz.made_up import made_up


def test_every_link_leads_to_a_page(tmp_path: Path) -> None:
    made = made_up()
    circuits = {"one": (made.circuit, made.task), "two": (made.circuit, made.task)}
    index = write_gallery(circuits, made.model, made.tokenizer, tmp_path / "pages", n_pairs=1)
    text = index.read_text("utf-8")
    assert re.findall('href="([a-z]+.html)"', text) == ["one.html", "two.html"]
    for name in circuits:
        page = (index.parent / f"{name}.html").read_text("utf-8")
        assert made.circuit.task in page and "<script" in page
    assert "<script" not in text and "default-src 'none'" in text
    assert f"<td>{len(made.circuit.nodes)}</td><td>{len(made.circuit.edges)}</td>" in text
    verdict = "met" if made.circuit.met_target else "MISSED"
    assert f"<td>{made.circuit.target_loss} {verdict}</td>" in text


def test_no_circuits(tmp_path: Path) -> None:
    made = made_up()
    with pytest.raises(ValueError, match="no circuits to show"):
        write_gallery({}, made.model, made.tokenizer, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_texts_are_escaped() -> None:
    made = table(("<a>",), [("<script>", "&")], ['"><b>'])
    assert "<script>" not in made and "<b>" not in made and "<a>" not in made and "<td>&amp;</td>" in made


def test_names_in_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`bundled/TASK` is a circuit that ships; a folder of that name goes first."""
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "folders.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no circuits at .*install the package again"):
        bundled_circuits()
    assert main(["demo", "--no-open"]) == 2 and "no circuits at" in capsys.readouterr().err
    made_up().circuit.save(tmp_path / "circuits" / "quotes")
    assert bundled_circuits() == {"quotes": tmp_path / "circuits" / "quotes"}
    assert circuit_folder("bundled/quotes") == tmp_path / "circuits" / "quotes"
    assert sc.load_circuit("bundled/quotes").nodes == made_up().circuit.nodes
    with pytest.raises(ValueError, match="no circuit 'bundled/brackets' in the box; there are bundled/quotes"):
        sc.load_circuit("bundled/brackets")
    (tmp_path / "bundled" / "brackets").mkdir(parents=True)
    assert circuit_folder("bundled/brackets") == Path("bundled/brackets")
    assert circuit_folder("elsewhere/quotes") == Path("elsewhere/quotes")
