"""The page is one offline file: the data cannot break out of it, and the script is the modules, joined cleanly."""

import json
import re
from pathlib import Path

import pytest

from sparse_circuits.validate.card_folder import CardFolder
from sparse_circuits.viz.card_table import card_text
from sparse_circuits.viz.document import Document, build_document
from sparse_circuits.viz.page import MODULES, STYLES, asset, embed_json, join_modules, render_page, report
from validate.cards import card_of
from viz.made_up import made_up

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>&amp;\u2028\u2029\"'"


def hostile_document() -> Document:
    document = build_document(*made_up(), n_pairs=1)
    examples = tuple(e.replace(tokens=(HOSTILE, *e.tokens[1:]), right=HOSTILE) for e in document.examples)
    embed = tuple(edge.replace(text=HOSTILE) for edge in document.embed)
    header = document.header.replace(task=HOSTILE, statement=HOSTILE)
    return document.replace(examples=examples, embed=embed, header=header)


def test_embedded_json_parses_back_and_cannot_end_its_element() -> None:
    text = json.dumps({"token": HOSTILE}, ensure_ascii=False)
    embedded = embed_json(text)
    assert json.loads(embedded) == {"token": HOSTILE}
    assert not set("<>&\u2028\u2029") & set(embedded)


def test_hostile_tokens_stay_inside_the_data() -> None:
    page = render_page(hostile_document())
    assert "<img" not in page
    assert page.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    assert data and Document.from_dict(json.loads(data[1])) == hostile_document()


def test_nothing_outside_the_file_is_named() -> None:
    page = render_page(build_document(*made_up(), n_pairs=1))
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "@import" not in page and "url(" not in page and "innerHTML" not in page
    assert set(re.findall(r"https?://[^\"'\s]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page and "unsafe-inline" not in page


def test_modules_join_into_one_script() -> None:
    joined = join_modules()
    assert not re.findall(r"^(?:import|export)\b", joined, re.MULTILINE)
    names = re.findall(r"^(?:const|let|function|class) (\w+)", joined, re.MULTILINE)
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_earlier_ones(name: str) -> None:
    imported = re.findall(r'^import .*? from "\./(.*?)";', asset(name), re.MULTILINE | re.DOTALL)
    assert set(imported) <= set(MODULES[: MODULES.index(name)])
    for other in imported:
        wanted = re.search(r"import \{([^}]*)\} from \"\./" + re.escape(other), asset(name))
        assert wanted
        for item in wanted[1].replace("\n", " ").split(","):
            assert re.search(rf"^export (?:const|function) {item.strip()}\b", asset(other), re.MULTILINE), item


def test_assets_are_small_and_all_used() -> None:
    folder = Path(__file__).parents[2] / "src" / "sparse_circuits" / "viz" / "assets"
    assert {path.name for path in folder.iterdir()} == {*MODULES, *STYLES, "page.html"}
    assert all(len(asset(name).splitlines()) <= 350 for name in (*MODULES, *STYLES))


def test_the_page_of_a_validated_circuit_holds_its_card(tmp_path: Path) -> None:
    given = made_up()
    circuit = given.circuit.replace(folder=tmp_path)
    assert build_document(*given, n_pairs=1).card is None
    card = card_of(circuit, relaxation="fail", mined="not applicable")
    CardFolder.open(tmp_path / "card", circuit, {}).conclude(card)
    document = build_document(circuit, *given[1:], n_pairs=1)
    shown = document.card
    assert shown and shown.verdict == "unfaithful" and shown.reasons == card.reasons and shown.seconds == 9.0
    assert [row.name for row in shown.rows] == list(card.rows)
    rows = {row.name: row for row in shown.rows}
    assert rows["relaxation"].value == (0.125, 0.1, 1 / 3) and rows["relaxation"].outcome == "fail"
    assert rows["mined"].value is None and rows["mined"].control_name is None
    assert Document.from_dict(json.loads(document.model_dump_json())) == document
    page = render_page(document)
    assert 'id="card-section"' in page and "made up for relaxation" in page
    assert build_document(*given, n_pairs=1, card=card).card == shown  # or given by hand


def test_the_card_for_a_terminal() -> None:
    text = card_text(card_of(made_up().circuit, relaxation="fail", mined="not applicable"))
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("F")}
    assert "\x1b" not in text and set(lines) > {"agreement", "shifted_splits", "selectivity"}
    assert lines["relaxation"].split() == [
        "F9a",
        "relaxation",
        "0.125",
        "[0.1,",
        "0.333]",
        "0.125",
        "at",
        "most",
        "0.2",
        "FAIL",
    ]
    assert lines["mined"].split()[-1] == "n/a" and "verdict: unfaithful\n- relaxation fails: made up" in text


def test_report_writes_one_file(tmp_path: Path) -> None:
    circuit, model, task, tokenizer = made_up()
    out = report(circuit, model, task, tmp_path / "deep" / "circuit.html", tokenizer)
    assert out.read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in out.parent.iterdir()] == ["circuit.html"]
