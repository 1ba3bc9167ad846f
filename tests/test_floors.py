"""The architecture, tested: who imports whom (tests/floors.py), and what a file keeps by itself (tests/house_rules.py).

Each rule runs on the package, and on small made-up sources that break it, so that no rule can pass by seeing nothing.
"""

from collections.abc import Callable
from textwrap import dedent

import pytest

from floors import (
    FLOORS,
    Sources,
    cycles,
    folder,
    forbidden_pairs,
    package_sources,
    place,
    third_party,
    unplaced,
    upward_imports,
)
from house_rules import (
    FILE_LINES,
    block_loops,
    full_folder_files,
    import_effects,
    oversized,
    undocumented,
    unsafe_loads,
)

Rule = Callable[[Sources], list[str]]
RULES: tuple[Rule, ...] = (
    unplaced,
    upward_imports,
    cycles,
    forbidden_pairs,
    third_party,
    import_effects,
    block_loops,
    unsafe_loads,
    undocumented,
    full_folder_files,
    oversized,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package(rule: Rule) -> None:
    violations = rule(package_sources())
    assert not violations, "\n" + "\n".join(violations)


def test_the_package_is_seen() -> None:
    sources = package_sources()
    assert {"sites", "model.taps", "model.__init__"} <= set(sources)


def test_the_lines_of_a_folder_rise() -> None:
    """Within a folder an earlier line never has a higher floor: the order and the floors tell one story."""
    floors: dict[str, int] = {}
    for pattern, floor in FLOORS:
        assert floor >= floors.get(folder(pattern), 0), f"{pattern} stands after a line of a higher floor"
        floors[folder(pattern)] = floor


# (rule, made-up sources, a part of the violation that must be reported; None: the sources are fine)
MADE_UP: tuple[tuple[Rule, dict[str, str], str | None], ...] = (
    (unplaced, {"novel": ""}, "novel: not in the table"),
    (unplaced, {"data.tiny_names": "", "data.__init__": "", "__init__": ""}, None),
    (upward_imports, {"sites": "from sparse_circuits.model import taps", "model.taps": ""}, "floor 1 is above"),
    (upward_imports, {"sites": "from .model.taps import Tap", "model.taps": ""}, "sites:1 imports model.taps"),
    (upward_imports, {"model.taps": "from ..viz import page", "viz.page": ""}, "floor 8 is above its own floor 1"),
    (upward_imports, {"sites": "def f():\n    import sparse_circuits.cli", "cli": ""}, "sites:2 imports cli"),
    (upward_imports, {"prune.mask": "from sparse_circuits.model.taps import Tap", "model.taps": ""}, "another folder"),
    (upward_imports, {"tasks.task": "from sparse_circuits.tasks import load", "tasks.load": ""}, "later in its folder"),
    (upward_imports, {"cli": "from sparse_circuits.model import X", "model.__init__": ""}, "a folder; import the file"),
    (upward_imports, {"viz.page": "import sparse_circuits as sc", "__init__": ""}, "imports __init__"),
    (upward_imports, {"tasks.load": "from sparse_circuits.tasks.task import Task", "tasks.task": ""}, None),
    (upward_imports, {"cli": "from sparse_circuits import __version__, sites", "sites": "", "__init__": ""}, None),
    (
        cycles,
        {"viz.one": "from sparse_circuits.viz import two", "viz.two": "from . import one", "viz.__init__": ""},
        "viz.one -> viz.two -> viz.one",
    ),
    (cycles, {"viz.one": "from sparse_circuits.viz import two", "viz.two": ""}, None),
    (
        forbidden_pairs,
        {"tasks.task": "from sparse_circuits.train.metrics import loss", "train.metrics": ""},
        "tasks and train do not",
    ),
    (forbidden_pairs, {"train.loop": "from sparse_circuits.tasks.task import T", "tasks.task": ""}, "train.loop:1"),
    (third_party, {"sites": "import transformers"}, "import it inside the function"),
    (third_party, {"tasks.task": "try:\n    import yaml\nexcept ImportError:\n    yaml = None"}, "tasks.task:2"),
    (third_party, {"viz.figures": "import matplotlib.pyplot"}, "top level of a floor-8"),
    (third_party, {"frontier.sweep": "def f():\n    import matplotlib"}, "only viz/ uses it"),
    (third_party, {"prune.search": "def f():\n    import pickle"}, "JSON and safetensors"),
    (third_party, {"__init__": "import torch"}, "package root"),
    (third_party, {"log": "def f():\n    from rich.console import Console"}, None),
    (third_party, {"config": "import yaml", "kernels.select_cpu": "import numba", "cli": "import tyro"}, None),
    (third_party, {"sites": "if TYPE_CHECKING:\n    from transformers import PreTrainedModel"}, None),
    (import_effects, {"log": "LEVEL = os.environ.get('LEVEL')"}, "touches os.environ"),
    (import_effects, {"log": "def f(level=os.getenv('LEVEL')): ..."}, "touches os.getenv"),
    (import_effects, {"log": "class A:\n    torch.set_num_threads(1)"}, "torch.set_num_threads"),
    (import_effects, {"log": "logging.basicConfig()"}, "logging.basicConfig"),
    (import_effects, {"hub.load": "register_classes()"}, "runs 'register_classes()'"),
    (import_effects, {"log": "def f():\n    return os.environ['LEVEL']\nif __name__ == '__main__':\n    f()"}, None),
    (block_loops, {"prune.learn": "for i, block in enumerate(model.blocks): ..."}, "prune.learn:1 loops over blocks"),
    (block_loops, {"hub.load": "x = [b.attn for b in self.model.blocks]"}, "pass a tap"),
    (block_loops, {"hub.load": "layers = model.blocks"}, "pass a tap"),
    (block_loops, {"model.transformer": "for block in self.blocks: ...", "hub.load": "model.blocks[0].attn"}, None),
    (unsafe_loads, {"hub.released": "torch.load(path)"}, "weights_only=True"),
    (unsafe_loads, {"hub.released": "torch.load(path, weights_only=False)"}, "weights_only=True"),
    (unsafe_loads, {"train.checkpoint": "torch.save(state, path)"}, "torch.save pickles"),
    (unsafe_loads, {"hub.released": "torch.load(path, weights_only=True)"}, None),
    (undocumented, {"sites": "x = 1"}, "sites: no docstring"),
    (full_folder_files, {"model.__init__": '"""The model."""\nfrom .taps import Tap'}, "more than its docstring"),
    (full_folder_files, {"model.__init__": '"""The model."""', "__init__": '"""Root."""\nx = 1'}, None),
    (oversized, {"sites": "x = 1\n" * (FILE_LINES + 1)}, "351 lines, more than 350"),
    (oversized, {"sites": "x = 1\n" * FILE_LINES}, None),
    (oversized, {"sites": "class A:\n  def f(self):\n" + "    x = 1\n" * 60}, "sites:A.f: 61 lines"),
    (oversized, {"sites": "class A:\n  def f(self):\n" + "    x = 1\n" * 59}, None),
)


@pytest.mark.parametrize(("rule", "sources", "expected"), MADE_UP)
def test_a_rule_sees_its_violation(rule: Rule, sources: dict[str, str], expected: str | None) -> None:
    violations = rule({module: dedent(text) for module, text in sources.items()})
    if expected is None:
        assert violations == []
    else:
        assert any(expected in violation for violation in violations), violations


def test_an_exception_needs_to_be_used() -> None:
    long = {"sites": "x = 1\n" * (FILE_LINES + 1)}
    assert oversized(long, allowed={"sites": "a table"}) == []
    assert "remove it" in oversized({"sites": ""}, allowed={"sites": "a table"})[0]
    assert import_effects({"log": "setup()"}, allowed={"log": "the hook"}) == []


def test_a_file_has_one_place() -> None:
    assert place("model.taps") == (1, [pattern for pattern, _ in FLOORS].index("model.taps"))
    assert place("viz.anything_new") is not None
    assert place("model.__init__") is None
