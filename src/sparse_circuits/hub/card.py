"""The model card: a README.md written from the model itself, so that every number on it was computed from its weights.

YAML head for the Hub, shapes and options, nonzeros of every matrix, how it was trained as far as that is known, the licence,
and a snippet that loads it (run by the test suite).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sparse_circuits.files import read_json
from sparse_circuits.markdown import markdown_table
from sparse_circuits.model.assemble import own_tensors
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.sparsity import nonzeros

CARD_FILE, TRAINING_FILE = "README.md", "training.json"
Layout = Literal["own", "sparse", "released", "transformers"]

_OURS = """```python
import torch
import sparse_circuits as sc

folder = "."  # this folder, or the name of its repo
model = sc.load_model(folder)
{tokens}
print(model(tokens).shape)  # logits: [batch, tokens, vocabulary]
print(sorted(sc.record(model, tokens, "*.mlp.post_act")))
```"""
_TRANSFORMERS = """```python
import torch
import sparse_circuits  # registers the classes with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or the name of its repo
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
{tokens}
print(model.generate(tokens, max_new_tokens=8, do_sample=False))
```"""
_WITH_TOKENIZER = """tokenizer = {loader}(folder)
tokens = tokenizer("def add(", return_tensors="pt")["input_ids"]"""
_WITHOUT = "tokens = torch.tensor([[1, 2, 3]])  # no tokenizer lies in this folder"


def model_card(
    model: SparseTransformer,
    layout: Layout,
    *,
    name: str,
    licence: str = "apache-2.0",
    has_tokenizer: bool = True,
    sections: Mapping[str, str] | None = None,
) -> str:
    """The text of a card.

    layout: of the folder it will lie in. licence: an SPDX name in lower case, for the weights. sections: title -> text of
    what else its maker knows, such as its data and what it scores.
    """
    head = ["---", f"license: {licence}", "library_name: sparse_circuits", "pipeline_tag: text-generation"]
    head += ["tags:", "- interpretability", "- weight-sparse", "---"]
    parts = [
        "\n".join(head),
        f"# {name}",
        _summary(model),
        "## Load it",
        "```bash\npip install sparse-circuits\n```",
        _snippet(layout, has_tokenizer),
        "## Shape\n\n"
        + markdown_table(("option", "value"), [(key, json.dumps(value)) for key, value in _shape(model).items()]),
        "## Nonzero weights\n\n" + markdown_table(("tensor", "shape", "nonzero", "share"), _sparsity(model)),
        "## Training\n\n" + _training(model),
        *(f"## {title}\n\n{text}" for title, text in (sections or {}).items()),
        f"## Licence\n\n{licence}",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(model: SparseTransformer) -> str:
    kept, of = nonzeros(model)
    parameters = sum(tensor.numel() for tensor in own_tensors(model).values())
    silent = int((model.embed.weight == 0).all(-1).sum())
    return (
        f"A language model of {parameters:,} parameters; of the {of:,} in its matrices and biases (bigram table and norms aside) "
        f"{kept:,} ({kept / of:.2%}) are not zero. {silent:,} of {model.config.vocab_size:,} tokens have an embedding of zeros "
        "and differ for the network only through the bigram table."
    )


def _snippet(layout: Layout, has_tokenizer: bool) -> str:
    template, loader = (_OURS, "sc.load_tokenizer")
    if layout == "transformers":
        template, loader = (_TRANSFORMERS, "AutoTokenizer.from_pretrained")
    return template.format(tokens=_WITH_TOKENIZER.format(loader=loader) if has_tokenizer else _WITHOUT)


def _shape(model: SparseTransformer) -> dict[str, Any]:
    return {**model.config.to_dict(), "d_mlp": model.config.mlp_width, "norm_eps": model.config.eps}


def _sparsity(model: SparseTransformer) -> list[tuple[str, ...]]:
    rows = []
    for name, tensor in own_tensors(model).items():
        kept = int(tensor.count_nonzero())
        rows.append((f"`{name}`", " x ".join(map(str, tensor.shape)), f"{kept:,}", f"{kept / tensor.numel():.3%}"))
    return rows


def _training(model: SparseTransformer) -> str:
    """What is known: our training.json, or the keys of a released config that only training read."""
    file = None if model.source is None else model.source / TRAINING_FILE
    if file is not None and file.is_file():
        stored = read_json(file)
        figures = {key: value for key, value in stored.items() if key not in ("config", "path")}
        config = stored.get("config")
        recipe = {key: value for key, value in config.items() if key != "model"} if isinstance(config, dict) else {}
        facts = [(key, json.dumps(value)) for key, value in {**figures, **recipe}.items()]
        return "Recorded by the program that trained it; losses in nats.\n\n" + markdown_table(
            ("field", "value"), facts
        )
    known: Mapping[str, Any] = model.released or {}
    told = [
        (key, json.dumps(known[key])) for key in ("pfrac", "expansion_factor", "expansion_factor_mlp") if key in known
    ]
    if told:
        return "Not recorded here. Its config names:\n\n" + markdown_table(("field", "value"), told)
    return "Not recorded in the folder this model came from."


def write_card(model: SparseTransformer, folder: Path, layout: Layout, **options: Any) -> None:
    """Writes README.md into a folder that the caller makes whole."""
    (folder / CARD_FILE).write_text(model_card(model, layout, **options), encoding="utf-8")
