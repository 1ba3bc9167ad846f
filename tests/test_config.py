"""Configs: what is read equals what was written, in both formats, and whatever does not fit is refused in one line."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from refusals import refused
from sparse_circuits.config import Config
from sparse_circuits.model.config import ModelConfig


class Inner(Config):
    """Part of a config."""

    width: int = 3
    """Channels."""
    kind: Literal["linear", "exp"] = "linear"
    """An enum."""


class Outer(Config):
    """A whole config."""

    lr: float
    """Rate."""
    name: str = "x"
    """Text."""
    sizes: tuple[int, ...] = (1, 2)
    """A tuple, a list in files."""
    inner: Inner = Inner()
    """A nested config."""
    maybe: Inner | None = None
    """An optional one."""
    many: tuple[Inner, ...] = ()
    """Several."""

    def model_post_init(self, context: object) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, given {self.lr}")


# Left out of `name`: text like 1e5, which PyYAML writes without quotes because it does not read it as a number.
inners = st.builds(Inner, width=st.integers(), kind=st.sampled_from(["linear", "exp"]))
outers = st.builds(
    Outer,
    lr=st.floats(min_value=0, exclude_min=True, allow_nan=False),
    name=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not re.search(r"\d[eE]", text)),
    sizes=st.lists(st.integers(-(2**60), 2**60)).map(tuple),
    inner=inners,
    maybe=st.none() | inners,
    many=st.lists(inners, max_size=2).map(tuple),
)


@given(outers)
def test_every_field_comes_back(tmp_path_factory: pytest.TempPathFactory, config: Outer) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert Outer.from_dict(config.to_dict()) == config
    assert config.to_dict().keys() == set(Outer.model_fields)
    json_file, yaml_file = folder / "c.json", folder / "c.yaml"
    json_file.write_text(json.dumps(config.to_dict()), "utf-8")
    yaml_file.write_text(yaml.safe_dump(config.to_dict()), "utf-8")
    assert Outer.from_file(json_file) == config
    assert Outer.from_file(yaml_file) == config
    assert Outer.from_file(str(yaml_file.rename(folder / "c.yml"))) == config


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "1.e-3", "0.001", ".1e-2", "1e-03"])
def test_yaml_reads_numbers_as_json_does(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"lr: {text}\nname: '1e-3'", "utf-8")
    assert Outer.from_file(file) == Outer(lr=0.001, name="1e-3")


@pytest.mark.parametrize("text", ["1e", "1e3abc", "e3", "2024-01e"])
def test_yaml_leaves_text_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"lr: 1\nname: {text}", "utf-8")
    assert Outer.from_file(file).name == text


def test_frozen_and_keyword_only() -> None:
    config = Outer(lr=1.0)
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 2.0
    with pytest.raises(TypeError):
        Outer(1.0)
    assert hash(config) == hash(Outer(lr=1.0))


def test_replace_checks_again() -> None:
    config = Outer(lr=1.0, inner=Inner(width=9))
    assert config.replace(name="y") == Outer(lr=1.0, name="y", inner=Inner(width=9))
    assert config == Outer(lr=1.0, inner=Inner(width=9))
    with refused("lr must be above 0", "-1.0"):
        config.replace(lr=-1.0)
    with refused("unknown key 'rate'", "lr, name, sizes, inner, maybe, many"):
        config.replace(rate=1.0)


BAD: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"lr": 1, "rate": 2}, ("unknown key 'rate'", "allowed: lr, name, sizes, inner, maybe, many")),
    ({"lr": 1, "two\nlines": 2}, (r"unknown key 'two\nlines'",)),
    ({"lr": 1, "inner": {"wdth": 2}}, ("unknown key 'inner.wdth'", "allowed: width, kind")),
    ({"lr": 1, "maybe": {"wdth": 2}}, ("wdth", "allowed: width, kind")),
    ({"lr": 1, "many": [{}, {"wdth": 2}]}, ("many.1.wdth", "allowed: width, kind")),
    ({}, ("lr is missing",)),
    ({"lr": "fast"}, ("lr", "number", "'fast'")),
    ({"lr": True}, ("lr", "number", "True")),
    ({"lr": 1, "name": 3}, ("name", "string", "3")),
    ({"lr": 1, "sizes": [1, 2.5]}, ("sizes.1", "integer", "2.5")),
    ({"lr": 1, "inner": {"width": "3"}}, ("inner.width", "integer", "'3'")),
    ({"lr": 1, "inner": {"kind": "exponential"}}, ("inner.kind", "'linear' or 'exp'", "'exponential'")),
    ({"lr": 1, "inner": 3}, ("inner", "3")),
    ({"lr": -1}, ("lr must be above 0", "-1")),
    ({"lr": 1, "name": {1, 2}}, ("Outer", "set", "JSON")),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_what_does_not_fit_is_refused(values: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    with refused(*words):
        Outer.from_dict(values)
    if words[0] == "Outer":  # a set has no JSON
        return
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(values), "utf-8")
    with refused(str(file), *words):
        Outer.from_file(file)


def test_every_problem_is_named_at_once() -> None:
    with refused("unknown key 'a'", "lr is missing", "inner.kind", "Outer: "):
        Outer.from_dict({"a": 1, "inner": {"kind": "x"}})
    with refused("unknown key 'a'", "lr is missing"):
        Outer(a=1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.json", b"{", ("not valid JSON",)),
        ("c.yaml", b"a: [1", ("not valid YAML",)),
        ("c.yaml", b"a: b: c", ("not valid YAML",)),
        ("c.yml", b"\xff\xfe\x00", ("not valid YML",)),
        ("c.json", b"\xff", ("not valid JSON",)),
        ("c.json", b"[1]", ("one object of fields", "list")),
        ("c.yaml", b"", ("one object of fields", "NoneType")),
        ("c.yaml", b"lr: 2020-01-01", ("date", "JSON")),
        ("c.yaml", b"lr: !!python/object:os.system {}", ("not valid YAML",)),
        ("c.toml", b"lr = 1", ("allowed endings: .json, .yaml, .yml",)),
        ("c", b"lr: 1", ("allowed endings",)),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]) -> None:
    file = tmp_path / name
    with refused(f"no config file at {file}"):
        Outer.from_file(file)
    file.write_bytes(content)
    with refused(str(file), *words):
        Outer.from_file(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 0}, ("n_layer must be at least 1", "0")),
        ({"d_mlp": 0}, ("d_mlp", "null", "0")),
        ({"afrac": 1.5}, ("afrac", "0..1", "1.5")),
        ({"afrac": float("nan")}, ("afrac", "nan")),
        ({"norm_eps": 0.0}, ("norm_eps must be above 0",)),
        ({"afrac_sites": ("attn_in", "attn_inn")}, ("afrac_sites.1", "'attn_in'", "'mlp_out'", "'attn_inn'")),
        ({"norm": "batch"}, ("norm", "'rms'", "'layer'", "'batch'")),
        ({"positions": "concat"}, ("d_pos_emb", "None", "at least 1")),
        ({"positions": "concat", "d_pos_emb": 0}, ("d_pos_emb", "0", "at least 1")),
        ({"positions": "learned", "d_pos_emb": 3}, ("d_pos_emb", "'learned'", "concat")),
        ({"sinusoidal_positions": True}, ("sinusoidal_positions", "'none'")),
        ({"d_model": 12.0}, ("d_model", "integer", "12.0")),
        ({"dmodel": 12}, ("unknown key 'dmodel'", "d_model")),
    ],
)
def test_the_model_config_refuses(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    shape = {"vocab_size": 5, "n_layer": 1, "d_model": 12, "n_head": 2}
    with refused(*words):
        ModelConfig(**{**shape, **changes})
    with refused(*words):
        ModelConfig.from_dict(
            {**shape, **{name: list(v) if isinstance(v, tuple) else v for name, v in changes.items()}}
        )
