"""The whole recipe of the models in the box, on a corpus and a schedule so small that it takes seconds."""

import pytest
import torch

import sparse_circuits as sc
from sparse_circuits.files import read_json
from sparse_circuits.recipe.bundle import STAGES, Plan, build_bundle
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.presets import tiny


def small(vocab_size: int) -> TrainConfig:
    base = tiny(vocab_size)
    model = base.model.replace(n_layer=1, d_model=32, n_head=2, d_mlp=64, block_size=32)
    sparsity = base.sparsity.replace(fraction=0.25, min_alive=0)
    return base.replace(model=model, sparsity=sparsity, steps=6, batch_size=4, eval_tokens=2048, eval_every=3)


PLAN = Plan(recipe=small, sources=("tiny-python:3MB", "python-env"), vocab_size=1024, first_width=16, trials=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle")
    with pytest.raises(ValueError, match="no corpus in .*; run the stage corpus first"):
        build_bundle(out, stages=("sparse",), plan=PLAN)
    build_bundle(out, stages=("corpus", "sparse"), plan=PLAN)
    with pytest.raises(ValueError, match="no dense-matched model in .*; run the stage dense-matched first"):
        build_bundle(out, stages=("ship",), plan=PLAN)
    return out, build_bundle(out, plan=PLAN)


@pytest.mark.slow
def test_every_stage_leaves_its_files(built):
    out, result = built
    assert set(result.seconds) == set(STAGES) and result.path == str(out)
    for name in ("sparse", "dense"):
        names = {file.name for file in (out / name).iterdir()}
        assert names == {
            *("config.json", "model.safetensors", "reference.safetensors", "tokenizer.json", "tokenizer_config.json"),
            *("training.json", "README.md"),
        }
    matched = read_json(out / "matched.json")
    assert set(matched["trials"]) == {path.name.split("_")[1] for path in (out / "runs" / "dense-matched").iterdir()}


@pytest.mark.slow
def test_scores_are_those_of_the_shipped_weights(built):
    """Asked again of the folder as any user would load it."""
    out, result = built
    scores = result.scores
    assert set(scores) == {"matched", "bundled", "bundled-dense", "dense-same"}
    model, tokenizer = sc.load_model(out / "sparse"), sc.load_tokenizer(out / "sparse")
    bigram = model.bigram.weight
    assert torch.equal(bigram, bigram.half().float())
    for name in ("single_double_quote", "bracket_counting"):
        stored = scores["bundled"]["tasks"][name]["template"]
        from sparse_circuits.circuit.evaluate import evaluate_model

        again = evaluate_model(model, sc.load_task(name), tokenizer, "test")
        assert stored == {"loss": again.loss, "accuracy": again.accuracy, "n_pairs": again.n_pairs}
    card = (out / "sparse" / "README.md").read_text()
    assert f"{scores['bundled']['tasks']['single_double_quote']['template']['loss']:.3f}" in card
    assert "tiny-python" in card and "## Tasks" in card and "val_loss" in card


@pytest.mark.slow
def test_nothing_is_made_twice(built):
    out, _ = built
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    corpus = (out / "shards" / "manifest.json").stat().st_mtime_ns
    again = build_bundle(out, stages=("corpus", "sparse", "dense-same", "dense-matched"), plan=PLAN)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    assert corpus == (out / "shards" / "manifest.json").stat().st_mtime_ns
    assert sum(again.seconds.values()) < 5


@pytest.mark.slow
def test_held_out_files_are_not_trained_on(built):
    """The path rule of mined pairs is the rule that split the corpus."""
    from sparse_circuits.data.shards import Shards
    from sparse_circuits.tasks.mined import HELD_OUT

    assert Shards.open(built[0] / "shards").manifest["val_threshold"] == HELD_OUT


def test_unknown_stages_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="unknown stage 'train'; allowed: corpus, sparse, dense-same, dense-matched, ship"
    ):
        build_bundle(tmp_path, stages=("train",))
    assert not any(tmp_path.iterdir())
