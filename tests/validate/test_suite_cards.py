"""The cards of a suite are those of `validate`, one failure loses no other, and the tables count what cards.json says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparse_circuits as sc
from refusals import refused
from sparse_circuits.circuit.circuit import Origin, SplitLosses
from sparse_circuits.cli import main
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.executors import Failure, Here, Outcome
from sparse_circuits.files import new_folder, write_json
from sparse_circuits.log import Progress
from sparse_circuits.model.folder import save_model
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.tasks.custom import save_task
from sparse_circuits.validate import run, suite_cards
from sparse_circuits.validate.card_folder import load_card
from sparse_circuits.validate.suite_cards import make_cards, read_cards, verdicts
from sparse_circuits.validate.verdicts_page import compare, recipe_label, verdicts_page
from validate.planted import circuit_of, truth

MEASURED = ("agreement", "sufficiency", "necessity", "minimality")


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """Cards of few measurements on few pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "QUICK_MEASURES", {name: run.QUICK_MEASURES[name] for name in MEASURED})
        patch.setattr(run, "QUICK_PAIRS", 6)
        yield


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory, brief: None) -> dict[str, Any]:
    """The quote task, with its true circuit and in place of a refined one that circuit without a node, and a task without circuit:
    folder and cards.json."""
    root, known = tmp_path_factory.mktemp("cards"), truth()
    with new_folder(root / "model", "model") as draft:
        save_model(known.model, draft, tokenizer_hash(known.tokenizer))
        save_tokenizer(known.tokenizer, draft)
    save_task(known.task, root / "task.jsonl")
    whole = circuit_of(known.model, known.nodes, known.reference.values)
    places = {"model": root / "model", "tokenizer": root / "model", "task_origin": root / "task.jsonl"}
    where = {name: Origin(where=str(place), hash=getattr(whole, name).hash) for name, place in places.items()}
    found: dict[str, Any] = {"missed": None}
    for kind, nodes, loss in (("plain", known.nodes, 0.1), ("refined", known.nodes[1:], 0.2)):
        circuit = whole.replace(**where, nodes=nodes, loss=SplitLosses(train=0.0, val=0.0, test=loss))
        circuit.save(root / "suite" / "closing_quote" / kind)
        found[kind] = {"nodes": len(nodes), "edges": 0, "met": circuit.met_target, "test": {"loss": loss}}
    tasks = {"closing_quote": found, "lambda_func": {"reason": "the model scores 0.5"}}
    head = {"kind": "suite", "format_version": 1, "model": {"where": "here", "hash": where["model"].hash}}
    recipe = {"recipe": PruneConfig().to_dict(), "target_loss": 0.15, "seeds": 1}
    write_json(root / "suite" / "suite.json", {**head, **recipe, "tasks": tasks})
    return {"out": root / "suite", "made": make_cards(root / "suite")}


@pytest.fixture
def copied(carded: dict[str, Any], tmp_path: Path) -> Path:
    """The suite without cards, to be spoilt; its circuits find model and task where they were."""
    shutil.copytree(carded["out"], tmp_path / "suite")
    for kind in ("plain", "refined"):  # saved anew, so without a card
        sc.load_circuit(carded["out"] / "closing_quote" / kind).located().save(
            tmp_path / "suite" / "closing_quote" / kind
        )
    return tmp_path / "suite"


def test_cards_are_those_of_validate(carded: dict[str, Any]) -> None:
    made, out = carded["made"], carded["out"]
    assert made == read_cards(out) and list(made["tasks"]) == ["closing_quote", "lambda_func"]
    assert made["settings"] == {"quick": True, "pairs": 6, "split": "test", "seed": 0}
    assert made["recipe"] == PruneConfig().to_dict() and made["seeds"] == 1
    assert made["tasks"]["lambda_func"] == {"reason": "the model scores 0.5"}
    assert made["tasks"]["closing_quote"]["plain"]["failing"] == []
    assert "sufficiency" in made["tasks"]["closing_quote"]["refined"]["failing"]
    for kind in ("plain", "refined"):
        circuit = sc.load_circuit(out / "closing_quote" / kind)
        card, found = run.validate(circuit, quick=True), made["tasks"]["closing_quote"][kind]
        assert load_card(out / "closing_quote" / kind / "card_quick").rows == card.rows
        assert (found["nodes"], found["edges"]) == (len(circuit.nodes), len(circuit.edges))
        assert found["test_loss"] == circuit.loss.test and found["met"] == circuit.met_target
        assert found["verdict"] == card.verdict and found["reasons"] == list(card.reasons)
        assert found["failing"] == [name for name, row in card.rows.items() if row.outcome == "fail"]
        assert list(found["rows"]) == list(card.rows)
        for name, row in card.rows.items():
            told = found["rows"][name]
            assert (told["value"], told["low"], told["high"]) == (row.value.value, row.value.low, row.value.high)
            assert (told["threshold"], told["outcome"]) == (row.threshold, row.outcome)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_device_reaches_every_process(workers: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch's device `meta` holds no numbers, so nothing can be measured on it."""
    given = ["circuits", "cards", str(copied), "--workers", workers, "--quiet"]
    assert main([*given, "--device", "gpu"]) == 2
    assert "device 'gpu' cannot be used here" in capsys.readouterr().err
    assert main([*given, "--device", "meta"]) == 2
    said = capsys.readouterr().err
    assert "2 of 2 cards failed" in said and "meta" in said and said.count("\n") == 1


def test_a_finished_card_is_not_made_again(carded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "validate", lambda *given, **named: pytest.fail("validated again"))
        assert make_cards(carded["out"]) == carded["made"]


def test_a_card_that_lacks_a_row_goes_on(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, calls = make_cards(copied), []

    def more(*given: Any) -> Any:
        calls.append("completeness")
        return run.completeness_rows(*given)

    def again(*given: Any) -> Any:
        pytest.fail("measured again")

    monkeypatch.setattr(run, "QUICK_MEASURES", {**dict.fromkeys(MEASURED, again), "completeness": more})
    made = make_cards(copied)["tasks"]["closing_quote"]
    assert len(calls) == 2  # one per circuit
    for kind in ("plain", "refined"):
        rows = dict(made[kind]["rows"])
        assert rows.pop("completeness")["value"] is not None
        assert rows == first["tasks"]["closing_quote"][kind]["rows"]


def test_one_failure_loses_no_other(carded: dict[str, Any], copied: Path, tmp_path: Path) -> None:
    """The first circuit is damaged, the second is examined all the same; mended, only the first is."""
    file, said = copied / "closing_quote" / "plain" / "values.safetensors", []
    whole = file.read_bytes()
    file.write_bytes(whole[:100])

    class Heard(Progress):
        def say(self, message: str) -> None:
            said.append(message)

    with refused("1 of 2 cards failed, first closing_quote/plain: ", "the others are kept, run again"):
        make_cards(copied, progress=Heard())
    found, before = read_cards(copied)["tasks"]["closing_quote"], carded["made"]["tasks"]["closing_quote"]
    assert found["refined"]["rows"] == before["refined"]["rows"]
    assert found["plain"]["nodes"] == before["plain"]["nodes"] and "values.safetensors" in found["plain"]["error"]
    assert said == [
        f"1 of 1 tasks, closing_quote: plain {found['plain']['error']}, refined {found['refined']['verdict']}"
    ]
    page = verdicts_page(compare([copied]), "the command")
    assert f"| no card | {found['plain']['error']} |" in page
    file.write_bytes(whole)
    made = make_cards(copied)["tasks"]["closing_quote"]
    assert made["plain"]["rows"] == before["plain"]["rows"] and verdicts(read_cards(copied)).total() == 2


def test_the_card_of_another_circuit_is_refused(copied: Path, carded: dict[str, Any]) -> None:
    plain, refined = (copied / "closing_quote" / kind for kind in ("plain", "refined"))
    other = sc.load_circuit(plain)
    other.replace(nodes=other.nodes[:-1]).save(plain)
    shutil.copytree(carded["out"] / "closing_quote" / "plain" / "card_quick", plain / "card_quick")
    with refused("closing_quote/plain", "holds a card of another circuit"):
        make_cards(copied)
    assert (
        load_card(refined / "card_quick").rows
        == load_card(carded["out"] / "closing_quote" / "refined" / "card_quick").rows
    )


class Workers:
    """In place of processes: what was asked of them, and a process that dies once its first card is made."""

    asked: list[Any] = []

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, function: Any, calls: Any) -> Iterator[Outcome]:
        self.asked.append((self.workers, [call[1:] for call in calls]))
        assert json.dumps([call[1:] for call in calls])  # plain values
        list(Here().run(function, [(calls[0][0], calls[0][1], ("plain",))]))
        yield Outcome(0, None, Failure("its process died", ""))


def test_a_process_that_dies_keeps_what_it_made(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_cards, "Processes", Workers)
    with refused("1 of 2 cards failed, first closing_quote/refined: its process died"):
        make_cards(copied, workers=2)
    assert Workers.asked == [(2, [("closing_quote", ("plain", "refined"))])]
    found = read_cards(copied)["tasks"]["closing_quote"]
    assert "rows" in found["plain"] and found["refined"]["error"] == "its process died"


def test_whole_cards_hold_everything(carded: dict[str, Any]) -> None:
    plan = suite_cards._Plan(root=str(carded["out"]), quick=False, seed=3)
    assert {*MEASURED, *run.MORE_MEASURES, *run.CONTROLS} == plan.parts
    assert plan.settings == {"quick": False, "pairs": 128, "split": "test", "seed": 3}
    assert plan.card("t", "plain") == carded["out"] / "t" / "plain" / "card"


def test_what_is_no_suite_is_refused(carded: dict[str, Any], tmp_path: Path) -> None:
    with refused("no file suite.json"):
        make_cards(tmp_path)
    shutil.copy(carded["out"] / "suite.json", tmp_path)
    with refused("no circuits beside", "circuits run"):
        make_cards(tmp_path)
    with refused("0 workers"):
        make_cards(carded["out"], workers=0)
    assert [file.name for file in tmp_path.iterdir()] == ["suite.json"]


# --- tables


def circuit(
    nodes: int, edges: int, *, agreement: float, heads: float | None = None, met: bool = True
) -> dict[str, Any]:
    """Fails agreement above 0.2, and heads (None: has none) above 0."""
    rows = {
        "agreement": {
            "value": agreement,
            "threshold": "at most 0.2",
            "outcome": "pass" if agreement <= 0.2 else "fail",
        },
        "random_circuit": {"value": 7.0, "threshold": f"at most {nodes}", "outcome": "pass"},
        "dead_heads": {
            "value": heads,
            "threshold": "at most 0",
            "outcome": "not applicable" if heads is None else "fail" if heads else "pass",
        },
    }
    failing = [name for name, row in rows.items() if row["outcome"] == "fail"]
    sizes = {"nodes": nodes, "edges": edges, "test_loss": 0.1 if met else 0.2, "met": met}
    word = "unfaithful" if failing else "faithful"
    return {**sizes, "verdict": word, "passed": not failing, "failing": failing, "reasons": [], "rows": rows}


def suite(folder: Path, tasks: dict[str, Any], **changes: Any) -> Path:
    recipe = {"objective": "task_loss", "stochastic_ablation": False, "steps": 200, **changes.pop("recipe", {})}
    head = {"kind": "suite_cards", "format_version": 1, "model": {"where": "bundled", "hash": "abc"}, "seeds": 8}
    settings = {"quick": True, "pairs": 64, "split": "test", "seed": 0}
    same = {"recipe": recipe, "target_loss": 0.15, "settings": settings}
    write_json(folder / "cards.json", {**head, **same, "tasks": tasks, **changes})
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Tasks a, b and d have a plain circuit in both, c in neither, e only in the first."""
    missed = {"missed": "not with its standard error"}
    one = {
        "a": {
            "plain": circuit(2, 1, agreement=0.1, heads=0.0),
            "refined": circuit(2, 0, agreement=0.3, heads=2.0),
            "missed": None,
        },
        "b": {"plain": circuit(4, 9, agreement=0.4, heads=1.0, met=False), **missed},
        "c": {"reason": "the model itself scores 0.498"},
        "d": {"plain": circuit(64, 3, agreement=0.2), **missed},
        "e": {"plain": circuit(9, 9, agreement=0.9), **missed},
    }
    other = {
        "a": {"plain": circuit(3, 8, agreement=0.01), "refined": circuit(3, 7, agreement=0.02), "missed": None},
        "b": {"plain": circuit(9, 8, agreement=0.02), **missed},
        "c": {"reason": "the model itself scores 0.498"},
        "d": {"plain": circuit(1, 8, agreement=0.06), **missed},
    }
    changed = {"objective": "kl_to_model", "steps": 400}
    return [suite(tmp_path / "one", one), suite(tmp_path / "two", other, recipe=changed, seeds=2)]


def test_recipes_by_hand(two: list[Path]) -> None:
    """2, 4, 64 nodes are 8 on the geometric mean; agreement 0.1, 0.4, 0.2 has the median 0.2 and passes twice."""
    found = compare(two)
    plain = found["recipes"]["plain"]
    assert plain["tasks"] == ["a", "b", "d"]
    one, other = plain["suites"]["task_loss"], plain["suites"]["kl_to_model"]
    assert (one["nodes"], one["edges"], one["met"], one["passed"]) == (pytest.approx(8), pytest.approx(3), 2, 2)
    assert (other["nodes"], other["edges"], other["met"], other["passed"]) == (pytest.approx(3), pytest.approx(8), 3, 3)
    assert one["rows"]["agreement"] == {
        **{"pass": 2, "fail": 1, "not applicable": 0},
        **{"min": 0.1, "median": 0.2, "max": 0.4, "threshold": "at most 0.2"},
    }
    assert one["rows"]["dead_heads"]["median"] == 0.5 and one["rows"]["random_circuit"]["threshold"] is None
    assert other["rows"]["agreement"]["median"] == 0.02
    refined = found["recipes"]["refined"]
    assert refined["tasks"] == ["a"] and refined["suites"]["task_loss"]["edges"] == 1  # none counts as one
    assert found["rows"]["agreement"]["max"] == 0.9 and found["rows"]["dead_heads"] == {
        **{"pass": 1, "fail": 1, "not applicable": 2},
        **{"min": 0.0, "median": 0.5, "max": 1.0, "threshold": "at most 0"},
    }
    assert found["differs"] == {
        "objective": {"task_loss": "task_loss", "kl_to_model": "kl_to_model"},
        "steps": {"task_loss": 200, "kl_to_model": 400},
    }


def test_the_page(two: list[Path]) -> None:
    page = verdicts_page(compare(two), "the command")
    for line in (
        "| a | task_loss, plain | 2 | 1 | 0.100 | faithful |  |",
        "| a | task_loss, refined | 2 | 0 | 0.100 | unfaithful | agreement, dead_heads |",
        "| b | task_loss, plain | 4 | 9 | 0.200 MISS | unfaithful | agreement, dead_heads |",
        "| b | kl_to_model, refined | no circuit |  |  |  | not with its standard error |",
        "| c | all | no circuit |  |  |  | the model itself scores 0.498 |",
        "| e | kl_to_model | not run |  |  |  |  |",
        "| plain | task_loss | kl_to_model |",
        "| nodes (geometric mean) | 8.0 | 3.0 |",
        "| target met on test | 2 of 3 | 3 of 3 |",
        "| agreement | 0.2 (2 of 3) | 0.02 (3 of 3) |",
        "| dead_heads | 0.5 (1 of 2) | not applicable |",
        "| dead_heads | at most 0 | 1 | 1 | 2 | 0 | 0.5 | 1 |",
        "| random_circuit | differs by circuit | 4 | 0 | 0 | 7 | 7 | 7 |",
        "- They also differ in `steps`: 200 (task_loss), 400 (kl_to_model).",
    ):
        assert f"{line}\n" in page, line
    assert "Made by `the command`" in page and "seeds per task: 2" in page


def test_an_unproven_circuit_says_why(tmp_path: Path) -> None:
    """No row that fails explains the word."""
    unproven = {
        **circuit(2, 2, agreement=0.1, heads=1.0),
        "verdict": "unproven",
        "reasons": ["necessity: no value", "x"],
    }
    unproven = {**unproven, "passed": False}
    page = verdicts_page(compare([suite(tmp_path, {"a": {"plain": unproven, "missed": None}})]), "the command")
    assert "| unproven | necessity: no value; dead_heads |" in page
    assert "no task in which every suite has a refined circuit" in page


def test_labels() -> None:
    words = {
        ("task_loss", False): "task_loss",
        ("task_loss", True): "stochastic ablation",
        ("kl_to_model", False): "kl_to_model",
        ("kl_to_model", True): "stochastic ablation, kl_to_model",
    }
    for (objective, noise), label in words.items():
        assert recipe_label({"objective": objective, "stochastic_ablation": noise}) == label


def test_the_same_recipe_twice_is_told_apart(two: list[Path], tmp_path: Path) -> None:
    again = suite(tmp_path / "again", {})
    assert list(compare([*two, again])["suites"]) == [f"task_loss ({two[0]})", "kl_to_model", f"task_loss ({again})"]
    with refused("given twice"):
        compare([*two, two[0]])


def test_only_what_can_be_compared_is(two: list[Path], tmp_path: Path) -> None:
    with refused("differ in their model", "compare suites that share it"):
        compare([two[0], suite(tmp_path / "x", {}, model={"where": "bundled", "hash": "def"})])
    with refused("differ in their target_loss, 0.15 and 0.3"):
        compare([two[0], suite(tmp_path / "x", {}, target_loss=0.3)])
    with refused("differ in their settings", "128"):
        compare([two[0], suite(tmp_path / "x", {}, settings={"quick": False, "pairs": 128})])
    with refused("no suite given"):
        compare([])
    with refused("no file cards.json", "circuits cards"):
        compare([tmp_path])
    elsewhere = suite(tmp_path / "x", {}, model={"where": "a/copy", "hash": "abc"}, recipe={"objective": "kl_to_model"})
    assert len(compare([two[0], elsewhere])["suites"]) == 2


def test_verbs(carded: dict[str, Any], two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(carded["out"])
    assert main(["circuits", "cards", out, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == {**carded["made"], "path": f"{out}/cards.json"}
    assert main(["circuits", "cards", out]) == 0
    assert "2 cards: " in capsys.readouterr().out
    assert main(["circuits", "verdicts", *map(str, two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**compare(two), "file": None}
    assert main(["circuits", "verdicts", *map(str, two), "--out", str(tmp_path / "page.md")]) == 0
    command = f"sparse-circuits circuits verdicts {two[0]} {two[1]}"
    assert (tmp_path / "page.md").read_text() == verdicts_page(compare(two), command)
    assert main(["circuits", "verdicts"]) == 2
    assert (error := capsys.readouterr().err).count("\n") == 1 and "no suite given" in error
