"""A real Ray on this machine: a head without room for workers, and nodes, in a private folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil


class LocalRay:
    """A running Ray."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        """The address of the head."""
        return str(self.cluster.gcs_address)

    def actors(self, kind: str) -> list[psutil.Process]:
        """Return the processes of its actors of a kind."""
        own = str(self.folder)
        return [p for p in processes(f"ray::{kind}") if variable(p, "RAY_TMPDIR") == own]

    def set_nodes(self, count: int) -> None:
        """Add or remove nodes of one CPU each."""
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        while len(self.nodes) > count:
            self.remove(self.nodes[-1])

    def remove(self, node: Any) -> None:
        """Kill a node, as a power cut does."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def local_ray() -> Iterator[LocalRay]:
    """Start a Ray without nodes, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # its sockets need a short path
    (folder / "ray").mkdir()
    variables = {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    with mock.patch.dict(os.environ, variables):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield LocalRay(cluster, folder)
        finally:
            nodes = [*cluster.worker_nodes, cluster.head_node]
            for node in nodes:
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            shutil.rmtree(folder, ignore_errors=True)


def processes(*words: str) -> list[psutil.Process]:
    """Return the processes whose command line holds all of these words."""
    alive = psutil.process_iter(["cmdline", "status"])
    return [
        process
        for process in alive
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and all(word in " ".join(process.info["cmdline"] or []) for word in words)
    ]


def variable(process: psutil.Process, name: str) -> str:
    """Return a variable of a process's environment; "" if it lacks it, or has just ended."""
    try:
        return process.environ().get(name, "")
    except psutil.NoSuchProcess:
        return ""
