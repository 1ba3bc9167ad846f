"""The transformers classes: the same function as the network, whatever transformers does around it.

The padding law is checked in float64, where no rounding moves an AbsTopK decision: a row in a batch, padded on the left, on the
right or in between, gives what it gives alone, in one pass, in pieces, in greedy decoding and in beam search.
"""

import copy
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, StaticCache

import sparse_circuits as sc
from hub.hf_folders import (
    BLOCK,
    END,
    LAYOUTS,
    VARIANTS,
    VOCABULARY,
    draw_tokens,
    fresh,
    released_folder,
    small_network,
)
from refusals import refused
from sparse_circuits.hub.hf_config import CircuitGPTConfig, SparseCircuitsConfig
from sparse_circuits.hub.modeling import CircuitGPTForCausalLM, SparseCircuitsForCausalLM
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer

GOLDEN = Path(__file__).parent.parent / "golden" / "released" / "sink_catpos_afrac_full__hf"
CLASSES = {"sparse_circuits": SparseCircuitsForCausalLM, "circuitgpt": CircuitGPTForCausalLM}
CONFIGS = {"sparse_circuits": SparseCircuitsConfig, "circuitgpt": CircuitGPTConfig}
EXACT = {"rtol": 0.0, "atol": 1e-9}  # in float64
KINDS = pytest.mark.parametrize("kind", sorted(LAYOUTS))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers.logging.set_verbosity_error()


def folder_of(kind: str, where: Path, network: SparseTransformer) -> Path:
    return LAYOUTS[kind](where / kind, network)


def opened(kind: str, where: Path, variant: str = "concat", **keywords: Any) -> Any:
    """A model of this type, through AutoModelForCausalLM and a folder."""
    return AutoModelForCausalLM.from_pretrained(folder_of(kind, where, small_network(variant)), **keywords)


def around(network: SparseTransformer, kind: str = "sparse_circuits") -> Any:
    """The class around a network, without a folder."""
    return CLASSES[kind](CONFIGS[kind].of(network), network).eval()


WIDE = {variant: around(small_network(variant).double()) for variant in VARIANTS}
"""Float64 models, shared: tests leave them as they are."""


# --- the same function


@KINDS
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_network(kind: str, variant: str, tmp_path: Path) -> None:
    network, tokens = small_network(variant), draw_tokens(3, 11)
    model = AutoModelForCausalLM.from_pretrained(folder_of(kind, tmp_path, network))
    assert type(model) is CLASSES[kind]
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, network(tokens))
        assert torch.equal(model(input_ids=tokens.int()).logits, network(tokens))
    assert model.config.vocab_size == VOCABULARY
    assert model.config.hidden_size == 12
    assert model.config.eos_token_id == model.generation_config.eos_token_id == END


@pytest.mark.parametrize("cached", [True, False])
def test_the_golden_vectors_through_transformers(cached: bool) -> None:
    golden = load_file(GOLDEN / "golden.safetensors")
    model, tokens = AutoModelForCausalLM.from_pretrained(GOLDEN, dtype="auto"), golden["input_ids"]
    hooks = [name for name in golden if name not in ("input_ids", "targets", "logits", "loss")]
    with torch.no_grad():
        output = model(tokens, output_activations=hooks, output_hidden_states=True, use_cache=cached)
    torch.testing.assert_close(output.logits, golden["logits"], rtol=0, atol=1e-5)
    assert sorted(output.activations) == sorted(hooks)
    for name in hooks:
        torch.testing.assert_close(output.activations[name], golden[name], rtol=0, atol=5e-5)
    states = [golden["0.resid_in"], golden["1.resid_in"], golden["final_resid"]]
    for found, expected in zip(output.hidden_states, states, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    assert (output.past_key_values is not None) == cached


def test_hand_made_labels_give_the_golden_loss() -> None:
    golden = load_file(GOLDEN / "golden.safetensors")
    model, tokens, targets = AutoModelForCausalLM.from_pretrained(GOLDEN), golden["input_ids"], golden["targets"]
    with torch.no_grad():
        log_p = model(tokens).logits.log_softmax(-1)
    picked = [-log_p[b, t, targets[b, t]] for b in range(2) for t in range(24) if targets[b, t] != -1]
    assert float(sum(picked) / len(picked)) == pytest.approx(float(golden["loss"]), abs=1e-5)


# --- padding


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows of tokens; the batch that holds them with padding anywhere; its mask. Some rows may be nothing but padding."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    shape = draw(st.sampled_from(["left", "right", "anywhere"]))
    tokens = draw_tokens(rows, length, draw(st.integers(0, 99)))
    mask = torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        kept = draw(st.integers(0 if shape == "anywhere" else 1, length))
        if shape == "anywhere":
            mask[row, draw(st.permutations(range(length)))[:kept]] = 1
        elif shape == "left":
            mask[row, length - kept :] = 1
        else:
            mask[row, :kept] = 1
    return [tokens[row][mask[row].bool()] for row in range(rows)], tokens, mask


def alone(model: Any, rows: list[Tensor], **keywords: Any) -> list[Any]:
    return [model(row[None], **keywords) if len(row) else None for row in rows]


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25)
@given(batches(), st.booleans())
def test_a_padded_row_gives_what_it_gives_alone(variant: str, batch: Any, other_padding: bool) -> None:
    model, (rows, tokens, mask) = WIDE[variant], batch
    if other_padding:  # what the padding says must not matter
        tokens = torch.where(mask.bool(), tokens, END)
    with torch.no_grad():
        together = model(tokens, attention_mask=mask, output_hidden_states=True)
        assert together.logits.isfinite().all()
        for row, expected in enumerate(alone(model, rows, output_hidden_states=True)):
            if expected is not None:
                real = mask[row].bool()
                torch.testing.assert_close(together.logits[row, real], expected.logits[0], **EXACT)
                for found, state in zip(together.hidden_states, expected.hidden_states, strict=True):
                    torch.testing.assert_close(found[row, real], state[0], **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=15)
@given(batches(), st.integers(0, 12), st.sampled_from([torch.long, torch.bool, torch.float32]))
def test_a_cache_continued_in_two_pieces(variant: str, batch: Any, cut: int, dtype: torch.dtype) -> None:
    model, (_, tokens, mask) = WIDE[variant], batch
    mask, cut = mask.to(dtype), cut % tokens.shape[1]
    with torch.no_grad():
        whole = model(tokens, attention_mask=mask).logits
        cache = DynamicCache()
        pieces = []
        for start, stop in ((0, cut), (cut, tokens.shape[1])):
            if stop > start:
                output = model(tokens[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache)
                assert output.past_key_values is cache
                pieces.append(output.logits)
    assert cache.get_seq_length() == tokens.shape[1]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)


@pytest.mark.parametrize("variant", ["none", "learned", "concat"])
def test_a_cache_continued_token_by_token_without_a_mask(variant: str) -> None:
    model, tokens, past = WIDE[variant], draw_tokens(2, BLOCK), None
    with torch.no_grad():
        whole = model(tokens).logits
        for place in range(BLOCK):
            output = model(tokens[:, place : place + 1], past_key_values=past, use_cache=True)
            past = output.past_key_values
            torch.testing.assert_close(output.logits[:, 0], whole[:, place], **EXACT)


GENERATION = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "beams_stop_early": {"num_beams": 2, "early_stopping": True, "length_penalty": 0.5},
}


@pytest.mark.parametrize("how", GENERATION)
@pytest.mark.parametrize("variant", ["none", "learned_tied", "concat"])
@pytest.mark.parametrize("side", ["left", "interleaved"])
def test_padded_prompts_are_continued_as_alone(variant: str, how: str, side: str) -> None:
    model, keywords = WIDE[variant], {**GENERATION[how], "max_new_tokens": 7, "pad_token_id": END}
    rows = [draw_tokens(1, length, seed=length)[0] for length in (3, 7, 5)]
    tokens, mask = torch.full((3, 9), END), torch.zeros(3, 9, dtype=torch.long)
    for row, real in enumerate(rows):
        places = torch.arange(9 - len(real), 9)
        if side == "interleaved":  # the last token is real, holes lie between
            places = torch.linspace(0, 8, len(real)).round().long()
        tokens[row, places], mask[row, places] = real, 1
    together = model.generate(tokens, attention_mask=mask, **keywords)
    assert torch.equal(together[:, :9], tokens)
    for row, real in enumerate(rows):
        expected = model.generate(real[None], attention_mask=torch.ones(1, len(real)), **keywords)[0, len(real) :]
        found = together[row, 9 : 9 + len(expected)]
        assert found.tolist() == expected.tolist()
        assert set(together[row, 9 + len(expected) :].tolist()) <= {END}
    again = model.generate(tokens, attention_mask=mask, use_cache=False, **keywords)
    assert torch.equal(again, together)


@pytest.mark.parametrize("variant", ["none", "learned", "concat"])
def test_right_padded_prompts_do_not_reach_each_other(variant: str) -> None:
    """Generation appends after the padding; the padding stays unseen and uncounted."""
    model, prompt = WIDE[variant], draw_tokens(1, 4)
    padded = torch.cat([prompt, torch.full((1, 3), END)], 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        first = model(padded, attention_mask=mask).logits[0, 3]
        torch.testing.assert_close(first, model(prompt).logits[0, -1], **EXACT)
        following = torch.cat([padded, first.argmax().view(1, 1)], 1)
        second = model(following, attention_mask=F.pad(mask, (0, 1), value=1)).logits[0, -1]
        expected = model(torch.cat([prompt, first.argmax().view(1, 1)], 1)).logits[0, -1]
    torch.testing.assert_close(second, expected, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_of_padding_alone_gives_numbers_and_finite_gradients(variant: str) -> None:
    model, tokens = copy.deepcopy(WIDE[variant]), draw_tokens(2, 5)
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    output = model(tokens, attention_mask=mask, labels=torch.where(mask.bool(), tokens, -100), output_attentions=True)
    assert output.logits.isfinite().all()
    assert all(pattern.isfinite().all() for pattern in output.attentions)
    output.loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


def test_position_ids_are_checked_where_they_matter() -> None:
    tokens, mask = draw_tokens(2, 5), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    counted = (mask.cumsum(-1) - 1).clamp(min=0)
    for variant in ("learned", "concat"):
        model = WIDE[variant]
        with torch.no_grad():
            plain = model(tokens, attention_mask=mask).logits
            for positions in (counted, counted.masked_fill(mask == 0, 1)):
                assert torch.equal(model(tokens, attention_mask=mask, position_ids=positions).logits, plain)
            assert torch.equal(model(tokens, position_ids=torch.arange(5)[None]).logits, model(tokens).logits)
        with refused("position_ids", "leave them out"):
            model(tokens, attention_mask=mask, position_ids=torch.arange(5).expand(2, -1))
        with refused("position_ids", "[2, 5]"):
            model(tokens, position_ids=torch.arange(4).expand(2, -1))
    with torch.no_grad():
        free = WIDE["none"](tokens, position_ids=torch.full((2, 5), 7)).logits
        assert torch.equal(free, WIDE["none"](tokens).logits)


# --- what stands beside the logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_and_attentions(variant: str) -> None:
    model, tokens = WIDE[variant], draw_tokens(2, 6)
    network, tap = model.circuit_model, Record({"0.resid_in", "1.resid_in", "final_resid", "0.attn.pattern"})
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True, output_attentions=True)
        network(tokens, tap=tap)
        torch.testing.assert_close(output.logits, network(tokens), **EXACT)
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2
    for found, site in zip(output.hidden_states, ("0.resid_in", "1.resid_in", "final_resid"), strict=True):
        assert torch.equal(found, tap.acts[site])
    for pattern in output.attentions:
        assert pattern.shape == (2, 3, 6, 6)
        assert not pattern.triu(1).any()
        assert (pattern.sum(-1) <= 1 + 1e-12).all()
    whole = tap.acts["0.attn.pattern"]
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 3, 6, dtype=torch.float64), **EXACT)
    if network.config.sink:
        torch.testing.assert_close(output.attentions[0].sum(-1) + whole[..., -1], whole.sum(-1), **EXACT)
        assert (output.attentions[0].sum(-1) < 1).all()
    else:
        assert torch.equal(output.attentions[0], whole)


def test_the_last_hidden_state_and_the_unembedding_give_the_logits() -> None:
    model, tokens = WIDE["learned_tied"], draw_tokens(2, 6)
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True)
        u = model.circuit_model.final_norm(output.hidden_states[-1])
        expected = u @ model.get_output_embeddings().weight.T + model.circuit_model.bigram.weight[tokens]
    torch.testing.assert_close(output.logits, expected, **EXACT)


def test_activations_interventions_and_taps() -> None:
    model, tokens = WIDE["concat"], draw_tokens(2, 6)
    network, seen = model.circuit_model, Record({"1.mlp.act_in"})

    def halve(x: Tensor) -> Tensor:
        return x / 2

    with torch.no_grad():
        output = model(tokens, output_activations=["*.mlp.post_act", "final_resid"])
        assert list(output.activations) == ["0.mlp.post_act", "1.mlp.post_act", "final_resid"]
        recorded = sc.record(network, tokens, ["*.mlp.post_act", "final_resid"])
        assert all(torch.equal(output.activations[site], recorded[site]) for site in recorded)
        edited = model(tokens, interventions={"*.mlp.post_act": halve}, output_activations="0.mlp.post_act", tap=seen)
        assert torch.equal(edited.logits, sc.intervene(network, tokens, {"*.mlp.post_act": halve}))
        assert torch.equal(edited.activations["0.mlp.post_act"], recorded["0.mlp.post_act"] / 2)
        assert not torch.allclose(edited.logits, output.logits)
        assert seen.acts["1.mlp.act_in"].shape == (2, 6, 17)
    assert output.hidden_states is None and output.attentions is None
    assert model(tokens).activations is None
    with refused("unknown site 'nonsense'"):
        model(tokens, output_activations="nonsense")
    with refused("0.mlp.post_act", "[2, 6, 48]"):
        model(tokens, interventions={"0.mlp.post_act": torch.zeros(3)})


def test_interventions_reach_every_step_of_generate() -> None:
    model, prompt = WIDE["concat"], draw_tokens(2, 4)
    silent = {"*.mlp.post_act": torch.zeros_like}
    keywords = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": END, "attention_mask": torch.ones(2, 4)}
    found = model.generate(prompt, interventions=silent, eos_token_id=None, **keywords)
    tokens = prompt
    with torch.no_grad():
        for _ in range(6):
            following = sc.intervene(model.circuit_model, tokens, silent)[:, -1].argmax(-1)
            tokens = torch.cat([tokens, following[:, None]], 1)
    assert torch.equal(found, tokens)
    assert not torch.equal(found, model.generate(prompt, eos_token_id=None, **keywords))


def test_tuples_instead_of_an_output() -> None:
    model, tokens = WIDE["concat"], draw_tokens(2, 6)
    with torch.no_grad():
        named = model(tokens, labels=tokens, use_cache=False)
        assert [type(part) for part in model(tokens, labels=tokens, return_dict=False, use_cache=False)] == [Tensor] * 2
        loss, logits, cache, states = model(tokens, labels=tokens, return_dict=False, output_hidden_states=True)
    assert torch.equal(loss, named.loss) and torch.equal(logits, named.logits)
    assert isinstance(cache, DynamicCache) and len(states) == 3


@pytest.mark.parametrize("keep", [0, 1, 2, 6, 99, torch.tensor([0, 4])], ids=str)
def test_logits_to_keep(keep: Any) -> None:
    model, tokens = WIDE["concat"], draw_tokens(2, 6)
    with torch.no_grad():
        whole = model(tokens).logits
        expected = whole[:, keep] if isinstance(keep, Tensor) else whole[:, -keep:]
        torch.testing.assert_close(model(tokens, logits_to_keep=keep).logits, expected, **EXACT)
        labelled = model(tokens, logits_to_keep=keep, labels=tokens)
        assert torch.equal(labelled.loss, model(tokens, labels=tokens).loss)
        torch.testing.assert_close(labelled.logits, expected, **EXACT)
        asked = {"output_hidden_states": True, "output_attentions": True, "output_activations": "*"}
        seen, all_seen = model(tokens, logits_to_keep=keep, **asked), model(tokens, **asked)
    for name, value in all_seen.activations.items():  # fewer logits, but everything that was asked for
        torch.testing.assert_close(seen.activations[name], value, **EXACT)
    for found, value in zip(
        seen.hidden_states + seen.attentions, all_seen.hidden_states + all_seen.attentions, strict=True
    ):
        torch.testing.assert_close(found, value, **EXACT)


def test_the_loss_by_hand() -> None:
    model, tokens = WIDE["learned"], draw_tokens(2, 5)
    labels = tokens.clone()
    labels[0, 1] = labels[1, 4] = -100
    with torch.no_grad():
        output = model(tokens, labels=labels)
        shared = model(tokens, labels=labels, num_items_in_batch=40).loss
        tensor = model(tokens, labels=labels, num_items_in_batch=torch.tensor(40)).loss
    terms = [
        -math.log(math.exp(float(output.logits[row, place, label])) / float(output.logits[row, place].exp().sum()))
        for row in range(2)
        for place in range(4)
        if (label := int(labels[row, place + 1])) != -100
    ]
    assert len(terms) == 6
    assert float(output.loss) == pytest.approx(sum(terms) / 6, abs=1e-9)
    assert float(shared) == float(tensor) == pytest.approx(sum(terms) / 40, abs=1e-9)


def test_passes_over_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    """What a trainer with gradient accumulation relies on."""
    whole, parts = copy.deepcopy(WIDE["concat"]), copy.deepcopy(WIDE["concat"])
    tokens, labels = draw_tokens(4, 6), draw_tokens(4, 6)
    labels[0, 2:] = -100
    items = int((labels[:, 1:] != -100).sum())
    whole(tokens, labels=labels).loss.backward()
    for half in (slice(0, 2), slice(2, 4)):
        parts(tokens[half], labels=labels[half], num_items_in_batch=items).loss.backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant: str) -> None:
    model = copy.deepcopy(WIDE[variant]).train()
    tokens, mask = draw_tokens(3, 8), torch.ones(3, 8)
    mask[0, :3] = 0
    model(tokens, attention_mask=mask, labels=tokens).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []


# --- devices and dtypes


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_dtype_by_name_and_by_value(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    network, tokens = small_network("concat", afrac=None), draw_tokens(2, 6)
    folder, name = folder_of(kind, tmp_path, network), str(dtype).removeprefix("torch.")
    for given_dtype in (dtype, name, str(dtype)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=given_dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype} == {model.dtype, model.config.dtype}
    assert AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype).dtype == dtype
    mask = torch.ones(2, 6)
    mask[0, :2] = 0
    with torch.no_grad():
        for output in (model(tokens), model(tokens, attention_mask=mask, output_attentions=True)):
            assert output.logits.dtype == dtype
            assert output.logits.isfinite().all()
        tolerance = {torch.float16: 0.05, torch.bfloat16: 0.3, torch.float32: 1e-4, torch.float64: 1e-4}[dtype]
        torch.testing.assert_close(model(tokens).logits.float(), network(tokens), rtol=tolerance, atol=tolerance)
    assert model.generate(tokens, attention_mask=mask, max_new_tokens=3, pad_token_id=END).shape[1] <= 9


@KINDS
def test_the_stored_dtype_is_the_default(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, small_network("concat").bfloat16())
    for keywords in ({}, {"dtype": "auto"}, {"dtype": None}, {"torch_dtype": "auto"}):
        assert AutoModelForCausalLM.from_pretrained(folder, **keywords).dtype == torch.bfloat16
        assert CLASSES[kind].from_pretrained(folder, **keywords).dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32


@KINDS
@pytest.mark.parametrize("dtype", [torch.int8, "int8", "nonsense", "nn", "float8_e4m3fn", torch.complex64, 3], ids=str)
def test_a_dtype_weights_cannot_have(kind: str, dtype: Any, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, small_network())
    for opener in (AutoModelForCausalLM, CLASSES[kind]):
        with refused("dtype", str(dtype), "float32"):
            opener.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize(
    "device_map",
    [None, "auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"a": "cpu", "b": torch.device("cpu")}, "balanced"],
    ids=str,
)
def test_a_device_map_of_one_device(device_map: Any, tmp_path: Path) -> None:
    model = opened("circuitgpt", tmp_path, device_map=device_map)
    expected = "cuda" if device_map in ("auto", "balanced") and torch.cuda.is_available() else "cpu"
    assert {parameter.device.type for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize(
    ("device_map", "word"),
    [
        ("nonsense", "nonsense"),
        ("cuda:77", "cuda:77"),
        ({"": "disk"}, "disk"),
        ({"circuit_model.embed": "cpu", "circuit_model.blocks": "cuda:77"}, "cuda:77"),
        ({}, "0 devices"),
        (["cpu"], "cpu"),
        (3.5, "3.5"),
        ("meta", "meta"),
        (77, "77"),
    ],
    ids=str,
)
def test_a_device_map_that_cannot_be(device_map: Any, word: str, tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "m", small_network())
    for opener in (AutoModelForCausalLM, CircuitGPTForCausalLM):
        with refused("device_map", word, "allowed"):
            opener.from_pretrained(folder, device_map=device_map)


def test_a_device_map_over_two_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine where both are there."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **keywords: None)
    with refused("2 devices", "one"):
        from sparse_circuits.hub.hf_inputs import one_device

        one_device({"embed": "cpu", "blocks": "cuda:0"})


# --- keywords and configs


GENERIC = {"use_cache": False, "output_hidden_states": True, "return_dict": False, "pad_token_id": 3, "eos_token_id": 4}


@KINDS
@pytest.mark.parametrize("through", ["auto", "class"])
@pytest.mark.parametrize("name", GENERIC)
def test_generic_keywords_are_honoured(kind: str, through: str, name: str, tmp_path: Path) -> None:
    folder, tokens = folder_of(kind, tmp_path, small_network()), draw_tokens(1, 4)
    opener = AutoModelForCausalLM if through == "auto" else CLASSES[kind]
    model = opener.from_pretrained(folder, **{name: GENERIC[name]})
    assert getattr(model.config, name) == GENERIC[name]
    output = model(tokens)
    if name == "return_dict":
        assert isinstance(output, tuple)
    elif name == "output_hidden_states":
        assert len(output.hidden_states) == 3
    else:
        assert (output.past_key_values is None) == (name == "use_cache")
        assert getattr(model.generation_config, name) == GENERIC[name]
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    if name not in ("output_hidden_states", "return_dict"):
        assert getattr(again.generation_config, name) == GENERIC[name]


def test_a_cache_is_used_unless_it_is_declined() -> None:
    """The published config says use_cache false of code that had none; ours has one."""
    assert json.loads((GOLDEN / "config.json").read_text("utf-8"))["use_cache"] is False
    for opener in (AutoModelForCausalLM, CircuitGPTForCausalLM):
        assert opener.from_pretrained(GOLDEN).generation_config.use_cache is True
        assert opener.from_pretrained(GOLDEN, use_cache=False).generation_config.use_cache is False


OTHER_NETWORKS = {
    "sparse_circuits": {
        "vocab_size": 7,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "head_dim": 2,
        "num_attention_heads": 2,
        "intermediate_size": 5,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "circuitgpt": {
        "n_layer": 1,
        "d_model": 24,
        "sink": False,
        "afrac": 0.25,
        "afrac_loctypes": "mlp_neuron",
        "block_size": 512,
        "rms_norm": False,
        "vocab_size": 7,
        "activation_type": "relu",
        "enable_bigram_table": False,
        "tie_word_embeddings": True,
        "unembed_rank": 3,
    },
}


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(kind, *item) for kind, names in OTHER_NETWORKS.items() for item in names.items()]
)
def test_keywords_that_describe_another_network_are_refused(kind: str, name: str, value: Any, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, small_network())
    for opener in (AutoModelForCausalLM, CLASSES[kind]):
        with refused():
            opener.from_pretrained(folder, **{name: value})


@KINDS
def test_keywords_nothing_reads_are_refused(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, small_network())
    settings_of = GenerationConfig(max_new_tokens=3)
    unknown = {"n_layers": 1, "load_in_8bit": True, "to_dict": 1, "generation_config": settings_of, "variant": "fp16"}
    for name, value in unknown.items():
        with refused(name, "leave it out"):
            CLASSES[kind].from_pretrained(folder, **{name: value})
        if name != "to_dict":  # AutoConfig itself stumbles over that one
            with refused(name, "leave it out"):
                AutoModelForCausalLM.from_pretrained(folder, **{name: value})
    for implementation in ("flash_attention_2", "nonsense"):
        with refused(implementation):
            CLASSES[kind].from_pretrained(folder, attn_implementation=implementation)
        with refused():
            AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
    for name, value in {"attn_implementation": "eager", "quantization_config": None, "trust_remote_code": True}.items():
        assert type(AutoModelForCausalLM.from_pretrained(folder, **{name: value})) is CLASSES[kind]


@KINDS
def test_a_config_that_is_given(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, small_network("learned"))
    config = AutoConfig.from_pretrained(folder, use_cache=False)
    before = config.to_dict()
    for opener in (AutoModelForCausalLM, CLASSES[kind]):
        assert opener.from_pretrained(folder, config=config, output_attentions=True).config.use_cache is False
        assert config.to_dict() == before  # the caller's stays the caller's
        other = CONFIGS[kind].of(small_network("learned", n_layer=1))
        with refused("another network"):
            opener.from_pretrained(folder, config=other)
    for wrong in (transformers.GPT2Config(), "config.json"):
        with refused("config", CONFIGS[kind].__name__):
            CLASSES[kind].from_pretrained(folder, config=wrong)


@KINDS
@pytest.mark.parametrize("variant", VARIANTS)
def test_configs_say_what_the_network_is(kind: str, variant: str, tmp_path: Path) -> None:
    network = small_network(variant)
    config = AutoConfig.from_pretrained(folder_of(kind, tmp_path, network))
    assert type(config) is CONFIGS[kind]
    c = network.config
    shapes = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert shapes == (c.vocab_size, c.d_model, c.n_layer, c.n_head)
    assert (config.head_dim, config.intermediate_size) == (c.d_head, c.mlp_width)
    assert config.tie_word_embeddings == c.tied_unembed
    if kind == "sparse_circuits":
        assert config.model_config() == c
        assert getattr(config, "max_position_embeddings", None) == (None if c.positions == "none" else c.block_size)
    config.save_pretrained(tmp_path / "config")
    again = AutoConfig.from_pretrained(tmp_path / "config")
    assert again.model_config() == config.model_config()
    again._name_or_path = config._name_or_path
    assert again.to_dict() == config.to_dict()
    assert "auto_map" not in json.loads((tmp_path / "config" / "config.json").read_text("utf-8"))
    assert copy.deepcopy(config).to_dict() == config.to_dict()


@KINDS
def test_from_config_draws_a_new_network(kind: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(folder_of(kind, tmp_path, small_network("learned")))
    model, again = AutoModelForCausalLM.from_config(config), AutoModelForCausalLM.from_config(config)
    assert type(model) is CLASSES[kind]
    tokens = draw_tokens(2, 5)
    assert torch.equal(model.eval()(tokens).logits, again.eval()(tokens).logits)
    gains = [p for name, p in model.named_parameters() if name.endswith("gain")]
    assert all(torch.equal(gain, torch.ones_like(gain)) for gain in gains)  # not drawn again by transformers
    assert AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).dtype == torch.bfloat16


# --- inputs that are refused


def test_inputs_the_model_cannot_honour() -> None:
    model, tokens = WIDE["concat"], draw_tokens(2, 6)
    with refused("input_ids"):
        model()
    for name in ("inputs_embeds", "token_type_ids", "encoder_hidden_states", "head_mask"):
        with refused(name, "input_ids"):
            model(tokens, **{name: torch.zeros(2, 6, 12)})
    with refused("inputs_embeds"):
        model.generate(inputs_embeds=torch.zeros(1, 6, 12), max_new_tokens=2)
    for wrong, word in (
        (tokens[0], "[6]"),
        (tokens.float(), "float32"),
        (tokens[:, :0], "[2, 0]"),
        (tokens[:0], "[0, 6]"),
    ):
        with refused("input_ids", word):
            model(wrong)
    with refused("0..30"):
        model(tokens + VOCABULARY)
    for shape in ((2, 5), (2, 7), (3, 6), (2, 1, 6, 6)):
        with refused("attention_mask", str(list(shape)), "[2, 6]"):
            model(tokens, attention_mask=torch.ones(shape))
    with refused("labels", "[2, 5]", "[2, 6]"):
        model(tokens, labels=tokens[:, 1:])
    with refused("logits_to_keep", "-1"):
        model(tokens, logits_to_keep=-1)
    with refused("StaticCache", "DynamicCache"):
        model(tokens, past_key_values=StaticCache(config=model.config, max_cache_len=20))
    with refused("tuple", "DynamicCache"):
        model(tokens, past_key_values=((torch.zeros(1), torch.zeros(1)),))
    with refused("StaticCache", "DynamicCache"):
        model.generate(tokens, max_new_tokens=2, cache_implementation="static")


def test_more_tokens_than_positions() -> None:
    prompt = draw_tokens(1, 6)
    keywords = {"do_sample": False, "eos_token_id": None, "attention_mask": torch.ones(1, 6), "pad_token_id": END}
    for variant in ("learned", "concat"):
        assert WIDE[variant].generate(prompt, max_new_tokens=BLOCK - 5, **keywords).shape == (1, BLOCK + 1)
        for use_cache in (True, False):
            with refused(f"{BLOCK + 1} tokens", f"up to {BLOCK}"):
                WIDE[variant].generate(prompt, max_new_tokens=BLOCK, use_cache=use_cache, **keywords)
    assert WIDE["none"].generate(prompt, max_new_tokens=BLOCK, **keywords).shape == (1, BLOCK + 6)


def test_the_vocabulary_is_not_resized() -> None:
    model, tokens = copy.deepcopy(WIDE["learned"]), draw_tokens(2, 4)
    with torch.no_grad():
        before = model(tokens).logits
        with refused("33", "31"):
            model.resize_token_embeddings(33)
        with refused("embeddings"):
            model.set_input_embeddings(torch.nn.Embedding(33, 12))
        assert model.resize_token_embeddings(VOCABULARY) is model.get_input_embeddings() is model.circuit_model.embed
        assert torch.equal(model(tokens).logits, before)


# --- generate


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_decoding_is_the_argmax_of_the_network(variant: str) -> None:
    model, tokens = WIDE[variant], draw_tokens(2, 5)
    keywords = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": END}
    cached = model.generate(tokens, attention_mask=torch.ones(2, 5), **keywords)
    assert torch.equal(cached, model.generate(tokens, attention_mask=torch.ones(2, 5), use_cache=False, **keywords))
    chunked = model.generate(tokens, attention_mask=torch.ones(2, 5), prefill_chunk_size=2, **keywords)
    assert torch.equal(cached, chunked)
    with torch.no_grad():
        for _ in range(8):
            tokens = torch.cat([tokens, model.circuit_model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(cached, tokens)


@pytest.mark.parametrize("use_cache", [True, False])
def test_sampling_draws_from_the_distribution(use_cache: bool) -> None:
    """3,000 first tokens against the network's own probabilities at that temperature."""
    model, prompt = WIDE["concat"], draw_tokens(1, 4)
    torch.manual_seed(1)
    drawn = model.generate(
        prompt.expand(3000, -1),
        attention_mask=torch.ones(3000, 4),
        max_new_tokens=1,
        do_sample=True,
        temperature=2.0,
        top_k=0,
        use_cache=use_cache,
        pad_token_id=END,
    )[:, -1]
    with torch.no_grad():
        p = (model.circuit_model(prompt)[0, -1] / 2).softmax(-1)
    share = torch.bincount(drawn, minlength=VOCABULARY) / 3000
    assert (share - p).abs().max() < 5 * math.sqrt(0.25 / 3000)


def test_the_same_seed_samples_the_same_with_and_without_a_cache() -> None:
    model, tokens = WIDE["learned"], draw_tokens(3, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    found = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        keywords = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "max_new_tokens": 9, "pad_token_id": END}
        found.append(model.generate(tokens, attention_mask=mask, use_cache=use_cache, **keywords))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "keywords",
    [
        {"num_return_sequences": 2, "do_sample": True, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        {"num_beams": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 2, "do_sample": False},
        {"do_sample": False, "output_scores": True, "return_dict_in_generate": True, "output_attentions": True},
    ],
    ids=["penalties", "beam_sample", "prompt_lookup", "everything"],
)
def test_other_ways_to_generate_run(keywords: dict[str, Any]) -> None:
    model, tokens = WIDE["concat"], draw_tokens(1, 5)
    output = model.generate(
        tokens, attention_mask=torch.ones(1, 5), max_new_tokens=5, eos_token_id=None, pad_token_id=END, **keywords
    )
    sequences = output if isinstance(output, Tensor) else output.sequences
    assert sequences.shape == (keywords.get("num_return_sequences", 1), 10)
    if not isinstance(output, Tensor):
        assert len(output.attentions) == 5
        assert [steps[0].shape[-1] for steps in output.attentions] == [5, 6, 7, 8, 9]


def test_assisted_generation_is_greedy_decoding() -> None:
    model, helper, tokens = WIDE["concat"], WIDE["learned"], draw_tokens(1, 5)
    keywords = {"attention_mask": torch.ones(1, 5), "max_new_tokens": 9, "do_sample": False, "pad_token_id": END}
    assert torch.equal(model.generate(tokens, assistant_model=helper, **keywords), model.generate(tokens, **keywords))


def test_generation_stops_at_the_end_token() -> None:
    network = small_network("concat", logits_bias=True)
    with torch.no_grad():
        network.logits_bias[END] = 1e4
    output = around(network).generate(draw_tokens(1, 3), attention_mask=torch.ones(1, 3), max_new_tokens=9)
    assert output[0, 3:].tolist() == [END]


# --- saving


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@KINDS
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_model_comes_back_bit_for_bit(kind: str, variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, tokens = around(small_network(variant).to(dtype), kind), draw_tokens(2, 7)
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.5
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert type(again) is CLASSES[kind]
    assert again.circuit_model.config == model.circuit_model.config
    held, found = model.state_dict(), again.state_dict()
    assert held.keys() == found.keys()
    assert all(held[name].dtype == found[name].dtype and torch.equal(held[name], found[name]) for name in held)
    assert again.generation_config.temperature == 0.5
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
        assert torch.equal(sc.load_model(tmp_path / "saved", dtype=None)(tokens), model(tokens).logits)


def test_shards_and_what_lay_there_before(tmp_path: Path) -> None:
    folder, first, second = (
        tmp_path / "m",
        around(small_network(seed=1), "circuitgpt"),
        around(small_network(), "circuitgpt"),
    )
    tokens = draw_tokens(2, 7)
    (tmp_path / "m").mkdir()
    (folder / "notes.txt").write_text("mine", "utf-8")
    for model, size in ((first, "3KB"), (second, "50GB"), (first, "6KB"), (second, "3KB"), (second, 5000)):
        model.save_pretrained(folder, max_shard_size=size)
        shards = [name for name in files(folder) if name.endswith(".safetensors")]
        index = folder / "model.safetensors.index.json"
        if size == "50GB":
            assert shards == ["model.safetensors"] and not index.exists()
        else:
            assert len(shards) > 1
            assert shards == sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        with torch.no_grad():
            assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(tokens).logits, model(tokens).logits)
    assert (folder / "notes.txt").read_text("utf-8") == "mine"


def test_our_layout_over_an_older_one(tmp_path: Path) -> None:
    tokens = draw_tokens(2, 7)
    for seed in (1, 2):
        model = around(small_network(seed=seed))
        model.save_pretrained(tmp_path / "m")
        assert files(tmp_path / "m") == ["config.json", "generation_config.json", "model.safetensors"]
        with torch.no_grad():
            assert torch.equal(
                AutoModelForCausalLM.from_pretrained(tmp_path / "m")(tokens).logits, model(tokens).logits
            )


def test_a_released_folder_saved_again_keeps_its_keys_and_drops_the_code(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN)
    model.config.pad_token_id = 7
    model.save_pretrained(tmp_path / "m")
    before, after = (json.loads((folder / "config.json").read_text("utf-8")) for folder in (GOLDEN, tmp_path / "m"))
    assert "auto_map" not in after
    changed = {"auto_map", "torch_dtype", "transformers_version", "use_cache", "pad_token_id"}
    assert {key: after.get(key) for key in before.keys() - changed} == {
        key: before[key] for key in before.keys() - changed
    }
    assert (after["dtype"], after["use_cache"], after["pad_token_id"]) == ("float32", True, 7)
    again, tokens = AutoModelForCausalLM.from_pretrained(tmp_path / "m"), draw_tokens(2, 7)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert again.circuit_model.config == model.circuit_model.config


@KINDS
def test_the_tokenizer_of_a_model_is_remembered(kind: str, tmp_path: Path) -> None:
    if kind == "sparse_circuits":
        network = small_network()
        (tmp_path / kind).mkdir()
        sc.export_model(network, "own", tmp_path / "m")
        config = json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))
        (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "tokenizer_hash": "abc"}), "utf-8")
        AutoModelForCausalLM.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))["tokenizer_hash"] == "abc"


@KINDS
def test_saving_refuses_what_it_would_ignore(kind: str, tmp_path: Path) -> None:
    model = around(small_network(), kind)
    for name, value in {"safe_serialization": False, "variant": "fp16", "nonsense": 1}.items():
        with refused(name, "leave it out"):
            model.save_pretrained(tmp_path / "m", **{name: value})
    with refused("state_dict"):
        model.save_pretrained(tmp_path / "m", state_dict=model.state_dict())
    assert not (tmp_path / "m").exists()
    model.save_pretrained(tmp_path / "m", safe_serialization=True, variant=None)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    with pytest.raises(OSError):
        model.save_pretrained(tmp_path / "m" / "config.json")


def test_generation_settings_that_cannot_be_saved(tmp_path: Path) -> None:
    model = around(small_network())
    model.generation_config.temperature = 0.5  # without do_sample
    with refused("temperature", "do_sample"):
        model.save_pretrained(tmp_path / "m")
    assert files(tmp_path / "m") == []


def test_either_class_opens_either_layout(tmp_path: Path) -> None:
    network, tokens = small_network("learned"), draw_tokens(2, 5)
    for kind, opener in (("sparse_circuits", CircuitGPTForCausalLM), ("circuitgpt", SparseCircuitsForCausalLM)):
        model = opener.from_pretrained(folder_of(kind, tmp_path, network))
        assert type(model) is opener
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, network(tokens))
        model.save_pretrained(tmp_path / "again")
        assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "again")) is opener
        for path in (tmp_path / "again").iterdir():
            path.unlink()


def test_damage_is_one_line(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "m", small_network())
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with refused("model.safetensors"):
        CircuitGPTForCausalLM.from_pretrained(folder)
    weights.unlink()
    with refused("model.safetensors"):
        AutoModelForCausalLM.from_pretrained(folder)
    with refused("no model"):
        CircuitGPTForCausalLM.from_pretrained(tmp_path / "nothing")
    for kind in LAYOUTS:
        where = folder_of(kind, tmp_path / "other", small_network())
        model, info = CLASSES[kind].from_pretrained(where, output_loading_info=True)
        assert not any(info.values())
        assert isinstance(model, CLASSES[kind])


# --- the Hub, on a local folder


class FakeHub:
    """Stands where HfApi's requests would leave the machine."""

    def __init__(self, root: Path, refuse: Exception | None = None) -> None:
        self.root, self.refuse, self.calls = root, refuse, []

    def create_repo(self, api: Any, repo_id: str, **options: Any) -> Any:
        self.calls.append(("create_repo", repo_id, options, api.token))
        if self.refuse:
            raise self.refuse
        return type("Repo", (), {"repo_id": repo_id})()

    def upload_folder(self, api: Any, *, repo_id: str, folder_path: Path, **options: Any) -> Any:
        self.calls.append(("upload_folder", repo_id, options, api.token))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return type("Done", (), {"commit_url": f"https://hub.example/{repo_id}/commit/1"})()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    from huggingface_hub import HfApi

    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(HfApi, "create_repo", lambda api, *args, **options: fake.create_repo(api, *args, **options))
    monkeypatch.setattr(HfApi, "upload_folder", lambda api, **options: fake.upload_folder(api, **options))
    return fake


@KINDS
def test_push_to_hub_and_back(kind: str, hub: FakeHub) -> None:
    model, tokens = around(small_network("learned"), kind), draw_tokens(2, 5)
    address = model.push_to_hub("me/small", private=True, token="t", commit_message="first", create_pr=True)
    assert address == "https://hub.example/me/small/commit/1"
    (_, repo, made, token), (_, _, commit, _) = hub.calls
    assert (repo, made["private"], made["exist_ok"], token) == ("me/small", True, True, "t")
    assert (commit["commit_message"], commit["create_pr"]) == ("first", True)
    folder = hub.root / "me" / "small"
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} <= set(files(folder))
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert type(again) is CLASSES[kind]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_save_pretrained_can_push(hub: FakeHub, tmp_path: Path) -> None:
    model = around(small_network("learned"), "circuitgpt")
    model.save_pretrained(tmp_path / "small", push_to_hub=True)
    model.save_pretrained(tmp_path / "small", push_to_hub=True, repo_id="me/other", commit_message="m", private=True)
    assert [repo for _, repo, _, _ in hub.calls] == ["small", "small", "me/other", "me/other"]
    assert hub.calls[2][2]["private"] is True
    assert hub.calls[3][2]["commit_message"] == "m"
    assert AutoModelForCausalLM.from_pretrained(hub.root / "me" / "other").dtype == torch.float32


def test_a_hub_that_refuses(hub: FakeHub) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    response: Any = SimpleNamespace(headers={}, request=None)
    model = around(small_network("learned"))
    for refusal in (OSError("no route\nto host"), HfHubHTTPError("403 Forbidden:\nyou may not", response=response)):
        hub.refuse = refusal
        with refused("me/small", "hf auth login"):
            model.push_to_hub("me/small")
    with refused("tags"):
        model.push_to_hub("me/small", tags=["x"])
    assert not hub.root.exists()


# --- compiling


COMPILED = """
import sys, torch
from sparse_circuits.hub.hf_config import SparseCircuitsConfig
from sparse_circuits.hub.modeling import SparseCircuitsForCausalLM
sys.path.insert(0, sys.argv[1])
from hub.hf_folders import draw_tokens, small_network
whole = sys.argv[3] == "whole"
tokens, mask = draw_tokens(2, 6), torch.ones(2, 6, dtype=torch.long)
mask[0, :2] = 0
for backend, variant in (pair.split(":") for pair in sys.argv[2].split(",")):
    network = small_network(variant, n_layer=1)
    torch.compiler.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    with torch.no_grad():
        for given in (None, mask) if whole else (None,):
            torch.testing.assert_close(compiled(tokens, attention_mask=given), network(tokens, attention_mask=given))
    if not whole:
        continue
    loss = torch.nn.functional.cross_entropy(compiled(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    model = SparseCircuitsForCausalLM(SparseCircuitsConfig.of(network), network)
    model(tokens, labels=tokens).loss.backward()
    assert len(found) > 5
    for name, p in network.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5)
    if backend != "eager":
        continue
    around = torch.compile(model, backend=backend)
    with torch.no_grad():
        one, other = around(tokens, attention_mask=mask, labels=tokens), model(tokens, attention_mask=mask, labels=tokens)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.loss, other.loss)
print("done")
"""


def compile_in_a_fresh_process(what: str, extent: str) -> None:
    """There the package runs as users have it, without the suite's shape checks; torch's own warnings are let through."""
    found = fresh(COMPILED, Path(__file__).parent.parent, what, extent, warnings="default")
    assert found.endswith("done\n")


@pytest.mark.slow
def test_a_compiled_model_is_the_model() -> None:
    compile_in_a_fresh_process("eager:concat,aot_eager:learned_tied", "whole")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on this machine")
def test_a_model_compiled_to_machine_code_is_the_model() -> None:
    compile_in_a_fresh_process("inductor:learned_tied", "forward")
