"""The command line: `sparse-circuits VERB`, a dictionary from verb to function.

Every verb (in `commands/`) is a thin call of the Python API that returns an `Output`: the JSON object of `--json`, and the
text a person reads. Progress and messages go to stderr. Exit 0, or one line on stderr and exit 2.
"""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import tyro

from sparse_circuits import __version__
from sparse_circuits.commands import (
    bench,
    bundle,
    circuits,
    data,
    demo,
    exports,
    formats,
    frontier,
    models,
    published,
    reading,
    suites,
    tasks,
    validate,
)
from sparse_circuits.commands.common import Output

VERBS: dict[str, Callable[..., Output]] = {
    "quickstart": models.quickstart,
    "demo": demo.demo,
    "data tokenizer": data.data_tokenizer,
    "data build": data.data_build,
    "train": models.train,
    "bundle": bundle.bundle,
    "model reference": models.model_reference,
    "model import": formats.model_import,
    "model export": formats.model_export,
    "model push": formats.model_push,
    "generate": models.generate,
    "tasks list": tasks.tasks_list,
    "tasks show": tasks.tasks_show,
    "tasks check": tasks.tasks_check,
    "tasks eval": tasks.tasks_eval,
    "tasks table": tasks.tasks_table,
    "prune": circuits.prune,
    "prune search": suites.prune_search,
    "circuit show": circuits.circuit_show,
    "circuit eval": circuits.circuit_eval,
    "circuit refine": circuits.circuit_refine,
    "circuit trace": reading.circuit_trace,
    "circuit attack": reading.circuit_attack,
    "circuit export": exports.circuit_export,
    "circuit import": published.circuit_import,
    "circuits run": suites.circuits_run,
    "circuits table": suites.circuits_table,
    "circuits ship": suites.circuits_ship,
    "circuits cards": suites.circuits_cards,
    "circuits verdicts": suites.circuits_verdicts,
    "frontier run": frontier.frontier_run,
    "frontier show": frontier.frontier_show,
    "validate": validate.validate,
    "report": circuits.report,
    "bench": bench.bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    # Before torch loads: its idle threads would otherwise spin on the core that the next kernel (or another program) needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = list(sys.argv[1:] if argv is None else argv)
    if given in (["--version"], ["version"]):
        print(__version__)  # noqa: T201 (the command's result)
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())  # noqa: T201 (the command's result)
        return 0
    verb = next((name for name in (" ".join(given[:2]), given[0]) if name in VERBS), None)
    if verb is None:
        return _fail(f"unknown verb {' '.join(given[:2])!r}; allowed: {', '.join(VERBS)}")
    try:
        arguments = _parse(verb, given[len(verb.split()) :])
        output = arguments()
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return _fail(_explain(error))
    try:
        print(json.dumps(output.data) if "--json" in given else output.text, flush=True)  # noqa: T201 (the command's result)
    except BrokenPipeError:  # whoever read us, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parse(verb: str, arguments: list[str]) -> Callable[[], Output]:
    """The verb's call with its options; tyro's boxed complaint becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            call = tyro.cli(
                _deferred(VERBS[verb]),
                prog=f"sparse-circuits {verb}",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = " ".join(said.getvalue().translate(str.maketrans("╭╮╰╯─│", "      ")).split())
        raise ValueError(f"{words.removeprefix('Parsing error ')}") from None
    return call


def _deferred(function: Callable[..., Output]) -> Callable[..., Callable[[], Output]]:
    """The same signature, but it returns the call instead of making it, so that only parsing happens inside tyro."""

    @wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Output]:
        return partial(function, *args, **kwargs)

    return bind


def _explain(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'while writing'}); nothing half-written was kept; free space and run again"
    return " ".join(str(error).split())


def _fail(message: str) -> int:
    print(f"sparse-circuits: {message}", file=sys.stderr)  # noqa: T201 (the one line of an error)
    return 2


def usage() -> str:
    """The verbs with their first lines."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    return "\n".join(["usage: sparse-circuits VERB [--help] [--json] ...", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
