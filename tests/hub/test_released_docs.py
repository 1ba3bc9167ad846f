"""docs/released_models.md, word for word, without a network: its names lie in the cache, its Hub repo is a local folder."""

import json
from pathlib import Path

import pytest
import torch

from readme import commands, fenced_blocks, run_python_blocks
from sparse_circuits.cli import VERBS, main
from sparse_circuits.data.tokenizer import END_OF_TEXT, train_tokenizer
from sparse_circuits.files import write_json, write_text
from sparse_circuits.hub.io import export_model
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

PAGE = (Path(__file__).parent.parent.parent / "docs" / "released_models.md").read_text("utf-8")
VIZ = Path(__file__).parent.parent / "golden" / "released" / "viz_like" / "viz_data.pt"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with `csp_yolo2` (small, of its architecture) and the released tokenizer's two files, and the Hub's folder."""
    text = "def square_sum(xs):\n    return sum(x * x for x in xs)\n" * 3
    tokenizer = train_tokenizer([text], 280)
    config = ModelConfig(
        vocab_size=280, n_layer=3, d_model=16, n_head=2, d_head=4, afrac=0.5, positions="concat", d_pos_emb=4
    )
    model = SparseTransformer(config).initialize(0).eval()
    export_model(model, "released", tmp_path / "models" / "csp_yolo2")
    export_model(model, "transformers", tmp_path / "hub", tokenizer=tokenizer)
    vocabulary = tokenizer.get_vocab()
    vocabulary.pop(END_OF_TEXT)
    write_json(tmp_path / "tinypython" / "encoder.json", vocabulary)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write_text(tmp_path / "tinypython" / "vocab.bpe", "\n".join(lines) + "\n")
    monkeypatch.setenv("SPARSE_CIRCUITS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_snippets_run(cache: Path) -> None:
    assert len(fenced_blocks(PAGE, "python")) >= 4
    names = run_python_blocks(PAGE.replace('"openai/circuit-sparsity"', repr(str(cache / "hub"))))
    assert isinstance(names["logits"], torch.Tensor)
    assert names["seen"].grads["1.mlp.post_act"].shape == names["seen"].acts["1.mlp.post_act"].shape


def test_the_commands_are_verbs_and_the_offline_ones_run(cache: Path) -> None:
    listed = commands(PAGE)
    assert all(" ".join(words[:2]) in VERBS for words in listed)
    ran = [words for words in listed if words[:2] != ["model", "push"] and "viz_data.pt" not in words]
    for words in ran:
        if words[:2] != ["circuit", "show"]:
            assert main([*words, "--quiet"]) == 0
    assert len(ran) >= 3
    assert main(["circuit", "import", str(VIZ), "--out", "runs/published", "--quiet"]) == 0
    assert main(["circuit", "show", "runs/published"]) == 0
