"""Ray, as far as it is needed: which nodes there are, to ask one, to reserve one, and to hear of it or of its end."""

import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from bench import signals
from bench.errors import UserError
from bench.launchers import _agent, _node
from bench.launchers.contract import Job, Settings

ANSWERS_S = 10.0
"""That a cluster may take to answer at all."""
ASKED_S = 300.0
"""That a node may take to say who it is: the first time, it reads its libraries from a file system that all read."""


class Lost(Exception):
    """A node, or its process, has ended; says how."""


@dataclass(frozen=True)
class Node:
    """A node as the cluster knows it: its id and name, and all its CPUs and GPUs as resources of tasks."""

    id: str
    name: str
    cpus: float
    gpus: float


class Cluster:
    """A Ray cluster.

    Args:
        address: of it; "": that of ``RAY_ADDRESS``, or of the one that this machine belongs to.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        self.ray = _connected(address)
        affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        self._on = lambda node: affinity(node_id=node.id, soft=False)

    def nodes(self) -> list[Node]:
        """Those that are alive and take tasks, in order of name."""
        known = self.ray.nodes()
        hosts = Counter(one["NodeManagerHostname"] for one in known)
        found = []
        for one in known:
            cpus, gpus = (one["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU"))
            host, name = one["NodeManagerHostname"], one["NodeID"]
            if one["Alive"] and cpus + gpus:
                found.append(Node(name, host if hosts[host] == 1 else f"{host}/{name[:6]}", cpus, gpus))
        return sorted(found, key=lambda node: (node.name, node.id))

    def about(self) -> list[tuple[Node, _node.About]]:
        """Who all nodes are.

        Raises:
            UserError: one does not say, or has another densebench than this machine; names it.
        """
        ask = self.ray.remote(_agent.ask)
        asked = [
            (node, ask.options(num_cpus=0, max_retries=0, scheduling_strategy=self._on(node)).remote("about"))
            for node in self.nodes()
        ]
        if not asked:
            raise UserError("no node of the cluster has CPUs or GPUs for tasks")
        found: list[tuple[Node, _node.About]] = []
        for node, reference in asked:
            try:
                found.append((node, self.answer(reference)))
            except Lost as lost:
                raise UserError(f"node {node.name} cannot take part: {lost}") from lost
            if why := differs(found[-1][1]):
                raise UserError(f"node {node.name}: {why}")
        return found

    def meet(self, node: Node, needs: _node.Needs) -> Any:
        """Ask a node who it is, and why it cannot take jobs; an answer to wait for."""
        ask = self.ray.remote(_met)
        return ask.options(num_cpus=0, max_retries=0, scheduling_strategy=self._on(node)).remote(needs)

    def reserve(self, node: Node) -> Any:
        """The agent of a node that is there for it alone, once others have left it."""
        whole = {"num_cpus": node.cpus, "num_gpus": node.gpus, "max_restarts": 0}
        return self.ray.remote(_agent.Agent).options(scheduling_strategy=self._on(node), **whole).remote()

    def arrived(self, agent: Any) -> Any:
        """An answer to wait for, which comes when an agent runs."""
        return agent.ask.remote("about")

    def run(self, agent: Any, jobs: Sequence[Job], settings: Settings) -> Any:
        """Events of jobs, to wait for one by one."""
        results = settings.pictures.parent.parent.absolute()
        return agent.run.options(num_returns="streaming").remote(jobs, settings, results, Path.cwd())

    def ready(self, waited: list[Any], seconds: float) -> list[Any]:
        """What of that has come; waits up to so many seconds for the first."""
        if not waited:
            return []

        def wait() -> list[Any]:
            self.ray.wait(waited, timeout=seconds)
            return self.ray.wait(waited, num_returns=len(waited), timeout=0)[0]

        return self._aside(wait)

    def answer(self, reference: Any) -> Any:
        """What was waited for.

        Raises:
            Lost: it will never come.
        """
        with self._loss():
            return self._aside(self.ray.get, reference, timeout=ASKED_S)

    def next(self, stream: Any) -> _node.Batch | None:
        """The next of a stream that is ready; None: it has ended.

        Raises:
            Lost: there will be no more.
        """
        with self._loss():
            reference = self._aside(next, stream, None)
            return None if reference is None else self._aside(self.ray.get, reference, timeout=ASKED_S)

    def end(self, agent: Any) -> None:
        """End an agent, and so all that it runs; None: there is none."""
        if agent is not None:
            with suppress(Exception):  # it may have ended with its node, or with the cluster
                self.ray.kill(agent, no_restart=True)

    def _aside(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What a call of Ray returns: in another thread, for in this one a signal would end in the middle of it."""
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                answers.put((call(*arguments, **named), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                answers.put((None, error))

        Thread(target=work, daemon=True).start()  # nobody waits for it at the end
        answer, error = answers.get()
        if error is not None:
            raise error
        return answer

    @contextmanager
    def _loss(self) -> Iterator[None]:
        exceptions = self.ray.exceptions
        try:
            yield
        except exceptions.RayTaskError as error:
            cause = error.cause
            known = str(cause) if isinstance(cause, _agent.Ended) else f"{type(cause).__name__}: {cause}"
            raise Lost(known.strip().partition("\n")[0]) from error
        except exceptions.GetTimeoutError as error:
            raise Lost(f"no answer within {ASKED_S:g} s") from error
        except exceptions.RayError as error:
            raise Lost("Ray hears nothing of it any more" + _cause(error)) from error


def differs(about: _node.About) -> str:
    """Why what a node measures would not be what was planned here; "" where it would."""
    if about.code == _node.code():
        return ""
    return (
        f"its densebench is another one (files {about.code}, commit {about.environment.git}; here {_node.code()}); "
        "install the same on all nodes, or on a file system that they share"
    )


def _met(needs: _node.Needs) -> tuple[_node.About, str]:
    agent = _agent.Agent()
    try:
        return agent.ask("about"), agent.ask("look", needs)
    finally:
        agent.close()


def _cause(error: Exception) -> str:
    """What Ray says of it in the first line, if anything."""
    first = str(error).strip().partition("\n")[0][:120]
    return f" ({first})" if first else ""


@cache
def _connected(address: str) -> Any:
    """Ray, connected once a process."""
    # It asks the network who uses it, and colours what it logs, unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UserError(f"--launcher ray needs Ray ({error}): pip install 'densebench[ray]'") from error
    # It would print the logs of whatever dies to stdout, where tables go, and has no switch for it.
    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "listen_error_messages"):
        worker.listen_error_messages = lambda *_: None
    heard = {number: signal.getsignal(number) for number in signals.HEARD}
    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _answers(where)
        if not ray.is_initialized():
            ray.init(address=where, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        named = f"at {where}" if where != "auto" else "on this machine, and RAY_ADDRESS names none"
        said = " ".join(str(error).split())[:120]
        raise UserError(
            f"no Ray cluster answers {named} ({said}); start one as docs/cluster.md says, and name it with "
            "--address HOST:PORT"
        ) from error
    finally:
        for number, handler in heard.items():
            with suppress(ValueError, TypeError):  # in another thread than the main one there is none to set
                signal.signal(number, handler)  # Ray takes SIGTERM for itself
    return ray


def _answers(address: str) -> None:
    """See that somebody listens there, which Ray would try for many minutes.

    Raises:
        OSError: nobody does. ValueError: it is none of a cluster itself.
    """
    if "://" in address:
        raise ValueError("it is one of Ray's client, and that of the cluster itself is wanted")
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_S).close()
