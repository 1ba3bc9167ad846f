"""Who runs the points: an `Executor` takes one function and many argument tuples and yields each outcome as it is there.

Processes: every call gets a process of its own (spawned, so nothing is inherited), at most `workers` at a time, each with
its share of the cores. A call that raises, or whose process is killed, is an outcome with an error; the others go on. If
this process ends, the calls end with it: on leaving the loop they are stopped, and one that loses its parent stops itself.

Here runs them one after another in this process. A cluster's executor needs the same one method: functions are top-level
ones of the package and arguments plain values, so both can be sent anywhere.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, runtime_checkable

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Failure(NamedTuple):
    """Why a call has no result."""

    error: str
    """One line."""
    trace: str
    """The traceback; empty where the process died without one."""


class Outcome(NamedTuple):
    """One finished call."""

    number: int
    """Its place among the calls, from 0."""
    value: Any
    """What the function returned; None where it failed."""
    failure: Failure | None


@runtime_checkable
class Executor(Protocol):
    """Runs calls of one function, in any order and anywhere."""

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Outcome]:
        """Yields one outcome per call, as they finish. `function` is importable by name, arguments and results plain values."""
        ...


class Here:
    """One call after another, in this process."""

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Outcome]:
        """Yields one outcome per call, in order; KeyboardInterrupt passes through."""
        for index, arguments in enumerate(calls):
            yield Outcome(index, *_attempt(function, arguments))


@dataclass(frozen=True, kw_only=True)
class Processes:
    """At most `workers` processes of this machine at a time. Raises ValueError for less than one."""

    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, given {self.workers}")

    @property
    def threads(self) -> int:
        """Threads of each worker: its share of the cores this process may use."""
        return max(1, _cores() // self.workers)

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Outcome]:
        """Yields one outcome per call, as they finish; leaving the loop early stops the calls that still run."""
        waiting = deque(enumerate(calls))
        running: dict[Connection, tuple[int, BaseProcess]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    index, arguments = waiting.popleft()
                    receiver, process = self._start(function, arguments)
                    running[receiver] = index, process
                ready = wait(list(running))
                for receiver in [one for one in running if one in ready]:
                    index, process = running.pop(receiver)
                    yield Outcome(index, *_receive(receiver, process))
        finally:
            for _, process in running.values():
                process.terminate()
                process.join()

    def _start(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Connection, BaseProcess]:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, self.threads, function, arguments), daemon=True)
        process.start()
        sender.close()  # ours; when the worker's own closes, for whatever reason, the receiver hears of it
        return receiver, process


def _receive(receiver: Connection, process: BaseProcess) -> tuple[Any, Failure | None]:
    try:
        found = receiver.recv()
    except (EOFError, OSError):
        process.join()
        return None, Failure(f"its process died with exit code {process.exitcode}; it may have run out of memory", "")
    finally:
        receiver.close()
    process.join()
    return found


def _work(sender: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops its workers
    for variable in THREAD_VARIABLES:  # libraries read them when they are loaded, which `function` does
        os.environ.setdefault(variable, str(threads))
    if "torch" in sys.modules:  # loaded already by the script that called us
        sys.modules["torch"].set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(_attempt(function, arguments))
    sender.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Failure | None]:
    try:
        return function(*arguments), None
    except Exception as error:
        said = " ".join(str(error).split())
        expected = isinstance(error, ValueError | OSError) and said
        line = said if expected else f"{type(error).__name__}: {said}".rstrip(": ")
        return None, Failure(line, traceback.format_exc())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
