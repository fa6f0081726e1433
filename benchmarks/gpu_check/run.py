"""One part after another, each in a process of its own, and one JSON that always holds what is known."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a GPU must not open it before a fork

import torch

from benchmarks.gpu_check import paths, speed
from meddap_monai import store

SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """What every part is given.

    Attributes:
        device: "cuda" or "cpu".
        toy: tiny networks.
        seconds: per measurement.
        folder: for its files, removed afterwards.
        peak: TFLOP/s of a large bfloat16 product on this device; 0 before it was measured.
    """

    device: str
    toy: bool
    seconds: float
    folder: Path
    peak: float = 0.0


Part = tuple[float, Callable[[Job], dict[str, Any]]]
PARTS: dict[str, Part] = {"device": (20.0, speed.describe_device), **paths.PARTS, **speed.PARTS}
"""Name -> seconds that it is given at least, and what it does; the order is the order of work."""


def run(options: argparse.Namespace) -> int:
    """Do what the JSON does not hold yet; return 1 where a part failed."""
    began, found = time.monotonic(), _known(options)
    forks = _can_fork(options.device)
    for name in options.only or PARTS:
        left = options.budget - (time.monotonic() - began)
        if found["parts"].get(name, {}).get("error", "not done") is None:
            continue
        if left < PARTS[name][0] and not options.toy:
            print(f"{name}: left for the next call, {left:.0f} s are left", flush=True)
            continue
        found["parts"][name] = part = _do(name, options, found, left, forks)
        store.write_json(options.output, found)
        print(f"{name}: {part['error'] or 'done'} ({part['seconds']:.1f} s)", flush=True)
    missing = [name for name in PARTS if name not in found["parts"]]
    failed = [name for name, part in found["parts"].items() if part["error"]]
    print(f"{options.output}: {len(found['parts'])} parts; failed: {failed or 'none'}; not done: {missing or 'none'}")
    return 1 if failed else 0


def _known(options: argparse.Namespace) -> dict[str, Any]:
    """What an earlier call found, on the same kind of device; else nothing."""
    told = {"schema": SCHEMA, "device": options.device, "toy": options.toy, "versions": store.versions()}
    if options.output.exists():
        known: dict[str, Any] = store.read_json(options.output)
        if {key: known.get(key) for key in told} == told:
            return known
    return told | {"parts": {}}


def _do(name: str, options: argparse.Namespace, found: dict[str, Any], left: float, forks: bool) -> dict[str, Any]:
    """Do a part in a process of its own and wait at most `left` seconds for it."""
    began = time.monotonic()
    peak = found["parts"].get("device", {}).get("bf16_tflops") or 0.0
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        job = Job(options.device, options.toy, options.seconds, Path(folder), peak)
        status = _wait(_start(name, job, answer, forks), left if not options.toy else float("inf"))
        if answer.exists():
            result: dict[str, Any] = store.read_json(answer)
        else:
            result = {"error": f"not done after {left:.0f} s" if status is None else f"its process ended with {status}"}
    return result | {"seconds": round(time.monotonic() - began, 1)}


def _start(name: str, job: Job, answer: Path, forks: bool) -> int:
    """Start a part: forked, which has the libraries loaded already, or in a fresh interpreter; return its process."""
    sys.stdout.flush()
    if not forks:
        given = json.dumps(store.plain(job))
        program = f"from benchmarks.gpu_check.run import again; again({name!r}, {given!r}, {str(answer)!r})"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return os.posix_spawn(sys.executable, [sys.executable, "-c", program], environment, setsid=True)
    process = os.fork()  # not multiprocessing's: in its children the online generator rightly refuses CUDA
    if process == 0:
        os.setsid()
        work(name, job, answer)
        os._exit(0)
    return process


def again(name: str, given: str, answer: str) -> None:
    """Do a part in a fresh interpreter."""
    fields = json.loads(given)
    work(name, Job(**fields | {"folder": Path(fields["folder"])}), Path(answer))


def work(name: str, job: Job, answer: Path) -> None:
    """Do a part and write what it found, or its error."""
    torch.set_num_threads(min(8, os.cpu_count() or 1) if not job.toy else 1)
    if job.toy:
        torch.compiler.set_stance("force_eager")  # a processor's compiler takes minutes
    try:
        found = PARTS[name][1](job) | {"error": None}
    except BaseException as error:
        lines = traceback.format_exc().splitlines()[-16:]
        found = {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": lines}
    store.write_json(answer, found)


def _wait(process: int, seconds: float) -> int | None:
    """Return the exit status of a process, or None when it was ended after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _can_fork(device: str) -> bool:
    """Tell whether a forked process can use the device: not where a library has opened it while it was imported."""
    process = os.fork()
    if process == 0:
        try:
            torch.zeros(1, device=device).add(1).item()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return _wait(process, 60.0) == 0
