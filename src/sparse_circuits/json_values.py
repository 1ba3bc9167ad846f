"""Plain JSON values: what is stored and shown is a list, an object, a text, a finite number, true, false or null.

JSON has no infinite and no missing numbers; Python writes them all the same, and browsers then refuse the file. Here they
become null.
"""

import math
from collections.abc import Mapping
from typing import Any


def finite(value: float) -> float | None:
    """The number; None where it is infinite or missing. No negative zero."""
    return value + 0.0 if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Mappings as dicts with text keys, sequences as lists, numbers as `finite` says, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return finite(value) if isinstance(value, float) else value
