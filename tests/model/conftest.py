"""Small random models for the tests of model/: every weight is drawn, so that no bias, gain or sink is left at rest."""

from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch

from sparse_circuits.model.config import AbsTopKSite, ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

# d_head is free of d_model / n_head in all of them; `none_kept` keeps int(0.05 * 12) = 0 entries at the narrow sites.
VARIANTS = {
    "plain": {"sink": False, "bigram": False},
    "sink": {"bigram": False},
    "sparse": {"afrac": 0.25, "sink": False},
    "sparse_sink": {"afrac": 0.25, "n_head": 3, "d_head": 7},
    "some_sites": {"afrac": 0.5, "afrac_sites": ("attn_v", "mlp_neuron"), "bigram": False},
    "none_kept": {"afrac": 0.05, "d_mlp": 40},
    "one_layer": {"afrac": 0.4, "n_layer": 1, "n_head": 1, "d_head": 16, "d_mlp": None},
}
# Options that only released models have; tests/hub/reference_forward.py is the second implementation of these.
RELEASED_VARIANTS = {
    "layernorm": {"norm": "layer", "activation": "relu", "bias": False, "residual_activation": "relu"},
    "learned": {"positions": "learned", "tied_unembed": True, "afrac": 0.3, "afrac_sites": get_args(AbsTopKSite)},
    "concat": {"positions": "concat", "d_pos_emb": 3, "afrac": 0.25, "logits_bias": True, "learnable_bigram": False},
}


def build(seed: int = 0, **fields: object) -> SparseTransformer:
    """An evaluation-mode model with drawn weights, a third of the entries of its matrices zero."""
    shape = {"vocab_size": 13, "n_layer": 2, "d_model": 12, "n_head": 2, "d_head": 5, "d_mlp": 20, "block_size": 16}
    model = SparseTransformer(ModelConfig(**{**shape, **fields}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            parameter.normal_(1.0 if name.endswith("gain") else 0.0, 0.4, generator=generator)
            if parameter.dim() == 2:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) > 1 / 3)
    return model.eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are only slowed down by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SparseTransformer]:
    return build


@pytest.fixture(params=VARIANTS)
def plain_model(request: pytest.FixtureRequest) -> SparseTransformer:
    """One model of every variant of the paper's architecture."""
    return build(**VARIANTS[request.param])


@pytest.fixture(params=VARIANTS | RELEASED_VARIANTS)
def model(request: pytest.FixtureRequest) -> SparseTransformer:
    """One model of every variant."""
    return build(**(VARIANTS | RELEASED_VARIANTS)[request.param])


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
