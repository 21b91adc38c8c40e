"""How things are measured: in turns, with a warm-up, by the median; memory in a process of its own."""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def in_turns(contenders: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """The median seconds of each contender; they take turns, after one warm-up each, and print nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                started = time.perf_counter()
                run()
                elapsed = time.perf_counter() - started
            if turn:
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def process_seconds(contenders: Mapping[str, list[str]], repeats: int = 5) -> dict[str, float]:
    """The median seconds of whole Python processes, by their arguments, in turns."""

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, check=True, capture_output=True)

    return in_turns(
        {name: lambda arguments=arguments: run(arguments) for name, arguments in contenders.items()}, repeats
    )


PEAK = """
import resource, threading, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
import torch, tracer, tracer.steps.delivery, passes.files.writer, passes.lowering.onnx_lowering
{setup}
before, peak, done = resident(), 0, threading.Event()
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, resident())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
{work}
done.set()
watcher.join()
print(peak - before)
"""


def peak_bytes(setup: str, work: str) -> int:
    """By how much a process grows beyond what it holds when everything is imported and `setup` has run, at its peak."""
    code = PEAK.format(setup=setup, work=work)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
