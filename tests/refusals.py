"""What a user reads when something is refused: a ValueError of one line, naming what was given and what is allowed."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expects such an error with every one of the words, in the package as users have it: without our shape checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError) as caught:
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    message = str(caught.value)
    assert message and "\n" not in message
    for word in words:
        assert word in message
