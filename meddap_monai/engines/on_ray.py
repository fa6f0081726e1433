"""The engine of a Ray cluster: actors that open a task once and stay; lost ones are replaced.

The driver is the process that holds the folder's lock. What travels are names of tasks and lines of JSON.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import Generator, Iterator
from typing import Any

from meddap_monai import store
from meddap_monai.core.extras import install
from meddap_monai.core.progress import say
from meddap_monai.engines.backlog import Backlog, Unit
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.protocol import Answer, Engine
from meddap_monai.engines.task import Check, answering, head_of
from meddap_monai.errors import ConfigurationError, MissingPackage, StageError

_LOOK = 1.0
"""Seconds between two questions whether to stop."""
_COUNT = 2.0
"""Seconds between two counts of what the cluster holds."""
_TELL = 60.0
"""Seconds between two lines that say that no worker could be placed."""


class RayWorker:
    """What runs in an actor: one task, opened for its first unit."""

    def __init__(self, head: str) -> None:
        self._stack = contextlib.ExitStack()
        self._answer = self._stack.enter_context(answering(head))

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that decide results."""
        return store.versions()

    def answer(self, item: str) -> str:
        """Work on one unit."""
        return self._answer(item)


class RayEngine(Engine):
    """Units on a Ray cluster: that of ``RAY_ADDRESS``, one that was joined already, else one on this machine."""

    repeats = True

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray
        except ImportError as error:
            raise MissingPackage(f"engine#name is ray, which is not installed; {install('ray')}") from error
        self.ray: Any = ray
        self._opened = not ray.is_initialized()
        if self._opened:
            address = os.environ.get("RAY_ADDRESS") or "local"  # never one that Ray finds by itself
            check_address(address)
            own: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            own |= {"include_dashboard": config.dashboard, "num_cpus": self._own_cpus()} if address == "local" else {}
            ray.init(address=address, **own)

    def _own_cpus(self) -> int | None:
        """CPUs of a cluster of this machine: what the asked workers need, where that is more than there are."""
        wanted = self.config.workers * self.config.cpus
        return max(wanted, os.cpu_count() or 1) if wanted else None

    def close(self) -> None:
        """Leave the cluster, unless the caller had joined it."""
        if self._opened:
            self.ray.shutdown()

    def _answers(
        self, backlog: Backlog, task: str, settings: Any, gpus: bool | None, check: Check
    ) -> Generator[Answer, None, None]:
        with contextlib.closing(_Team(self.ray, self.config, task, settings, gpus)) as team:
            while not backlog.done:
                team.hire()
                for actor in team.idle():
                    if (unit := backlog.take()) is None:
                        break
                    team.give(actor, unit)
                check()
                yield from team.answers()


class _Team:
    """The actors of one map, those at work by what they will answer."""

    def __init__(self, ray: Any, config: EngineConfig, task: str, settings: Any, gpus: bool | None) -> None:
        self.ray, self.config = ray, config
        if gpus is None:
            gpus = ray.cluster_resources().get("GPU", 0) > 0
        self.needs = {"CPU": float(config.cpus), "GPU": config.gpus if gpus else 0.0, "memory": config.memory * 1e6}
        asked = {"num_cpus": config.cpus, "num_gpus": self.needs["GPU"]}
        asked |= {"memory": int(self.needs["memory"])} if config.memory else {}
        self._make = ray.remote(RayWorker).options(max_restarts=0, max_task_retries=0, **asked).remote
        self._head = head_of(task, settings, config.cpus)
        self._busy: dict[Any, tuple[Any, Unit | None]] = {}
        self._idle: list[Any] = []
        self._failed, self._begun, self._told = 0, False, time.monotonic()
        self._wanted, self._count_again = config.workers, 0.0

    def hire(self) -> None:
        """Ask for as many actors as are wanted, or as the cluster holds now."""
        if not self.config.workers and time.monotonic() >= self._count_again:
            self._count_again = time.monotonic() + _COUNT
            self._wanted = max(1, sum(self._fitting(node) for node in self.ray.nodes() if node["Alive"]))
        for _ in range(self._wanted - len(self._busy) - len(self._idle)):
            actor = self._make(self._head)
            self._busy[actor.versions.remote()] = (actor, None)
        if not self._begun and time.monotonic() - self._told > _TELL:
            self._told = time.monotonic()
            say(f"engine: waits for a machine with {self.needs}; the cluster has {self.ray.cluster_resources()}")

    def _fitting(self, node: dict[str, Any]) -> int:
        """Return how many actors one machine holds."""
        found = node["Resources"]
        return int(min(found.get(name, 0.0) // need for name, need in self.needs.items() if need))

    def idle(self) -> list[Any]:
        """Return the actors that have nothing to do."""
        return list(self._idle)

    def give(self, actor: Any, unit: Unit) -> None:
        """Let an idle actor work on a unit."""
        self._idle.remove(actor)
        self._busy[actor.answer.remote(unit.item)] = (actor, unit)

    def answers(self) -> Iterator[Answer]:
        """Yield (unit, answer, what happened to its worker) of what is ready, after a second at most."""
        ready, _ = self.ray.wait(list(self._busy), num_returns=1, timeout=_LOOK)
        if ready:
            ready, _ = self.ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)
        for promise in ready:
            actor, unit = self._busy.pop(promise)
            try:
                found = self.ray.get(promise)
            except self.ray.exceptions.RayError as error:
                self._lost(actor, error, unit)
                if unit is not None:
                    yield unit, "", f"was lost ({_sentence(error)})"
                continue
            self._idle.append(actor)
            if unit is None:
                self._check_versions(found)
            else:
                yield unit, found, ""

    def _lost(self, actor: Any, error: Exception, unit: Unit | None) -> None:
        """Let go of an actor; raise when none has ever begun."""
        self.ray.kill(actor)
        self._failed += unit is None
        if not self._begun and self._failed >= 2 * self.config.attempts:
            raise StageError(
                f"engine: no worker of the Ray cluster could begin, {self._failed} were lost ({_sentence(error)}); "
                "install the same meddap-monai on each machine"
            ) from error

    def _check_versions(self, found: dict[str, str]) -> None:
        self._begun = True
        if other := sorted(name for name, version in store.versions().items() if found.get(name) != version):
            raise StageError(
                f"engine: a machine of the Ray cluster has {other[0]} {found.get(other[0], 'not installed')}, this one "
                f"{store.versions()[other[0]]}; results would depend on who makes them, install equal versions"
            )

    def close(self) -> None:
        """End all actors."""
        for actor in [actor for actor, _ in self._busy.values()] + self._idle:
            self.ray.kill(actor)


def _sentence(error: Exception) -> str:
    """Return the first line of what Ray says, without its trace."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def check_address(address: str) -> None:
    """Refuse a cluster of other machines without Ray's token authentication: who reaches it, runs code there.

    Raises:
        ConfigurationError: ``RAY_AUTH_MODE`` is not ``token``.
    """
    if os.environ.get("RAY_AUTH_MODE") == "token" or _is_this_machine(address):
        return
    raise ConfigurationError(
        f"RAY_ADDRESS is {address!r}, a cluster of other machines, without token authentication: whoever reaches it "
        "runs code on it. Start it and this command with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN"
    )


def _is_this_machine(address: str) -> bool:
    host = address.removeprefix("ray://").rsplit(":", 1)[0].strip("[]")
    if host in ("local", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
