"""Worker processes: results as they come, an error or a death that stays its own, and no process left behind."""

import math
import multiprocessing
import operator
import os
import subprocess
import sys
import time

import psutil
import pytest

from refusals import refused
from sparse_circuits.executors import THREAD_VARIABLES, Here, Processes


def test_a_call_that_fails_does_not_lose_the_others() -> None:
    calls = [(6, 3), (1, 0), (8, 2)]
    for executor in (Here(), Processes(workers=3)):
        found = sorted(executor.run(operator.truediv, calls))
        assert [(outcome.number, outcome.value) for outcome in found] == [(0, 2.0), (1, None), (2, 4.0)]
        failure = found[1].failure
        assert failure is not None and failure.error == "ZeroDivisionError: division by zero"
        assert "Traceback" in failure.trace and found[0].failure is None


def test_a_message_for_users_is_passed_on_as_it_is() -> None:
    (found,) = Here().run(math.sqrt, [(-1.0,)])
    assert found.failure is not None and not found.failure.error.startswith("ValueError")


def test_a_process_that_dies_is_a_failure() -> None:
    (found,) = Processes(workers=1).run(os._exit, [(7,)])
    assert found.failure is not None and "exit code 7" in found.failure.error


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    executor = Processes(workers=1)
    (found,) = executor.run(os.getenv, [("OMP_NUM_THREADS",)])
    assert found.value == str(executor.threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert executor.threads == cores and Processes(workers=10 * cores).threads == 1


def test_leaving_early_stops_what_still_runs() -> None:
    begun = time.monotonic()
    outcomes = Processes(workers=2).run(time.sleep, [(0.0,), (300.0,), (300.0,)])
    assert next(outcomes).number == 0
    outcomes.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == [] and time.monotonic() - begun < 60


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time\nfrom sparse_circuits.executors import Processes\n"
        "for found in Processes(workers=2).run(time.sleep, [(0.0,), (300.0,)]):\n    print(found, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None and b"Outcome" in parent.stdout.readline()
        workers = psutil.Process(parent.pid).children()
        parent.kill()
        assert workers and psutil.wait_procs(workers, timeout=100)[1] == []


def test_no_workers() -> None:
    with refused("workers must be at least 1, given 0"):
        Processes(workers=0)
