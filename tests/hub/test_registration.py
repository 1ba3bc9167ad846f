"""Registration with transformers, in fresh processes: either import order, no remote code, no import nobody asked for.

Warnings are errors in those processes, and the network is switched off.
"""

import copy
import importlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from hub.hf_folders import (
    BLOCK,
    draw_tokens,
    fresh,
    own_folder,
    released_folder,
    small_network,
    train,
    write_released_tokenizer,
)
from refusals import refused
from sparse_circuits.data.tokenizer import save_tokenizer
from sparse_circuits.hub import auto_tokenizer, registration
from sparse_circuits.hub.hf_config import CircuitGPTConfig, SparseCircuitsConfig

PROMPT = "def square_sum(xs):\\n    return sum(x * x for x in xs)\\n\\nsquare_sum([1, 2, 3])\\n"
SNIPPET = f'''
PATH = sys.argv[1]
tok = AutoTokenizer.from_pretrained(PATH); model = AutoModelForCausalLM.from_pretrained(PATH, dtype="auto")
inputs = tok("{PROMPT}", return_tensors="pt", add_special_tokens=False)["input_ids"]
torch.manual_seed(0)
print(repr(tok.decode(model.generate(inputs, max_new_tokens=64, do_sample=True, temperature=0.8, top_p=0.95)[0],
                      skip_special_tokens=True)))
print(type(model).__name__, inputs.shape[1])
'''
ORDERS = {
    "ours_first": "import sys, sparse_circuits, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n",
    "theirs_first": "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\nimport sparse_circuits\n",
}
REMOTE = {
    "tokenizer_class": "CircuitGPTTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_circuitgpt.CircuitGPTTokenizer", None]},
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on the Hub: config that names missing code, shards, `vocab.bpe` + `encoder.json`."""
    folder = tmp_path_factory.mktemp("hub") / "circuit-sparsity"
    _, vocabulary, merges = train(400)
    network = small_network("concat", vocab_size=400, block_size=160)
    released_folder(folder, network)
    write_released_tokenizer(folder, vocabulary, merges)
    return folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers.logging.set_verbosity_error()


# --- fresh processes


@pytest.mark.parametrize("order", ORDERS)
def test_the_snippet_of_the_model_card_runs(order: str, released: Path) -> None:
    found = fresh(ORDERS[order] + SNIPPET, released)
    text, kind = found.strip().splitlines()
    assert kind.split()[0] == "CircuitGPTForCausalLM"
    assert text.startswith('"' + PROMPT[:-1]) or text.startswith("'" + PROMPT[:-1])
    assert len(text) > len(PROMPT) + 20


def test_importing_us_imports_neither_library() -> None:
    code = """
import sys, sparse_circuits
heavy = {"torch", "transformers", "numpy", "pydantic", "tokenizers", "safetensors", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import transformers
assert "torch" not in sys.modules
assert not [name for name in sys.modules if name.startswith(("transformers.models.auto", "sparse_circuits.hub.hf"))]
assert "sparse_circuits.hub.modeling" not in sys.modules
print(transformers.__version__)
"""
    assert fresh(code).strip() == transformers.__version__


def test_imported_twice_reloaded_and_on_another_thread(released: Path, tmp_path: Path) -> None:
    code = """
import importlib, sys, threading, sparse_circuits, sparse_circuits
from sparse_circuits.hub import registration
waiting = lambda: sum(type(finder).__name__ == "_Waiting" for finder in sys.meta_path)
importlib.reload(sparse_circuits)
assert waiting() == 1
done = []
thread = threading.Thread(target=lambda: done.append(__import__("transformers").AutoConfig.from_pretrained(sys.argv[1])))
thread.start(); thread.join()
assert type(done[0]).__name__ == "CircuitGPTConfig"
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
importlib.reload(sparse_circuits)
registration.install()
assert waiting() == 1
import transformers.models.auto.modeling_auto as m, transformers.models.auto.tokenization_auto as t
for module in (m, t):  # what is reloaded is registered again
    importlib.reload(module)
network = m.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = t.AutoTokenizer.from_pretrained(sys.argv[1])
assert t.AutoTokenizer.from_pretrained.__func__.__wrapped__.__module__.startswith("transformers")
assert not hasattr(t.AutoTokenizer.from_pretrained.__func__.__wrapped__, "reads_ours")  # wrapped once
import inspect
assert "AutoModelForCausalLM" in inspect.getsource(m) and m.__loader__.get_source(m.__name__)
assert m.__spec__.origin == m.__file__
print(type(network).__name__, len(tokenizer))

# other models are as they were
from tokenizers import Tokenizer, models
from transformers import GPT2Config, PreTrainedTokenizerFast
m.AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=4, n_head=1, vocab_size=9)).save_pretrained(sys.argv[2])
PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))).save_pretrained(sys.argv[2])
print(type(m.AutoModelForCausalLM.from_pretrained(sys.argv[2])).__name__, len(t.AutoTokenizer.from_pretrained(sys.argv[2])))
"""
    assert fresh(code, released, tmp_path / "gpt2").split() == ["CircuitGPTForCausalLM", "400", "GPT2LMHeadModel", "2"]


def test_a_transformers_that_does_not_fit_is_a_warning_and_still_works() -> None:
    code = """
import sys, warnings, sparse_circuits
sys.modules["sparse_circuits.hub.hf_config"] = None  # whatever may go wrong in there
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
ours = [str(w.message) for w in caught if "sparse_circuits" in str(w.message)]
assert ours and all("could not register with transformers" in text and "\\n" not in text for text in ours), ours
from transformers import GPT2Config
print(type(AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=4, n_head=1, vocab_size=9))).__name__)
"""
    assert fresh(code).strip() == "GPT2LMHeadModel"


# --- the tokenizer that AutoTokenizer finds


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        REMOTE,
        {"tokenizer_class": "CircuitGPTTokenizer"},
        {"auto_map": ["missing.Slow", "missing.Fast"], "tokenizer_class": "CircuitGPTTokenizerFast"},
        {"tokenizer_class": "GPT2Tokenizer"},
        {"tokenizer_class": "GPT2TokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    ],
    ids=str,
)
@pytest.mark.parametrize("trust", [None, True])
def test_released_tokenizer_files_are_read_whatever_the_folder_names(
    config: Any, trust: bool | None, released: Path, tmp_path: Path
) -> None:
    folder = copy_of(released, tmp_path)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    expected = auto_tokenizer.SparseCircuitsTokenizer.from_pretrained(released)
    for where in (folder, str(folder)):
        found = AutoTokenizer.from_pretrained(where, trust_remote_code=trust)
        assert found(PROMPT)["input_ids"] == expected(PROMPT)["input_ids"]
        assert (found.eos_token_id, found.pad_token, found.bos_token, len(found)) == (399, None, None, 400)
        assert found.decode(found(PROMPT)["input_ids"]) == PROMPT
        assert found("a<|endoftext|>")["input_ids"][-1] == 399


@pytest.mark.parametrize("config", [REMOTE, {"tokenizer_class": "CircuitGPTTokenizer", "eos_token": "<|endoftext|>"}])
def test_a_tokenizer_json_beside_remote_code(config: Any, released: Path, tmp_path: Path) -> None:
    expected = AutoTokenizer.from_pretrained(released)
    folder = copy_of(released, tmp_path)
    save_tokenizer(expected, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "vocab.bpe").unlink()
    found = AutoTokenizer.from_pretrained(folder)
    assert found(PROMPT)["input_ids"] == expected(PROMPT)["input_ids"]
    assert len(found) == 400


def test_settings_of_a_tokenizer_are_honoured_or_refused(released: Path) -> None:
    keywords = {"padding_side": "left", "truncation_side": "left", "model_max_length": 7, "pad_token": "<|endoftext|>"}
    found = AutoTokenizer.from_pretrained(released, **keywords)
    assert {name: getattr(found, name) for name in keywords} == keywords
    assert found(["a b", "a"], padding=True)["attention_mask"][1][0] == 0
    assert AutoTokenizer.from_pretrained(released).pad_token is None
    for name in ("pad_token", "bos_token", "eos_token"):
        with refused(name, "[X]", "<|endoftext|>"):
            AutoTokenizer.from_pretrained(released, **{name: "[X]"})
    for name, value in {"add_prefix_space": True, "add_bos_token": True, "additional_special_tokens": ["[X]"]}.items():
        with refused(name, "leave it out"):
            AutoTokenizer.from_pretrained(released, **{name: value})
    for name, value in {"add_prefix_space": False, "use_fast": True, "trust_remote_code": False}.items():
        assert len(AutoTokenizer.from_pretrained(released, **{name: value})) == 400


def test_a_tokenizer_saved_beside_a_model(released: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released, pad_token="<|endoftext|>", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(released)
    for saved in (tokenizer, model):
        saved.save_pretrained(tmp_path / "both")
    again = AutoTokenizer.from_pretrained(tmp_path / "both")
    assert (again.pad_token, again.padding_side, again.eos_token_id) == ("<|endoftext|>", "left", 399)
    assert again(PROMPT)["input_ids"] == tokenizer(PROMPT)["input_ids"]
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "both")) is type(model)


def test_a_folder_without_a_tokenizer_and_a_damaged_one(released: Path, tmp_path: Path) -> None:
    folder = copy_of(released, tmp_path)
    (folder / "vocab.bpe").write_text("#version: 0.2\nno pair here\n", "utf-8")
    with refused("vocab.bpe", "damaged"):
        AutoTokenizer.from_pretrained(folder)
    (folder / "vocab.bpe").unlink()
    with refused("vocab.bpe"):
        AutoTokenizer.from_pretrained(folder)
    (folder / "encoder.json").unlink()
    with refused("tokenizer.json"):
        AutoTokenizer.from_pretrained(folder)


def copy_of(folder: Path, where: Path) -> Path:
    target = where / "copy"
    target.mkdir(parents=True)
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def hub_cache(root: Path, repo: str, folder: Path) -> Path:
    """The Hub's own cache, as if the repo had been downloaded into it."""
    home = root / ("models--" + repo.replace("/", "--"))
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40, "utf-8")
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    return root


HUB_REPO = """
import json, sys, sparse_circuits, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
print(type(AutoConfig.from_pretrained("someone/circuits")).__name__)
model, tokenizer = (auto.from_pretrained("someone/circuits") for auto in (AutoModelForCausalLM, AutoTokenizer))
here = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokens = torch.tensor([tokenizer(sys.argv[2])["input_ids"]])
assert torch.equal(model(tokens).logits, here(tokens).logits)
print(json.dumps(tokens[0].tolist()))
try:
    AutoTokenizer.from_pretrained("someone/else")
except OSError:
    print("none such")
"""


def test_a_hub_repo_by_name(released: Path, tmp_path: Path) -> None:
    """From the Hub's cache, as the repo would lie there after a download."""
    folder = copy_of(released, tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps(REMOTE), "utf-8")
    cache = hub_cache(tmp_path / "cache", "someone/circuits", folder)
    found = fresh(HUB_REPO, released, PROMPT, HF_HUB_CACHE=str(cache)).split("\n")
    ids = AutoTokenizer.from_pretrained(released)(PROMPT)["input_ids"]
    assert found[:3] == ["CircuitGPTConfig", json.dumps(ids), "none such"]


# --- pipelines, copies


@pytest.mark.parametrize("layout", ["released", "own"])
def test_a_pipeline_by_path(layout: str, released: Path, tmp_path: Path) -> None:
    folder = released
    if layout == "own":
        folder = own_folder(tmp_path / "own", small_network("concat", vocab_size=400, block_size=160))
        save_tokenizer(AutoTokenizer.from_pretrained(released), folder)
    keywords = {"max_new_tokens": 9, "do_sample": False, "return_full_text": False}
    found = pipeline("text-generation", model=str(folder))(["def f(x):", "import"], **keywords)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for prompt, output in zip(["def f(x):", "import"], found, strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(**given, max_new_tokens=9, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert output[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)
    batched = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    batched.tokenizer.pad_token, batched.tokenizer.padding_side = tokenizer.eos_token, "left"
    assert batched(["def f(x):", "import"], batch_size=2, **keywords) == found
    narrow = pipeline("text-generation", model=str(folder), dtype=torch.bfloat16, device_map="cpu")
    assert narrow.model.dtype == torch.bfloat16
    assert isinstance(narrow("def", max_new_tokens=2)[0]["generated_text"], str)


@pytest.mark.parametrize("layout", [own_folder, released_folder])
def test_copies_and_pickles_of_a_model(layout: Any, tmp_path: Path) -> None:
    model, tokens = AutoModelForCausalLM.from_pretrained(layout(tmp_path / "m", small_network())), draw_tokens(2, 5)
    with torch.no_grad():
        expected = model(tokens).logits
        for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(made(tokens).logits, expected)
            made.circuit_model.embed.weight += 1
            assert torch.equal(model(tokens).logits, expected)
            assert made.config.to_dict() == model.config.to_dict()
            assert made.generate(tokens, attention_mask=torch.ones(2, 5), max_new_tokens=2).shape[1] <= 7


def test_the_registered_classes_here() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    assert CONFIG_MAPPING["circuitgpt"] is CircuitGPTConfig
    assert CONFIG_MAPPING["sparse_circuits"] is SparseCircuitsConfig
    assert AutoConfig.for_model("circuitgpt", n_layer=1, d_model=8, n_head=2, vocab_size=9).num_hidden_layers == 1
    registration.install()
    assert sum(type(finder).__name__ == "_Waiting" for finder in sys.meta_path) == 1


def test_the_loader_of_an_auto_module_can_be_copied() -> None:
    loader = importlib.import_module("transformers.models.auto.modeling_auto").__spec__.loader
    assert copy.copy(loader).get_filename("transformers.models.auto.modeling_auto").endswith("modeling_auto.py")
    assert registration._Then(loader, print).is_package("transformers.models.auto.modeling_auto") is False
    assert BLOCK == 24
