"""Who may import whom: the table of floors as data, and the checks of imports against it (run by tests/test_floors.py).

The package is read with `ast`, never imported. A check takes sources (module name -> text) and returns sentences, one
per violation, that name the file, what was found and what to do; so the checks can be tested on made-up sources.

A new module needs a line in FLOORS. A line is `(pattern, floor)`; `folder.*` covers a whole folder. The lines of a
folder stand in the order in which its files may import each other: a file imports lower floors, and earlier lines of
its own folder.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGE = "sparse_circuits"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

FLOORS: tuple[tuple[str, int], ...] = (
    ("sites", 0),
    ("files", 0),
    ("config", 0),
    ("log", 0),
    ("json_values", 0),
    ("markdown", 0),
    ("executors", 0),
    ("bundled.folders", 0),
    ("kernels.*", 1),
    ("data.tokenizer", 1),
    ("data.tiny_vocabulary", 2),
    ("data.tiny_*", 2),
    ("data.constructs", 2),
    ("data.source", 2),
    ("data.parquet", 2),
    ("data.hub_dataset", 2),
    ("data.corpus", 2),
    ("data.shards", 2),
    ("model.taps", 1),
    ("model.abs_topk", 2),
    ("model.config", 2),
    ("model.attention", 2),
    ("model.block", 3),
    ("model.transformer", 3),
    ("model.assemble", 3),
    ("model.edge_weights", 3),
    ("model.contexts", 3),
    ("model.generate", 3),
    ("model.folder", 3),
    ("tasks.pairs", 3),
    ("tasks.draw", 3),
    ("tasks.task", 3),
    ("tasks.check", 3),
    ("tasks.words", 3),
    ("tasks.shifts", 3),
    ("tasks.builder", 3),
    ("tasks.*_tasks", 3),
    ("tasks.python_tasks", 3),
    ("tasks.mined_file", 3),
    ("tasks.mined_names", 3),
    ("tasks.mined_points", 3),
    ("tasks.mined", 3),
    ("tasks.custom", 3),
    ("tasks.load", 3),
    ("train.metrics", 1),
    ("train.sparsity", 4),
    ("train.optimizer", 4),
    ("train.config", 4),
    ("train.presets", 4),
    ("train.checkpoint", 5),
    ("train.parallel", 5),
    ("train.loop", 6),
    ("circuit.circuit", 1),
    ("circuit.ablation", 4),
    ("circuit.edges", 4),
    ("circuit.cuts", 4),
    ("circuit.evaluate", 4),
    ("circuit.mask_scorer", 4),
    ("circuit.evaluate_mined", 4),
    ("circuit.task_scores", 4),
    ("prune.mask", 1),
    ("prune.config", 5),
    ("prune.learn", 5),
    ("prune.choice", 5),
    ("prune.discretize", 5),
    ("prune.calibrate", 5),
    ("prune.refine", 5),
    ("prune.problem", 5),
    ("prune.pipeline", 5),
    ("prune.seeds", 5),
    ("prune.search", 8),
    ("prune.suite_scores", 8),
    ("prune.suite", 8),
    ("prune.suite_page", 8),
    ("explain.examples", 5),
    ("explain.effects", 5),
    ("explain.*", 5),
    ("validate.compiler", 6),
    ("validate.ground_truth", 6),
    ("validate.known_lookups", 6),
    ("validate.known_*", 6),
    ("validate.statistics", 6),
    ("validate.card", 6),
    ("validate.subject", 6),
    ("validate.faithfulness", 6),
    ("validate.roles", 6),
    ("validate.interchange", 6),
    ("validate.robustness", 6),
    ("validate.binarise", 6),
    ("validate.thresholds", 6),
    ("validate.verdict", 6),
    ("validate.card_folder", 6),
    ("validate.measure", 6),
    ("validate.measure_inside", 6),
    ("validate.again", 6),
    ("validate.nonsense", 6),
    ("validate.random_init", 6),
    ("validate.ablations", 6),
    ("validate.norms", 6),
    ("validate.seeds", 6),
    ("validate.reruns", 6),
    ("validate.attack", 6),
    ("validate.run", 8),
    ("validate.suite_cards", 9),
    ("validate.verdicts_page", 9),
    ("bridges.bridge", 4),
    ("bridges.losses", 5),
    ("bridges.*", 6),
    ("frontier.record", 7),
    ("frontier.curves", 7),
    ("frontier.grid", 7),
    ("frontier.point", 7),
    ("frontier.sweep", 7),
    ("hub.tensor_file", 1),
    ("hub.sparse_format", 1),
    ("hub.torch_zip", 4),
    ("hub.released", 4),
    ("hub.released_tokenizer", 4),
    ("hub.layouts", 4),
    ("hub.stored_values", 5),
    ("hub.viz_data", 5),
    ("hub.published_parts", 5),
    ("hub.published_weights", 5),
    ("hub.published", 5),
    ("hub.download", 7),
    ("hub.fetch", 7),
    ("hub.load", 7),
    ("hub.origins", 7),
    ("hub.card", 7),
    ("hub.io", 7),
    ("hub.hf_inputs", 7),
    ("hub.hf_config", 7),
    ("hub.modeling", 7),
    ("hub.auto_tokenizer", 7),
    ("hub.registration", 7),
    ("viz.card_view", 8),
    ("viz.document", 8),
    ("viz.page", 8),
    ("viz.static_page", 8),
    ("viz.gallery", 8),
    ("viz.graphml", 8),
    ("viz.attribution_graph", 8),
    ("viz.figures", 8),
    ("viz.figure_files", 8),
    ("viz.server", 8),
    ("viz.notebook", 8),
    ("viz.*", 8),
    ("quickstart", 9),
    ("recipe.matched", 9),
    ("recipe.bundle", 9),
    ("bench.result", 9),
    ("bench.machine", 9),
    ("bench.plain", 9),
    ("bench.training", 9),
    ("bench.loading", 9),
    ("bench.pruning", 9),
    ("bench.ground_truth", 9),
    ("bench.suite", 9),
    ("commands.common", 10),
    ("commands.*", 10),
    ("cli", 11),
)

# Packages that may be imported when a module is imported: below floor 5, and from there on. Everything else (the
# optional extras) only inside functions, so that a missing one fails where it is used and can be named.
BASE = frozenset({"jaxtyping", "numpy", "pydantic", "safetensors", "tokenizers", "torch"})
RUNTIME = BASE | {"numba", "rich", "transformers", "tyro", "yaml"}
BASE_EXCEPTIONS: Mapping[str, frozenset[str]] = {
    "kernels.*": frozenset({"numba", "triton"}),
    "config": frozenset({"yaml"}),
}

NEVER_TOGETHER = (("tasks", "train"),)
ONLY_IN: Mapping[str, str] = {"matplotlib": "viz", "triton": "kernels", "numba": "kernels"}
FORBIDDEN_PACKAGES: Mapping[str, str] = {
    "pickle": "artifacts are JSON and safetensors",
    "dill": "artifacts are JSON and safetensors",
    "joblib": "artifacts are JSON and safetensors",
}

Sources = Mapping[str, str]


def package_sources() -> dict[str, str]:
    """Module name inside the package ("sites", "model.taps", "model.__init__", "__init__") -> its text."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
    }


def folder(module: str) -> str:
    return module.rpartition(".")[0]


def is_init(module: str) -> bool:
    return module.rpartition(".")[2] == "__init__"


def place(module: str) -> tuple[int, int] | None:
    """(floor, line) of the first line of FLOORS that covers the module; None where none does."""
    for line, (pattern, floor) in enumerate(FLOORS):
        if fnmatchcase(module, pattern) and not is_init(module):
            return floor, line
    return None


def imports(module: str, sources: Sources) -> Iterator[tuple[ast.stmt, str]]:
    """Every import in the file, at any depth, as (statement, absolute dotted name of what is imported)."""
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                here = [PACKAGE, *module.split(".")]
                base = here[: len(here) - node.level] + base
            yield from ((node, ".".join([*base, alias.name])) for alias in node.names)


def internal_imports(module: str, sources: Sources) -> Iterator[tuple[ast.stmt, str]]:
    """Imports of our own modules, as module names; a name inside a module counts as that module, one in a folder as its
    `__init__`."""
    for node, name in imports(module, sources):
        package, _, target = name.partition(".")
        if package != PACKAGE or target.startswith("__"):  # `from sparse_circuits import __version__` is fine
            continue
        while target and target not in sources and f"{target}.__init__" not in sources:
            target = folder(target)
        yield node, target if target in sources else f"{target}.__init__".lstrip(".")


def unplaced(sources: Sources) -> list[str]:
    return [
        f"{module}: not in the table of floors; add it to FLOORS in tests/floors.py"
        for module in sources
        if place(module) is None and not is_init(module)
    ]


def upward_imports(sources: Sources) -> list[str]:
    return [
        f"{module}:{node.lineno} imports {target}: {problem}"
        for module in sources
        if not is_init(module)
        for node, target in internal_imports(module, sources)
        if (problem := import_problem(module, target))
    ]


def import_problem(module: str, target: str) -> str | None:
    if is_init(target):
        return "a folder; import the file in it that defines the name (which must exist)"
    here, there = place(module), place(target)
    if here is None or there is None or there[0] < here[0]:
        return None  # `unplaced` reports the missing line
    if there[0] > here[0]:
        return f"floor {there[0]} is above its own floor {here[0]}"
    if folder(target) != folder(module):
        return f"another folder of the same floor {here[0]}"
    # Two files under one wildcard line have no order between them; `cycles` keeps them apart.
    return None if there[1] <= here[1] else "it stands later in its folder's order (FLOORS)"


def cycles(sources: Sources) -> list[str]:
    graph = {
        module: sorted({target for _, target in internal_imports(module, sources)})
        for module in sources
        if module != "__init__"  # lazy: its imports run when a name is asked for
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append("import cycle: " + " -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in graph.get(module, ()):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def forbidden_pairs(sources: Sources) -> list[str]:
    sides = [pair for one, two in NEVER_TOGETHER for pair in ((one, two), (two, one))]
    return [
        f"{module}:{node.lineno} imports {target}: {one} and {two} do not import each other"
        for one, two in sides
        for module in sources
        if module.split(".")[0] == one
        for node, target in internal_imports(module, sources)
        if target.split(".")[0] == two
    ]


def import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: no function bodies, but their defaults and decorators."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and any(word in ast.unparse(child.test) for word in ("TYPE_CHECKING", "__main__")):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = child.args
            outer = [*arguments.defaults, *filter(None, arguments.kw_defaults), *getattr(child, "decorator_list", [])]
            for expression in outer:
                yield expression
                yield from import_time(expression)
        else:
            yield child
            yield from import_time(child)


def third_party(sources: Sources) -> list[str]:
    found = []
    for module, text in sources.items():
        tree = ast.parse(text)
        at_import = {id(node) for node in import_time(tree)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "level", 0):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for package in {name.split(".")[0] for name in names} - {PACKAGE}:
                problem = package_problem(module, package, top=id(node) in at_import)
                if problem:
                    found.append(f"{module}:{node.lineno} imports {package}: {problem}")
    return found


def package_problem(module: str, package: str, top: bool) -> str | None:
    if package in FORBIDDEN_PACKAGES:
        return FORBIDDEN_PACKAGES[package]
    home = ONLY_IN.get(package)
    if home and module.split(".")[0] != home:
        return f"only {home}/ uses it"
    if not top or package in sys.stdlib_module_names:
        return None
    if module == "__init__":
        return "the package root imports nothing but the standard library at its top level"
    floor = (place(module) or (0, 0))[0]
    extra = (names for pattern, names in BASE_EXCEPTIONS.items() if fnmatchcase(module, pattern))
    allowed = (RUNTIME if floor >= 5 else BASE).union(*extra)
    if package in allowed:
        return None
    return (
        f"at the top level of a floor-{floor} module only {', '.join(sorted(allowed))}; import it inside the function"
    )
