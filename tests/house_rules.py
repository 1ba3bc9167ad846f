"""House rules a file can break on its own: what it does when imported, loops over blocks, pickles, size, docstrings.

Like tests/floors.py: read with `ast`, one sentence per violation, run by tests/test_floors.py.
"""

import ast
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from floors import Sources, folder, import_time, is_init

FILE_LINES, FUNCTION_LINES = 350, 60
# Why a file or function may be longer: "model.transformer" or "model.transformer:Transformer.forward" -> the reason.
LONGER_ALLOWED: Mapping[str, str] = {}
# Why a module may act when it is imported: module -> the reason.
IMPORT_EFFECTS_ALLOWED: Mapping[str, str] = {"__init__": "installs the post-import hook for transformers (STYLE 4.2)"}
# Why a module may loop over blocks outside model/.
BLOCK_LOOPS_ALLOWED: Mapping[str, str] = {
    "bench.plain": "a second implementation on purpose: the other side of benchmarks"
}
# Why a module may call torch.save.
PICKLES_ALLOWED: Mapping[str, str] = {"hub.layouts": "a file of the released layout is what torch.save writes"}

EFFECTS = (
    "logging.basicConfig",
    "logging.disable",
    "os.environ",
    "os.getenv",
    "os.putenv",
    "random.seed",
    "signal.signal",
    "sys.path",
    "torch.manual_seed",
    "torch.set_*",
    "torch.use_deterministic_algorithms",
    "warnings.filterwarnings",
    "warnings.simplefilter",
)
HARMLESS_STATEMENTS = frozenset({"model_rebuild"})


def import_effects(sources: Sources, allowed: Mapping[str, str] = IMPORT_EFFECTS_ALLOWED) -> list[str]:
    found = []
    for module, text in sources.items():
        if module in allowed:
            continue
        for node in import_time(ast.parse(text)):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if any(fnmatchcase(name, effect) for effect in EFFECTS):
                found.append(f"{module}:{node.lineno} touches {name} when it is imported; do it in a function")
            bare = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            if bare and ast.unparse(node.value.func).rpartition(".")[2] not in HARMLESS_STATEMENTS:
                found.append(f"{module}:{node.lineno} runs {ast.unparse(node)!r} when it is imported")
    return found


def block_loops(sources: Sources) -> list[str]:
    """The copied forward pass: a loop over `.blocks`, or an alias of it to loop over, outside model/."""
    found = []
    for module, text in sources.items():
        if module.split(".")[0] == "model" or module in BLOCK_LOOPS_ALLOWED:
            continue
        for node in ast.walk(ast.parse(text)):
            looped: ast.expr | None = None
            if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
                looped = node.iter
            elif isinstance(node, ast.Assign | ast.NamedExpr) and isinstance(node.value, ast.Attribute):
                looped = node.value
            if looped is not None and any(
                isinstance(n, ast.Attribute) and n.attr == "blocks" for n in ast.walk(looped)
            ):
                found.append(f"{module}:{looped.lineno} loops over blocks; pass a tap to the model instead")
    return found


def unsafe_loads(sources: Sources) -> list[str]:
    return [
        f"{module}:{node.lineno} {ast.unparse(node)!r}: torch.save pickles, and torch.load must say weights_only=True"
        for module, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.load", "torch.save")
        and (module not in PICKLES_ALLOWED or ast.unparse(node.func) == "torch.load")
        and not any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords)
    ]


def undocumented(sources: Sources) -> list[str]:
    return [
        f"{module}: no docstring; a file opens with its story"
        for module, text in sources.items()
        if not ast.get_docstring(ast.parse(text))
    ]


def full_folder_files(sources: Sources) -> list[str]:
    """Folders' __init__.py carry a docstring and nothing else: names are imported from the file that defines them."""
    return [
        f"{module} holds more than its docstring"
        for module, text in sources.items()
        if is_init(module) and folder(module) and len(ast.parse(text).body) > 1
    ]


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(qualified name, lines) of every function, nested ones included."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        name = f"{prefix}{node.name}" if named else prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, (node.end_lineno or node.lineno) - node.lineno + 1
        yield from functions(node, f"{name}." if named else prefix)


def oversized(sources: Sources, allowed: Mapping[str, str] = LONGER_ALLOWED) -> list[str]:
    too_long: dict[str, str] = {}
    for module, text in sources.items():
        lines = len(text.splitlines())
        if lines > FILE_LINES:
            too_long[module] = f"{lines} lines, more than {FILE_LINES}"
        for name, length in functions(ast.parse(text)):
            if length > FUNCTION_LINES:
                too_long[f"{module}:{name}"] = f"{length} lines, more than {FUNCTION_LINES}"
    stale = [f"{key}: allowed to be longer, but is not any more; remove it" for key in allowed if key not in too_long]
    return [f"{key}: {problem}" for key, problem in too_long.items() if key not in allowed] + stale
