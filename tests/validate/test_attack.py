"""F18 on the compiled model that averages brackets: what dilution must do to it, and every number again by plain passes."""

from random import Random
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from sparse_circuits.circuit.circuit import Origin
from sparse_circuits.data.tokenizer import encode, tokenizer_hash
from sparse_circuits.model.generate import intervene
from sparse_circuits.sites import Node
from sparse_circuits.tasks.pairs import Pair
from sparse_circuits.validate.attack import Attack, context_dilution, elements, lines
from sparse_circuits.validate.ground_truth import GroundTruth
from sparse_circuits.validate.known_counts import bracket_depth_model
from sparse_circuits.validate.known_lookups import binding_model
from sparse_circuits.validate.subject import Subject
from sparse_circuits.viz.attack_figure import draw_attack
from validate.planted import circuit_of

ADDED = (0, 1, 2, 4, 8, 16)


def words(pair: Pair, count: int, _rng: Random) -> Pair:
    """Words above, which open nothing and close nothing."""
    more = "a " * count
    return pair._replace(prompt_a=more + pair.prompt_a, prompt_b=more + pair.prompt_b)


def uneven(pair: Pair, _count: int, _rng: Random) -> Pair:
    """Prompts that no longer end alike."""
    return pair._replace(prompt_a=pair.prompt_a + " (")


def subject_of(truth: GroundTruth) -> Subject:
    """The true circuit of a known model."""
    own = Origin(where="", hash=tokenizer_hash(truth.tokenizer))
    circuit = circuit_of(truth.model, truth.nodes, truth.reference.values, truth.task).replace(tokenizer=own)
    return Subject.of(circuit, truth.model, truth.task, truth.tokenizer, n=6)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(bracket_depth_model())


@pytest.fixture(scope="module")
def attack(subject: Subject) -> Attack:
    return context_dilution(subject, added=ADDED, filling=words)


def test_an_average_fails_when_it_is_diluted_and_its_circuit_says_where(attack: Attack) -> None:
    assert [point.added for point in attack.points] == list(ADDED)
    deep = [point.contrasts_model[1].value for point in attack.points]
    assert deep[0] < 0 and deep == sorted(deep), "two open brackets must look ever more like one"
    assert all(point.contrasts_model[0].value > 0 for point in attack.points), "one open bracket looks like one"
    assert attack.points[0].score.model_accuracy.value == 1
    assert attack.points[-1].score.model_accuracy.value == pytest.approx(0.5)
    assert attack.fails_at_model == attack.fails_at_circuit and attack.fails_at_model in ADDED[1:]
    assert attack.correlation is not None and attack.correlation > 0.99


def test_points_again_by_plain_passes(subject: Subject, attack: Attack) -> None:
    model, tokenizer, kept = subject.model, subject.tokenizer, set(subject.nodes)
    values = subject.values

    def ablated(site: str) -> Any:
        off = [c for c in range(model.widths[site]) if Node(site, c) not in kept]

        def replace(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[..., off] = values[site][off]
            return x

        return replace

    everywhere = {site: ablated(site) for site in values}
    for point in (attack.points[1], attack.points[-1]):
        found = {False: [[], []], True: [[], []]}
        for pair in subject.pairs.texts:
            for side in (0, 1):
                ids = encode(tokenizer, "a " * point.added + pair.prompt(side))
                a, b = (encode(tokenizer, pair.completion(k))[0] for k in (0, 1))
                with torch.no_grad():
                    z = model(torch.tensor([ids]))[0, -1]
                    z_c = intervene(model, torch.tensor([ids]), everywhere)[0, -1]
                found[False][side].append(float(z[a] - z[b]))
                found[True][side].append(float(z_c[a] - z_c[b]))
        for side in (0, 1):
            model_mean, circuit_mean = (sum(found[c][side]) / len(found[c][side]) for c in (False, True))
            assert point.contrasts_model[side].value == pytest.approx(model_mean, abs=1e-4)
            assert point.contrasts_circuit[side].value == pytest.approx(circuit_mean, abs=1e-4)
        right = sum(z > 0 for z in found[False][0]) + sum(z < 0 for z in found[False][1])
        assert point.score.model_accuracy.value == pytest.approx(right / 12)


def test_fillings_change_both_prompts_alike() -> None:
    pair = Pair("x = [3, 25", "x = [[3, 25", "]\n", "]]\n", 0)
    longer = elements(pair, 3, Random(0))
    assert longer.prompt_a.startswith("x = [3, ") and longer.prompt_a.endswith(", 25")
    assert longer.prompt_b == longer.prompt_a.replace("[3", "[[3")
    assert longer.prompt_a.count(",") == 4
    above = lines(pair, 2, Random(0))
    assert above.prompt_a.endswith("\n" + pair.prompt_a) and above.prompt_a.count("\n") == 2
    assert above.prompt_b.removesuffix(pair.prompt_b) == above.prompt_a.removesuffix(pair.prompt_a)
    assert elements(pair, 0, Random(0)) == lines(pair, 0, Random(0)) == pair


@pytest.mark.parametrize(
    ("settings", "words_of"),
    [
        ({"filling": "water"}, "allowed: elements, lines"),
        ({"added": (-1,)}, "at least 0"),
        ({"added": ()}, "one or more"),
        ({"filling": "elements"}, "use the filling `lines`"),
        ({"filling": uneven}, "choose another filling"),
    ],
)
def test_bad_input(subject: Subject, settings: dict[str, Any], words_of: str) -> None:
    with pytest.raises(ValueError, match=words_of) as error:
        context_dilution(subject, **{"added": (1,), **settings})
    assert "\n" not in str(error.value)


def test_prompts_that_do_not_fit_are_refused_not_cut() -> None:
    with pytest.raises(ValueError, match="has positions for 24; add fewer"):
        context_dilution(subject_of(binding_model()), added=(0, 30), filling=words)


def test_figure_is_written_and_shows_every_point(
    attack: Attack, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    path = draw_attack(attack, tmp_path / "attack.svg")
    assert path.read_text().count("bracket_depth") == 1
    left, right = drawn[0].axes
    assert [list(line.get_xdata()) for line in left.lines[:2]] == [list(ADDED)] * 2
    assert list(right.lines[2].get_ydata()) == [point.contrasts_model[1].value for point in attack.points]
    with pytest.raises(ValueError, match=r"allowed endings: \.svg, \.png"):
        draw_attack(attack, tmp_path / "attack.pdf")
