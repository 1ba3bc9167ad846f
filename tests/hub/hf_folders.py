"""Small networks in folders that transformers opens: our layout, the released one, and the released tokenizer files.

Every weight is drawn, so no gain, bias, sink, table or position is left at a value that would hide a mistake. Nothing here
needs the network: `HF_HUB_OFFLINE` is set for processes started by `fresh`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sparse_circuits.data.tokenizer import END_OF_TEXT, train_tokenizer
from sparse_circuits.hub.layouts import write_transformers
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import save_model
from sparse_circuits.model.transformer import SparseTransformer

SOURCE = Path(__file__).parents[2] / "src"
VOCABULARY, BLOCK = 31, 24
END = VOCABULARY - 1

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"positions": "none", "sink": True, "bigram": True, "norm": "rms", "afrac": 0.5},
    "none_plain": {"positions": "none", "sink": False, "bigram": False, "norm": "layer", "tied_unembed": True},
    "learned": {"positions": "learned", "sink": True, "bigram": False, "norm": "layer", "logits_bias": True},
    "learned_tied": {"positions": "learned", "sink": False, "bigram": True, "norm": "rms", "tied_unembed": True},
    "concat": {"positions": "concat", "d_pos_emb": 5, "sink": True, "bigram": True, "norm": "rms", "afrac": 0.5},
    "concat_relu": {
        "positions": "concat",
        "d_pos_emb": 3,
        "sink": False,
        "bigram": False,
        "norm": "layer",
        "ln_bias": False,
        "bias": False,
        "activation": "relu",
        "residual_activation": "relu",
        "tied_unembed": True,
    },
}


def small_network(variant: str = "concat", seed: int = 0, **changes: Any) -> SparseTransformer:
    """A network of two layers in evaluation mode."""
    shape = {"vocab_size": VOCABULARY, "n_layer": 2, "d_model": 12, "n_head": 3, "d_head": 4, "block_size": BLOCK}
    network = SparseTransformer(ModelConfig(**{**shape, **VARIANTS[variant], **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            around = 1.0 if name.endswith("gain") else 0.0
            scale = 0.3 if tensor.dim() == 1 or "c_" in name else 1.0
            tensor.copy_(around + scale * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def own_folder(folder: Path, network: SparseTransformer) -> Path:
    """A folder of ours, written as the library writes it, without a key of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(network, folder)
    return folder


def released_folder(folder: Path, network: SparseTransformer, **keys: Any) -> Path:
    """A folder as it is published: its config names code that does not lie in it, and says nothing but what was published."""
    folder.mkdir(parents=True, exist_ok=True)
    write_transformers(network, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["auto_map"] = {
        "AutoConfig": "config.CircuitGPTConfig",
        "AutoModelForCausalLM": "modeling_circuitgpt.Missing",
    }
    (folder / "config.json").write_text(json.dumps({**config, "use_cache": False, **keys}), "utf-8")
    if network.config.positions != "none":  # only this library's manifest can say so
        (folder / "sparse_circuits.json").unlink()
    return folder


LAYOUTS = {"sparse_circuits": own_folder, "circuitgpt": released_folder}


def draw_tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """Int[rows, length], the end token left out."""
    return torch.randint(0, END, (rows, length), generator=torch.Generator().manual_seed(seed))


# --- the tokenizer files


def source_texts() -> list[str]:
    """Real code: the package's own."""
    return [file.read_text("utf-8") for file in sorted(SOURCE.rglob("*.py"))]


def train(vocab_size: int) -> tuple[Tokenizer, dict[str, int], list[tuple[str, str]]]:
    """A tokenizer learned from the package's code; its vocabulary without the end token, ids in rank order; its merges."""
    tokenizer = train_tokenizer(source_texts(), vocab_size)
    stored = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in stored["merges"]]
    vocabulary = {token: number for token, number in stored["vocab"].items() if token != END_OF_TEXT}
    return tokenizer, vocabulary, merges


def write_released_tokenizer(
    folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], *, end: bool = True, version: bool = True
) -> Path:
    """`vocab.bpe` + `encoder.json`. end: the latter lists the end token. version: the former opens with `#version`."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {**vocabulary, END_OF_TEXT: len(vocabulary)} if end else vocabulary
    (folder / "encoder.json").write_text(json.dumps(listed), "utf-8")
    head = "#version: 0.2\n" if version else ""
    (folder / "vocab.bpe").write_text(head + "".join(f"{left} {right}\n" for left, right in merges), "utf-8")
    return folder


# --- other processes


def fresh(code: str, *arguments: object, warnings: str = "error", **environment: str) -> str:
    """What a new Python process prints; warnings are errors there unless told otherwise."""
    started = [sys.executable, "-W", warnings, "-c", code, *map(str, arguments)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        started, env={**os.environ, **threads, **offline, **environment}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
