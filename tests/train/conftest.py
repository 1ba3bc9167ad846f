"""A tokenizer and token shards made once from local text files."""

from pathlib import Path
from typing import Any

import pytest

from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import Shards, build_shards
from sparse_circuits.data.tokenizer import read_tokenizer, save_tokenizer, train_tokenizer
from sparse_circuits.train.config import TrainConfig
from train.runs import tiny_config, write_texts


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(scope="session")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer((file.read_text("utf-8") for file in sorted(corpus.iterdir())), 300), folder)
    return read_tokenizer(folder)


@pytest.fixture(scope="session")
def shards(corpus: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return build_shards(open_sources((str(corpus),)), tokenizer, tmp_path_factory.mktemp("shards"), val_fraction=0.1)


@pytest.fixture
def config() -> TrainConfig:
    return tiny_config()
