"""The sparse model in the box, loaded once."""

import pytest

import sparse_circuits as sc


@pytest.fixture(scope="session")
def model():
    return sc.load_model("bundled")


@pytest.fixture(scope="session")
def tokenizer():
    return sc.load_tokenizer("bundled")
