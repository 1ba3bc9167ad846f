"""The page in a real browser, opened offline from disk: it draws the whole circuit and shows what was recorded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_circuits.viz.card_view import card_view
from sparse_circuits.viz.document import Document, build_document
from sparse_circuits.viz.page import write_page
from validate.cards import card_of
from viz.made_up import made_up

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror=alert(1)>"
NODE = ".circuit .node"


class Visit:
    """One open page with everything it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, offline=True)
        self.page, self.problems, self.requests = context.new_page(), [], []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(NODE)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def document() -> Document:
    return build_document(*made_up(40), n_pairs=3)


@pytest.fixture(scope="module")
def file(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(document, tmp_path_factory.mktemp("page") / "circuit.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_offline_without_complaint(browser: Any, file: Path, document: Document, scheme: str) -> None:
    visit = Visit(browser, file, scheme)
    page = visit.page
    assert page.locator(NODE).count() == len(document.nodes)
    assert page.locator(".circuit .line.edge").count() == len(document.edges)
    assert page.locator(".circuit .line.token").count() == len(document.embed) + len(document.unembed)
    assert page.locator(".circuit .line.link").count() == len(document.links) + len(document.shared)
    assert page.locator("h1").inner_text() == document.header.task
    assert page.locator(".verdict").inner_text().startswith("✓ met target")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) < 200) == (scheme == "dark")
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:"))] == []


def test_a_node_shows_its_recorded_activations(browser: Any, file: Path, document: Document) -> None:
    page = Visit(browser, file).page
    index = next(i for i, node in enumerate(document.nodes) if node.kind == "attn.v")
    node = document.nodes[index]
    page.locator(f'.node[data-node="{node.name}"]').click()
    assert page.locator("#panel h2").inner_text() == node.name
    assert "node=" in page.url

    def cells() -> list[float]:
        return [float(cell.get_attribute("data-value")) for cell in page.locator("#panel .cell").all()]

    def expected(rows: Any) -> list[float]:  # class A first, then class B
        return [
            x
            for label in (0, 1)
            for e, row in zip(document.examples, rows, strict=True)
            if e.label == label
            for x in row
        ]

    assert cells() == pytest.approx(expected(node.heat_circuit))
    page.locator("#panel .switch").get_by_text("full model").click()
    assert cells() == pytest.approx(expected(node.heat_model))
    connected = [edge for edge in document.edges if index in (edge.source, edge.target)]
    assert page.locator(".edge-group.on").count() == len(connected)
    page.keyboard.press("Tab")
    page.locator(f'.node[data-node="{node.name}"]').focus()
    page.keyboard.press("Escape")
    assert page.locator("#panel h2").inner_text() == "Pick a node"


def test_a_link_keeps_the_selection_and_keys_walk_the_picture(browser: Any, file: Path, document: Document) -> None:
    page = Visit(browser, file).page
    page.evaluate("name => { location.hash = 'node=' + encodeURIComponent(name); }", document.nodes[0].name)
    page.reload()
    assert page.locator("#panel h2").inner_text() == document.nodes[0].name
    page.locator(".node.selected").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    shown = page.locator("#panel h2").inner_text()
    assert shown in {node.name for node in document.nodes} - {document.nodes[0].name}


def test_toggles_hide_their_lines(browser: Any, file: Path) -> None:
    page = Visit(browser, file).page
    for label, lines in (("token edges", ".line.token"), ("residual links", ".line.link")):
        assert page.locator(lines).first.is_visible()
        page.get_by_label(label, exact=True).uncheck()
        assert not page.locator(lines).first.is_visible()


def test_every_heat_map_opens(browser: Any, file: Path, document: Document) -> None:
    visit = Visit(browser, file)
    visit.page.get_by_role("button", name="open all").click()
    visit.page.wait_for_selector("#heat .heat-body .cell")
    tokens = sum(len(example.tokens) for example in document.examples)
    visit.page.wait_for_function(
        "count => document.querySelectorAll('#heat .cell').length === count", arg=tokens * len(document.nodes)
    )
    assert visit.problems == []


def test_hostile_text_is_shown_as_text(browser: Any, document: Document, tmp_path: Path) -> None:
    examples = tuple(e.replace(tokens=(HOSTILE, *e.tokens[1:])) for e in document.examples)
    embed = tuple(edge.replace(text=HOSTILE) for edge in document.embed)
    header = document.header.replace(statement=HOSTILE)
    bad = document.replace(examples=examples, embed=embed, header=header)
    visit = Visit(browser, write_page(bad, tmp_path / "hostile.html"))
    visit.page.locator(NODE).first.click()
    assert visit.page.locator(".statement").inner_text() == HOSTILE
    assert HOSTILE.replace(" ", "·") in visit.page.locator("#panel .prompt").first.inner_text()
    assert visit.page.locator("img").count() == 0
    assert visit.problems == []


def test_a_narrow_screen_does_not_scroll_sideways(browser: Any, file: Path) -> None:
    page = Visit(browser, file).page
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_report_card_is_shown_where_there_is_one(
    browser: Any, file: Path, document: Document, tmp_path: Path
) -> None:
    assert not Visit(browser, file).page.locator("#card-section").is_visible()
    card = card_view(card_of(made_up().circuit, relaxation="fail", mined="not applicable"))
    rows = tuple(row.replace(reason=HOSTILE) for row in card.rows)
    visit = Visit(browser, write_page(document.replace(card=card.replace(rows=rows)), tmp_path / "card.html"))
    page = visit.page
    assert page.locator("#card-section .verdict").inner_text() == "unfaithful"
    assert page.locator(".report-card tbody tr").count() == len(rows)
    failed = page.locator(".report-card tr.fail")
    assert failed.count() == 1 and "relaxation" in failed.inner_text() and "0.1 to 0.333" in failed.inner_text()
    assert page.locator(".report-card tr.not-applicable .outcome").inner_text() == "n/a"
    failed.locator("summary").click()
    assert HOSTILE in failed.locator("p").inner_text() and page.locator("img").count() == 0
    assert page.get_by_role("link", name="report card: unfaithful").count() == 1
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.problems == []
