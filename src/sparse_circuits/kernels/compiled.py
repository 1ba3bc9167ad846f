"""Compiling a kernel with numba (`njit`) at first use, and sharing its rows among threads.

The kernels are serial and release the interpreter lock; rows are shared by a small pool of Python threads, which sleep
between calls. numba's own `parallel=True` is worse: with OpenMP its threads and torch's spin against each other, its
`workqueue` layer aborts the process when two threads call it, and either choice is global to the process.

A kernel may refer to modules only, never to another compiled function: numba would then not find it in its disk cache.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

ENTRIES_PER_THREAD = 1 << 17
"""Fewer entries than this are not worth waking another thread for."""


@cache
def njit_cached(function: Callable[..., None], reorder: bool = False) -> Callable[..., None]:
    """The compiled function; the result is kept on disk where numba finds a folder it may write to.

    reorder: whether sums may be taken in another order (and multiply-adds fused), so that they are vectorised.
    """
    import numba

    fast = {"reassoc", "contract", "nsz"} if reorder else False  # not NaN or infinity: those must stay what they are
    try:
        return numba.njit(nogil=True, cache=True, fastmath=fast)(function)
    except RuntimeError:  # no writable folder for the cache: compile in every process
        return numba.njit(nogil=True, fastmath=fast)(function)


def over_rows(kernel: Callable[..., None], arrays: tuple[np.ndarray, ...], *settings: Any) -> None:
    """Calls kernel(*arrays, *settings), the first axis of the arrays split among torch's number of threads."""
    rows, entries = len(arrays[0]), arrays[0].size
    parts = max(1, min(torch.get_num_threads(), rows, entries // ENTRIES_PER_THREAD))
    step = -(-rows // parts)
    pieces = [tuple(array[start : start + step] for array in arrays) for start in range(0, rows, step)]
    waiting = [_pool(os.getpid(), parts).submit(kernel, *piece, *settings) for piece in pieces[1:]]
    kernel(*pieces[0], *settings)
    for future in waiting:
        future.result()


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs independent jobs, as many at once as torch has threads. The jobs may call `over_rows`: its threads are others."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads < 2:
        for job in jobs:
            job()
        return
    for future in [_outer_pool(os.getpid(), threads).submit(job) for job in jobs]:
        future.result()


@cache
def _outer_pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 (threads do not survive a fork)
    return ThreadPoolExecutor(threads, thread_name_prefix="sparse_circuits_jobs")


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 (threads do not survive a fork)
    return ThreadPoolExecutor(threads, thread_name_prefix="sparse_circuits")
