"""Verbs on models: train, measure reference values, sample; and the quickstart."""

import time
from dataclasses import asdict

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, usable_device


def quickstart(out: str = "runs/quickstart", common: Shared = DEFAULTS) -> Output:
    """Corpus, tokenizer, training, pruning, evaluation and report in one go, on two CPU cores in minutes.

    Args:
        out: Folder of everything it makes.
    """
    from sparse_circuits.quickstart import quickstart as run

    result = run(out, seed=common.seed, device=usable_device(common.device), progress=common.progress)
    return Output(result.to_dict(), result.text())


def train(
    data: str,
    tokenizer: str,
    out: str,
    preset: str | None = None,
    config: str | None = None,
    steps: int | None = None,
    resume: bool = False,
    common: Shared = DEFAULTS,
) -> Output:
    """Trains a sparse or dense model; --resume goes on from the last whole checkpoint in --out.

    Args:
        data: Folder of token shards.
        tokenizer: Folder of the tokenizer the shards were made with.
        out: Run folder; the model will be in its subfolder `model`.
        preset: paper, authors, tiny, bundled, or their dense twins (paper-dense, ...); give this or --config.
        config: JSON or YAML file with the fields of TrainConfig; its seed holds unless --seed is given.
        steps: Optimizer steps instead of the preset's.
        resume: Go on with the run in --out.
    """
    from sparse_circuits.data.shards import Shards
    from sparse_circuits.hub.load import load_tokenizer
    from sparse_circuits.train.config import TrainConfig
    from sparse_circuits.train.loop import train as run
    from sparse_circuits.train.presets import preset as recipe

    if (preset is None) == (config is None):
        raise ValueError("give either --preset NAME or --config FILE")
    shards = Shards.open(data)
    chosen = TrainConfig.from_file(config) if config else recipe(preset or "", shards.vocab_size)
    changes = {} if config and common.given_seed is None else {"seed": common.seed}
    chosen = chosen.replace(**changes, **({} if steps is None else {"steps": steps}))
    result = run(
        chosen,
        shards,
        load_tokenizer(tokenizer),
        out,
        resume=resume,
        device=usable_device(common.device),
        progress=common.progress,
    )
    told = f"{result.nonzero:,} nonzero weights ({result.nonzero_fraction:.2%}), validation loss {result.val_loss:.3f} nats"
    return Output(asdict(result), f"{told}\nmodel in {result.path}")


def model_reference(model: str, data: str, tokens: int = 262_144, common: Shared = DEFAULTS) -> Output:
    """Measures a model's ablation reference values on training tokens and stores them beside it.

    Args:
        model: Model folder.
        data: Folder of token shards of the corpus it was trained on.
        tokens: Training tokens to average over, at least 262,144.
    """
    from sparse_circuits.circuit.ablation import REFERENCE_TOKENS, measure_reference, save_reference
    from sparse_circuits.data.shards import Shards
    from sparse_circuits.hub.load import load_model, load_tokenizer

    if tokens < REFERENCE_TOKENS:
        raise ValueError(f"--tokens {tokens} is too few; a reference needs at least {REFERENCE_TOKENS}")
    shards, loaded = Shards.open(data), load_model(model, usable_device(common.device))
    shards.check_tokenizer(load_tokenizer(model))
    found = measure_reference(loaded, shards, tokens=tokens, seed=common.seed, progress=common.progress)
    path = save_reference(found, loaded.source or model)
    return Output({"tokens": found.tokens, "path": str(path)}, f"means over {found.tokens:,} tokens in {path}")


def generate(
    model: str,
    prompt: str,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    top_p: float = 0.95,
    common: Shared = DEFAULTS,
) -> Output:
    """Samples text from a model.

    Args:
        model: Model folder.
        prompt: Text to continue.
        max_new_tokens: Tokens to add.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability to sample from.
    """
    import torch

    from sparse_circuits.data.tokenizer import decode, encode
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.model.generate import generate as sample

    device = usable_device(common.device)
    loaded, tokenizer = load_model(model, device), load_tokenizer(model)
    tokens = torch.tensor([encode(tokenizer, prompt)], dtype=torch.long, device=device)
    begun = time.perf_counter()
    longer = sample(loaded, tokens, max_new_tokens, temperature=temperature, top_p=top_p, seed=common.seed)
    speed = max_new_tokens / (time.perf_counter() - begun)
    text = decode(tokenizer, longer[0].tolist())
    return Output({"text": text, "tokens_per_second": speed}, text)
