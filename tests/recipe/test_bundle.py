"""The whole recipe of the models in the box, on a corpus and a schedule so small that it takes seconds."""

from dataclasses import replace

import pytest
import torch

import sparse_circuits as sc
from refusals import refused
from sparse_circuits.files import read_json, write_json
from sparse_circuits.log import SILENT
from sparse_circuits.recipe import bundle
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


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed", {"seed": 1}),
        ("sources", {"plan": replace(PLAN, sources=("tiny-python:3MB",))}),
        ("vocab_size", {"plan": replace(PLAN, vocab_size=512)}),
        ("config", {"plan": replace(PLAN, recipe=lambda size: small(size).replace(steps=7))}),
        ("matched", {"plan": replace(PLAN, trials=3)}),
    ],
)
def test_a_folder_begun_otherwise_is_refused(tmp_path, name, changes):
    with pytest.raises(ValueError, match="no corpus in .*; run the stage corpus first"):
        build_bundle(tmp_path, stages=("sparse",), plan=PLAN)
    with refused(f"was begun with another {name}; give the same, or an empty folder"):
        build_bundle(tmp_path, **{"stages": ("sparse",), "plan": PLAN, **changes})


def test_a_folder_without_a_plan_is_refused(tmp_path):
    (tmp_path / "shards").mkdir()
    with refused("holds files but no plan.json", "give an empty folder"):
        build_bundle(tmp_path, plan=PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_dense_matched_follows_a_sparse_model_that_is_trained_anew(tmp_path, monkeypatch):
    """Only the search, on losses made up: 3.0 at width 16, 2.0 at 32."""
    losses = {"sparse": 3.0, "dense-matched/width_16": 3.0, "dense-matched/width_32": 2.0, "dense-matched/width_8": 4.0}
    monkeypatch.setattr(bundle._Work, "train", lambda work, name, config: losses[name])
    for target, width in ((3.0, 16), (2.0, 32), (2.0, 32)):
        write_json(tmp_path / "runs" / "sparse" / "model" / "training.json", {"val_loss": target})
        work = bundle._Work(tmp_path, PLAN, 0, "cpu", SILENT)
        if width != read_width(tmp_path):
            with refused("no dense-matched model in", "for its sparse one; run the stage dense-matched first"):
                bundle._ship(work)
        bundle._dense_matched(work)
        assert read_json(tmp_path / "matched.json")["target"] == target and read_width(tmp_path) == width
    monkeypatch.setattr(bundle, "search_width", lambda *given, **named: pytest.fail("searched again"))
    bundle._dense_matched(work)


def read_width(root):
    return read_json(root / "matched.json")["width"] if (root / "matched.json").is_file() else None


def test_unknown_stages_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="unknown stage 'train'; allowed: corpus, sparse, dense-same, dense-matched, ship"
    ):
        build_bundle(tmp_path, stages=("train",))
    assert not any(tmp_path.iterdir())
