"""Products with frozen sparse weights against torch's dense ones: values, gradients, when they are used and when not."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_circuits.kernels.sparse_product import BLOCK, DENSEST, form_of, frozen, sparse_product
from sparse_circuits.model.block import product
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def linear(inputs: int, outputs: int, density: float, bias: bool = True, seed: int = 0) -> nn.Linear:
    draw = torch.Generator().manual_seed(seed)
    made = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        made.weight.copy_(torch.randn(outputs, inputs, generator=draw))
        made.weight *= torch.rand(outputs, inputs, generator=draw) < density
    return made.requires_grad_(False)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 3 * BLOCK),
    inputs=st.integers(1, 50),
    outputs=st.integers(1, 50),
    density=st.sampled_from([0.0, 0.03, 0.1]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_values_and_gradients(rows: int, inputs: int, outputs: int, density: float, bias: bool, seed: int) -> None:
    layer = linear(inputs, outputs, density, bias, seed)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=draw).requires_grad_()
    upstream = torch.randn(rows, outputs, generator=draw)
    wide = x.detach().double().requires_grad_()
    dense = F.linear(wide, layer.weight.double(), None if layer.bias is None else layer.bias.double())
    with frozen(layer):
        form = form_of(layer.weight, x)
        if form is None:  # a small draw can be denser than asked for
            assert int(layer.weight.count_nonzero()) > DENSEST * layer.weight.numel()
            return
        out = sparse_product(x, form, layer.bias)
    torch.testing.assert_close(out.double(), dense, atol=1e-4, rtol=1e-5)
    (found,) = torch.autograd.grad((out * upstream).sum(), x)
    (expected,) = torch.autograd.grad((dense * upstream).sum(), wide)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_bias_gets_its_gradient_and_batches_keep_their_shape() -> None:
    layer = linear(20, 7, 0.1)
    layer.bias.requires_grad_()
    x = torch.randn(2, 3, 20)
    with frozen(layer):
        form = form_of(layer.weight, x)
        assert form is not None
        out = sparse_product(x, form, layer.bias)
    assert out.shape == (2, 3, 7)
    out.sum().backward()
    assert layer.bias.grad is not None and layer.bias.grad.tolist() == pytest.approx([6.0] * 7)


def test_used_only_where_it_is_right() -> None:
    sparse, dense, x = linear(40, 30, 0.05), linear(40, 30, 0.5), torch.randn(4, 40)
    assert form_of(sparse.weight, x) is None, "nobody said that it is frozen"
    with frozen(nn.ModuleList([sparse, dense])):
        assert form_of(sparse.weight, x) is not None and form_of(dense.weight, x) is None
        assert form_of(sparse.weight, x.double()) is None and form_of(sparse.weight, x[:0]) is None
        assert form_of(sparse.weight.clone(), x) is None, "another tensor, changed or not"
        with torch.autocast("cpu", torch.bfloat16):
            assert form_of(sparse.weight, x) is None
        with frozen(sparse):
            pass
        assert form_of(sparse.weight, x) is not None, "an inner context must not end the outer one"
        sparse.weight.requires_grad_(True)
        assert form_of(sparse.weight, x) is None, "its gradient is asked for"
        with torch.no_grad():
            assert form_of(sparse.weight, x) is not None
    assert form_of(sparse.weight.requires_grad_(False), x) is None


def sparse_model() -> SparseTransformer:
    config = ModelConfig(vocab_size=48, n_layer=2, d_model=32, n_head=2, d_mlp=64, block_size=16, afrac=0.5)
    model = SparseTransformer(config).initialize(3)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(20 * (torch.rand(parameter.shape, generator=draw) < 0.1))
    return model


def test_a_model_computes_the_same_frozen_or_not() -> None:
    model, tokens = sparse_model(), torch.randint(48, (5, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(tokens)
        with frozen(model):
            inside = model(tokens)
        assert torch.equal(model(tokens), before)
    assert float((inside - before).abs().max()) < 1e-4 < float(before.std())


def test_bf16_products_leave_activations_in_fp32() -> None:
    """Autocast on a CPU: the product is in bf16, what comes out is not, and the model stays near itself."""
    layer, x = linear(40, 30, 0.5), torch.randn(6, 40)
    with torch.autocast("cpu", torch.bfloat16):
        out = product(x, layer.weight, layer.bias)
    assert out.dtype == torch.float32 and torch.equal(out, out.bfloat16().float())
    expected = F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()).float()
    torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)

    model, tokens = sparse_model(), torch.randint(48, (5, 16), generator=torch.Generator().manual_seed(1))
    seen: set[torch.dtype] = set()

    class Types:
        def wants(self, site: str) -> bool:
            return site.endswith(("act_in", "attn.q", "attn.y", "post_act", "resid_delta"))

        def __call__(self, site: str, x: Tensor) -> Tensor:
            seen.add(x.dtype)
            return x

    with torch.no_grad():
        plain = model(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(tokens, tap=Types())
    assert seen == {torch.float32}
    cosine = F.cosine_similarity(half.flatten(), plain.flatten(), dim=0)
    assert float(cosine) > 0.9 and not torch.equal(half, plain)
