"""The frozen base of every config: strict, keyword-only, JSON and YAML both ways.

A config lives beside the code it configures and derives from `Config`. Reading one never guesses: an unknown key, a
wrong type or an unknown enum value is an error that says what was given and what is allowed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

C = TypeVar("C", bound="Config")
ENDINGS = (".json", ".yaml", ".yml")
_YAML_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _OneLineErrors(type(BaseModel)):
    """Calling a config class raises one-line ValueErrors. (Overriding `__init__` would change how JSON is read.)"""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ValueError(_one_line(cls, error)) from None


class Config(BaseModel, metaclass=_OneLineErrors):
    """Base of all configs: frozen, no unknown keys, no silent coercion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, ser_json_inf_nan="constants"
    )

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """Builds the config from plain JSON values (lists where the field is a tuple). Raises ValueError, one line."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{cls.__name__}: needs one object of fields, given {type(values).__name__}")
        try:
            return cls.model_validate_json(json.dumps(dict(values)))
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}; allowed: values that JSON has") from None
        except ValidationError as error:
            raise ValueError(_one_line(cls, error)) from None

    @classmethod
    def from_file(cls: type[C], path: str | Path) -> C:
        """Reads a .json, .yaml or .yml file. Raises ValueError that names the file."""
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"no config file at {file}")
        if file.suffix not in ENDINGS:
            raise ValueError(f"{file} is no config file; allowed endings: {', '.join(ENDINGS)}")
        try:
            text = file.read_text(encoding="utf-8")
            values = json.loads(text) if file.suffix == ".json" else _read_yaml(text)
        except ValueError as error:
            raise ValueError(f"{file} is not valid {file.suffix[1:].upper()}: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{file} must hold one object of fields, not {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same config back."""
        return json.loads(self.model_dump_json())

    def replace(self: C, **changes: Any) -> C:
        """A copy with some fields changed, checked again."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def _read_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as the number it is in JSON and YAML 1.2; PyYAML follows YAML 1.1, where it is text."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _YAML_NUMBER, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _one_line(owner: Any, error: ValidationError) -> str:
    """Folds pydantic's report into one line that names key, value and what is allowed."""
    parts = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or owner.__name__
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown key {where!r}; allowed: {', '.join(_fields_at(owner, problem['loc']))}")
        elif problem["type"] == "missing":
            parts.append(f"{where} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            value = problem["input"]
            given = "" if isinstance(value, dict) else f", given {value!r}"
            parts.append(f"{where}: {message}{given}" if problem["loc"] else message)
    return f"{owner.__name__}: " + "; ".join(parts)


def _fields_at(owner: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the config in which the unknown key stands."""
    for part in location[:-1]:
        field = owner.model_fields.get(str(part))
        if field is not None:
            owner = next(_models_in(field.annotation), owner)
    return list(owner.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configs named in a type such as `SomeConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
