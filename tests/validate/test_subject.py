"""What is examined must be what it says it is: other models, tasks, tokenizers and nodes are refused; controls are subjects."""

import pytest

from sparse_circuits.circuit.circuit import Origin
from sparse_circuits.circuit.evaluate import evaluate
from sparse_circuits.sites import Node
from sparse_circuits.validate.faithfulness import faithfulness
from sparse_circuits.validate.subject import PAIRS, Subject
from validate.planted import circuit_of, loss_by_hand, quotes, small_model, truth


def test_scores_what_evaluate_scores() -> None:
    known, subject = truth(), quotes(n=9)
    scored = evaluate(subject.circuit, known.model, known.task, tokenizer=known.tokenizer, n=9)
    assert float(subject.circuit_losses().mean()) == pytest.approx(scored.loss, abs=1e-6)
    assert subject.pairs.n == 9 and subject.split == "test"
    assert quotes(n=PAIRS).pairs.n == PAIRS


@pytest.mark.parametrize("what", ["model", "task_origin", "tokenizer"])
def test_what_is_not_the_circuits_own_is_refused(what: str) -> None:
    known = truth()
    circuit = circuit_of(known.model, known.nodes, known.reference.values)
    other = circuit.replace(**{what: Origin(where="", hash="0" * 64)})
    with pytest.raises(ValueError, match=f"made with another {what.removesuffix('_origin')}"):
        Subject.of(other, known.model, known.task, known.tokenizer, n=2)


def test_a_circuit_without_values_or_of_another_shape_is_refused() -> None:
    known = truth()
    circuit = circuit_of(known.model, known.nodes, known.reference.values)
    with pytest.raises(ValueError, match="no ablation values"):
        Subject.of(circuit.replace(values=None), known.model, known.task, known.tokenizer, n=2)
    strange = circuit_of(small_model(), known.nodes, known.reference.values)
    with pytest.raises(ValueError, match="is not at a node site|does not exist|do not fit"):
        Subject.of(strange, small_model(), known.task, known.tokenizer, n=2)
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        Subject.of(circuit, known.model, known.task, known.tokenizer, n=2, split="tset")
    with pytest.raises(ValueError, match=r"final_resid\[999\] does not exist"):
        quotes(n=2).with_nodes([Node("final_resid", 999)])


def test_controls_are_subjects_on_the_same_pairs() -> None:
    subject = quotes(n=3)
    control = subject.with_nodes(subject.layout.nodes(subject.random_masks(1, seed=0)[0]))
    assert len(control.nodes) == len(subject.nodes) and control.pairs is subject.pairs
    found = faithfulness(control)
    assert found.circuit_loss.value == pytest.approx(loss_by_hand(control, control.nodes), abs=1e-5)
    assert found.faithfulness.value < 0.1 and found.model_loss == faithfulness(subject).model_loss
    assert subject.on("val").pairs.texts != subject.pairs.texts and subject.on("val", 2).pairs.n == 2
