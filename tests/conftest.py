"""What every test gets: checked shapes, fixed seeds, a fair share of the cores, and skips for what a machine lacks.

Shapes: an import hook makes jaxtyping and beartype check the annotations of every function of the package, while the
tests run and only then. It has to be installed before the package is first imported, hence here and at the top level.
Skips: by marker, so that every reason is written once; tests/SKIPS.md lists them all.
"""

import os
import random
import re
import shutil
from pathlib import Path

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # read when the libraries load: two workers with a thread per core each are slower than one
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

COMPILED = re.compile("njit|triton.jit")
SOURCE = Path(__file__).parent.parent / "src" / "sparse_circuits"


def checked_modules() -> list[str]:
    """Every module of the package but those whose functions numba or triton compile: not the hook's wrappers of them."""
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in files]
    return sorted(name for name, path in zip(names, files, strict=True) if not COMPILED.search(path.read_text("utf-8")))


jaxtyping.install_import_hook(checked_modules(), "beartype.beartype")
if WORKER:
    torch.set_num_threads(1)

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="also run the tests that leave this machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {
        "browser": pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
        "gpu": pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
        "network": pytest.mark.skipif(not config.getoption("--network"), reason="needs the network; pass --network"),
    }
    items.sort(key=lambda item: item.path.name != "test_readme.py")  # minutes long: one worker starts with it
    for item in items:
        for marker, skip in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is, for playwright's `executable_path`; for tests marked `browser`."""
    found = find_chromium()
    assert found, "a test that uses `chromium` must be marked with pytest.mark.browser"
    return found
