"""The search for a dense model of equal loss, on losses that are known functions of the width."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.recipe.matched import STEP, TOLERANCE, matched_config, search_width
from sparse_circuits.train.presets import tiny


def search(loss, target, **limits):
    asked = []

    def val_loss(width):
        asked.append(width)
        return loss(width)

    found = search_width(val_loss, target, **{"first": 48, "widest": 256, **limits})
    assert list(found.trials) == sorted(asked) and len(set(asked)) == len(asked)
    return found, asked


@given(a=st.floats(2.5, 4.0), b=st.floats(0.05, 0.6), true=st.integers(4, 250), first=st.sampled_from([16, 48, 128]))
def test_a_straight_line_in_log_width_is_found_in_a_few_trials(a, b, true, first):
    found, asked = search(lambda width: a - b * math.log(width), a - b * math.log(true), first=first)
    assert len(asked) <= 6 and all(width % STEP == 0 and STEP <= width <= 256 for width in asked)
    nearest = min(abs(b * math.log(width / true)) for width in range(STEP, 257, STEP))
    assert found.met or nearest > TOLERANCE or len(asked) == 6
    assert abs(found.val_loss - found.target) == min(abs(loss - found.target) for loss in found.trials.values())


def test_a_curved_loss_is_found_too():
    found, asked = search(lambda width: 1.4 + 4 / width**0.7, 1.4 + 4 / 60**0.7)
    assert found.met and len(asked) <= 5


def test_a_target_out_of_reach_ends_at_the_edge():
    found, asked = search(lambda width: 5 - width / 1000, 1.0)
    assert found.width == 256 and not found.met and asked[-1] == 256
    found, _ = search(lambda width: 1 + 1 / width, 9.0)
    assert found.width == STEP and not found.met


def test_a_noisy_loss_never_asks_twice():
    found, asked = search(lambda width: 2.0 + 0.3 * math.sin(width), 2.1, most=8)
    assert len(asked) == len(set(asked)) <= 8 and found.width in asked


def test_impossible_limits_are_refused():
    with pytest.raises(ValueError, match="first width 300, widest 256"):
        search(lambda width: 1.0, 1.0, first=300)
    with pytest.raises(ValueError, match="0 trials"):
        search(lambda width: 1.0, 1.0, most=0)


def test_the_twin_is_dense_at_another_width():
    sparse = tiny(512)
    config = matched_config(sparse, 40, 700)
    assert config.sparsity.dense and config.model.afrac is None and config.steps == 700
    assert (config.model.d_model, config.model.mlp_width, config.model.n_head, config.model.n_layer) == (40, 80, 2, 2)
    assert config.optimizer.lr == pytest.approx(sparse.optimizer.lr * math.sqrt(sparse.sparsity.fraction))
    assert matched_config(sparse, 4, 1).model.n_head == 1
