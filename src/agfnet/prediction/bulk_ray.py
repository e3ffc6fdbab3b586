"""Ray Data as the engine of bulk prediction: past one machine, part by part, in a pool of actors."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from agfnet.prediction.bulk_part import PartPredictor
from agfnet.prediction.bulk_plan import read_work
from agfnet.prediction.predictor import Predictor
from agfnet.types import AgfnetError, ConfigError

_BLOCKS_PER_WORKER = 64
_STORE_BYTES = 100 * 2**20
"""Object store of a local Ray: what passes through it are the numbers of parts."""


def predicted_parts(
    folder: Path, source: Path, todo: Sequence[int], *, threads: int, workers: int | None, address: str | None
) -> Iterator[int]:
    """Predict parts, and give the number of each as it is done, in any order.

    What passes through Ray are the parts' numbers: each worker reads its rows from the plan and writes its results. A
    part whose worker dies is done by another.

    Args:
        folder: planned; the cluster's machines must all see it, the bundle and the images under the same paths.
        source: the run folder or bundle.
        todo: the parts.
        threads: processor threads of each worker.
        workers: their number; None: as many as the cluster has processors (and GPUs) for.
        address: of the cluster; None starts one on this machine, and stops it at the end.

    Raises:
        AgfnetError: a worker says what the user can put right.
        ConfigError: there is no such cluster, or it is too small.
    """
    with cluster(address, None if workers is None else workers * threads):
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        processors, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        gpu = int(read_work(folder).settings.provider == "cuda")  # Ray shows each worker its own
        most = min(processors // threads, gpus) if gpu else processors // threads
        count = min(workers or most, len(todo))
        if not 0 < count <= most:
            has, each = (f" and {gpus} GPUs", " and a GPU") if gpu else ("", "")
            raise ConfigError(
                f"the cluster has {processors} processors{has}, too few for {workers or 1} workers of {threads} threads"
                f"{each}. Ask for fewer with --workers and --threads."
            )
        parts = ray.data.from_items(
            [{"part": part} for part in todo], override_num_blocks=min(len(todo), _BLOCKS_PER_WORKER * count)
        )
        done = parts.map_batches(
            _Worker,
            fn_constructor_args=(folder, source.resolve(), threads),
            batch_size=1,
            num_cpus=threads,
            num_gpus=gpu,
            # One part is at work and one block waits, so that at the end no worker sits on what others could do.
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
        )
        # Not iter_rows: if it is left early, its threads go on, and Ray ends a process that asks it after its shutdown.
        for bundle in done.iter_internal_ref_bundles():
            for row in chain.from_iterable(block.to_pylist() for block in ray.get(bundle.block_refs)):
                if row["error"]:
                    raise AgfnetError(row["error"])
                yield int(row["part"])


class _Worker:
    """One actor: an ONNX Runtime session, opened with the first part.

    What a user can put right comes back as a row: an exception would reach the driver wrapped in Ray's own.
    """

    def __init__(self, folder: Path, source: Path, threads: int) -> None:
        self.folder, self.source, self.threads = folder, source, threads

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64] | list[str]]:
        try:
            self.predict(int(batch["part"][0]))
        except (AgfnetError, OSError) as error:
            return {"part": batch["part"], "error": [f"{platform.node()}: {error}"]}
        return {"part": batch["part"], "error": [""]}

    @cached_property
    def predict(self) -> PartPredictor:
        settings = read_work(self.folder).settings
        predictor = Predictor(
            self.source, threads=self.threads, provider=settings.provider, prevalence=settings.prevalence
        )
        return PartPredictor(self.folder, predictor)


@contextmanager
def cluster(address: str | None, processors: int | None) -> Iterator[None]:
    """A connection to Ray: the one that there is, that of an address, or a Ray of one's own on this machine.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the warnings are about progress bars and sign-on
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"num_cpus": processors, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else own))
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--address {address!r}: no Ray cluster answers ({error}). Correct it.") from error
    try:
        yield
    finally:
        ray.shutdown()
