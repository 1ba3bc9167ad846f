"""The frozen base of every config: strict, keyword-only, JSON and YAML both ways.

A config lives beside the code it configures and derives from `Config`. Reading one never guesses: an unknown key, a wrong
type or an unknown enum value is an error that says what was given and what is allowed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

C = TypeVar("C", bound="Config")


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
        try:
            return cls.model_validate_json(json.dumps(dict(values)))
        except ValidationError as error:
            raise ValueError(_one_line(cls, error)) from None

    @classmethod
    def from_file(cls: type[C], path: str | Path) -> C:
        """Reads a .json, .yaml or .yml file. Raises ValueError that names the file."""
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"no config file at {file}")
        text = file.read_text(encoding="utf-8")
        try:
            values = json.loads(text) if file.suffix == ".json" else _read_yaml(text, file)
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


def _read_yaml(text: str, file: Path) -> Any:
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError("allowed endings are .json, .yaml and .yml")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _one_line(owner: type[BaseModel], error: ValidationError) -> str:
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
        annotation = owner.model_fields[str(part)].annotation if str(part) in owner.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return list(owner.model_fields)
        owner = annotation
    return list(owner.model_fields)
