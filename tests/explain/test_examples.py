"""What is recorded on task examples is what the model and the circuit compute, token by token."""

import pytest
import torch

from sparse_circuits.circuit.evaluate import circuit_tap, pair_losses, usable_tokens
from sparse_circuits.explain.examples import kept_heads, task_heat
from sparse_circuits.model.generate import record
from sparse_circuits.model.taps import Chain, Record
from viz.made_up import made_up


def test_activations_are_those_of_model_and_circuit() -> None:
    circuit, model, task, tokenizer = made_up()
    heat = task_heat(circuit, model, task, tokenizer, n_pairs=3)
    pairs = task.pairs("test", 3, tokenizer, usable=usable_tokens(model))
    full = record(model, pairs.flat_tokens)
    seen = Record({node.site for node in circuit.nodes})
    with torch.no_grad():
        model(pairs.flat_tokens, tap=Chain(circuit_tap(circuit, model), seen))
    assert [item.node for item in heat.nodes] == list(circuit.nodes)
    differ = 0
    for item in heat.nodes:
        for row, example in enumerate(heat.examples):
            n = len(example.tokens)
            torch.testing.assert_close(item.model[row], full[item.node.site][row, :n, item.node.channel])
            torch.testing.assert_close(item.circuit[row], seen.acts[item.node.site][row, :n, item.node.channel])
            differ += not torch.allclose(item.model[row], item.circuit[row])
    assert differ > 0, "ablating everything else changed nothing"


def test_examples_are_the_prompts_with_their_chances() -> None:
    circuit, model, task, tokenizer = made_up()
    heat = task_heat(circuit, model, task, tokenizer, n_pairs=4)
    pairs = task.pairs("test", 4, tokenizer, usable=usable_tokens(model))
    assert [example.label for example in heat.examples] == [0, 1] * 4
    assert [example.right for example in heat.examples] == pairs.completions.flatten().tolist()
    with torch.no_grad():
        losses = {
            "p_model": pair_losses(model, pairs),
            "p_circuit": pair_losses(model, pairs, circuit_tap(circuit, model)),
        }
    for name, expected in losses.items():
        chances = torch.tensor([getattr(example, name) for example in heat.examples]).view(-1, 2)
        torch.testing.assert_close(-chances.log().mean(1), expected, rtol=1e-4, atol=1e-4)


def test_patterns_are_causal_and_sum_to_one_with_the_sink() -> None:
    circuit, model, task, tokenizer = made_up(60)
    heat = task_heat(circuit, model, task, tokenizer, n_pairs=3, n_attention_pairs=1)
    assert [(head.layer, head.head) for head in heat.heads] == list(kept_heads(circuit, model.config.d_head))
    for head in heat.heads:
        assert len(head.circuit) == len(head.model) == 2
        for pattern, example in zip(head.circuit, heat.examples, strict=False):
            n = len(example.tokens)
            assert pattern.shape == (n, n + 1)
            torch.testing.assert_close(pattern.sum(-1), torch.ones(n))
            assert not pattern[:, :n].triu(1).any()


def test_without_ablation_values_it_says_what_to_do() -> None:
    circuit, model, task, tokenizer = made_up()
    with pytest.raises(ValueError, match="ablation values"):
        task_heat(circuit.replace(values=None), model, task, tokenizer)
