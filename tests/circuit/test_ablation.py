"""Reference values: plain means over recorded activations, and refusals of those that belong to something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_circuits.circuit.ablation import (
    Reference,
    ablation_values,
    load_reference,
    measure_reference,
    reference_sites,
    save_reference,
    task_means,
)
from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import Shards, build_shards
from sparse_circuits.files import read_metadata, read_tensors, write_tensors
from sparse_circuits.model.generate import record
from sparse_circuits.model.transformer import SparseTransformer
from viz.made_up import LINES, made_up, quote_task, sparse_model, tokenizer_of


@pytest.fixture(scope="module")
def model() -> SparseTransformer:
    """AbsTopK is on, windows are short."""
    made = sparse_model(2, 32, 0.06)
    small = SparseTransformer(made.config.replace(block_size=16))
    small.load_state_dict(made.state_dict())
    return small.eval()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("data")
    for i in range(20):
        (folder / f"{i}.py").write_text("".join(LINES) + f"y = {i}\n", "utf-8")
    return build_shards(open_sources((str(folder),)), tokenizer_of(), folder / "shards", val_fraction=0.1)


@pytest.fixture(scope="module")
def reference(model: SparseTransformer, shards: Shards) -> Reference:
    return measure_reference(model, shards, tokens=20_000, seed=3)


def test_sites_are_the_node_sites_and_attn_y() -> None:
    kinds = ["attn.act_in", "attn.q", "attn.k", "attn.v", "attn.y", "attn.resid_delta"]
    kinds += ["mlp.act_in", "mlp.post_act", "mlp.resid_delta"]
    assert reference_sites(2) == (*(f"{layer}.{kind}" for layer in (0, 1) for kind in kinds), "final_resid")


def test_reference_is_the_mean_of_what_record_sees(
    model: SparseTransformer, shards: Shards, reference: Reference
) -> None:
    """Two batches of 1024 windows: at least the tokens asked for, in whole batches."""
    batches = [shards.batch("train", seed=3, step=s, batch_size=1024, context=16)[:, :-1] for s in (0, 1)]
    acts = [record(model, batch) for batch in batches]
    assert reference.tokens == 2 * 1024 * 16 and reference.corpus_hash == shards.corpus_hash
    assert set(reference.values) == set(reference_sites(2))
    for site, value in reference.values.items():
        rows = np.concatenate([a[site].numpy().reshape(-1, a[site].shape[-1]) for a in acts]).astype(np.float64)
        np.testing.assert_allclose(value.numpy(), rows.mean(0), atol=1e-6)


def test_means_are_taken_after_abs_topk(model: SparseTransformer, shards: Shards, reference: Reference) -> None:
    dense = SparseTransformer(model.config.replace(afrac=None))
    dense.load_state_dict(model.state_dict())
    other = measure_reference(dense.eval(), shards, tokens=20_000, seed=3)
    assert not torch.allclose(other.values["1.mlp.act_in"], reference.values["1.mlp.act_in"], atol=1e-3)


def test_saved_reference_comes_back(model: SparseTransformer, reference: Reference, tmp_path: Path) -> None:
    save_reference(reference, tmp_path)
    for where in (tmp_path, tmp_path / "reference.safetensors"):
        loaded = load_reference(where, model)
        assert (loaded.tokens, loaded.corpus_hash) == (reference.tokens, reference.corpus_hash)
        assert all(torch.equal(loaded.values[site], value) for site, value in reference.values.items())


def test_a_missing_reference_names_the_command(model: SparseTransformer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sparse-circuits model reference --model MODEL --data SHARDS"):
        load_reference(tmp_path, model)


def test_the_reference_of_another_model_is_refused(reference: Reference, tmp_path: Path) -> None:
    save_reference(reference, tmp_path)
    with pytest.raises(ValueError, match="measured on another model; make it with"):
        load_reference(tmp_path, sparse_model(2, 32, 0.2))


def test_a_damaged_reference_is_refused_in_one_line(
    model: SparseTransformer, reference: Reference, tmp_path: Path
) -> None:
    file = save_reference(reference, tmp_path)
    labels = read_metadata(file)
    values = read_tensors(file)
    write_tensors(file, {site: value for site, value in values.items() if site != "0.attn.y"}, labels)
    with pytest.raises(ValueError, match="lacks sites"):
        load_reference(file, model)
    for gone in ("tokens", "corpus_hash"):
        write_tensors(file, values, {name: value for name, value in labels.items() if name != gone})
        with pytest.raises(ValueError, match=gone):
            load_reference(file, model)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged or truncated") as caught:
        load_reference(file, model)
    assert "\n" not in str(caught.value)


def test_task_means_leave_padding_out(model: SparseTransformer) -> None:
    pairs = quote_task().pairs("test", 6, tokenizer_of())
    assert len(set(pairs.lengths.flatten().tolist())) > 1
    rows: dict[str, list[np.ndarray]] = {}
    for tokens, length in zip(pairs.flat_tokens, pairs.lengths.flatten().tolist(), strict=True):
        for site, acts in record(model, tokens[None, :length]).items():
            rows.setdefault(site, []).append(acts[0].numpy())
    for site, value in task_means(model, pairs).items():
        np.testing.assert_allclose(value.numpy(), np.concatenate(rows[site]).mean(0), atol=1e-5)


def test_ablation_values_of_every_kind(model: SparseTransformer, reference: Reference) -> None:
    pairs = quote_task().pairs("train", 4, tokenizer_of())
    zero = ablation_values(model, "zero", None, pairs)
    assert {site: len(value) for site, value in zero.items()} == {s: model.widths[s] for s in reference_sites(2)}
    assert all(not value.any() for value in zero.values())
    means = task_means(model, pairs)
    assert all(torch.equal(v, means[s]) for s, v in ablation_values(model, "mean_task", None, pairs).items())
    assert ablation_values(model, "mean_pretrain", reference, pairs) == dict(reference.values)
    with pytest.raises(ValueError, match="needs the model's reference values"):
        ablation_values(model, "mean_pretrain", None, pairs)


def test_an_unknown_ablation_raises(model: SparseTransformer) -> None:
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="unknown ablation 'mean'; allowed: zero, mean_pretrain, mean_task"):
            ablation_values(model, "mean", None, made_up())  # pyright: ignore
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
