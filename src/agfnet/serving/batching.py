"""Questions of several requests share one pass through the network; a fixed number of requests is let in."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np

from agfnet.prediction.predictor import Array, Look
from agfnet.serving.problems import busy

Answers = Mapping[str, Array]
_Job = tuple[Sequence[Look], "Future[Answers]"]


class Door:
    """Lets in a fixed number of requests.

    Args:
        places: how many are inside at most.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.inside = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether the next one would be turned away."""
        return self.inside >= self.places

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside for as long as the context lasts.

        Raises:
            Problem: there is no place.
        """
        with self._lock:
            if self.full:
                raise busy()
            self.inside += 1
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1


class Batcher:
    """Micro-batching: one thread asks the network, with the looks of all requests that wait.

    Args:
        ask: looks -> every output, one row a look.
        batch: most looks of one pass: the network's memory grows with it.
        wait: how long a question waits for others, seconds.
        seen: called with the number of looks of each pass.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Look]], Answers],
        *,
        batch: int,
        wait: float,
        seen: Callable[[int], None] = lambda _looks: None,
    ) -> None:
        self._ask = ask
        self._batch = batch
        self._wait = wait
        self._seen = seen
        self._waiting: queue.Queue[_Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="agfnet-batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread.is_alive()

    def submit(self, looks: Sequence[Look]) -> Future[Answers]:
        """The answers to one question, later."""
        future: Future[Answers] = Future()
        self._waiting.put((looks, future))
        return future

    def close(self) -> None:
        """Answer what waits, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: _Job | None = None  # came when the batch before had no place for it
        open_ = True
        while open_ or held is not None:
            jobs, held, open_ = self._gather(held, open_=open_)
            wanted = [job for job in jobs if job[1].set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _gather(self, held: _Job | None, *, open_: bool) -> tuple[list[_Job], _Job | None, bool]:
        """The next questions, the one that has no place among them, and whether more may come."""
        jobs = [] if held is None else [held]
        until = None if held is None else time.monotonic() + self._wait
        while open_ and sum(len(looks) for looks, _ in jobs) < self._batch:
            try:
                job = self._waiting.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, None, False
            if jobs and sum(len(looks) for looks, _ in [*jobs, job]) > self._batch:
                return jobs, job, True
            jobs.append(job)
            until = until or time.monotonic() + self._wait
        return jobs, None, open_

    def _answer(self, jobs: Sequence[_Job]) -> None:
        try:
            looks = [look for own, _ in jobs for look in own]
            passes = [self._pass(looks[i : i + self._batch]) for i in range(0, len(looks), self._batch)]
            answers = {name: np.concatenate([made[name] for made in passes]) for name in passes[0]}
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait, and the thread must go on
            for _, future in jobs:
                future.set_exception(error)
            return
        first = 0
        for own, future in jobs:
            future.set_result({name: rows[first : first + len(own)] for name, rows in answers.items()})
            first += len(own)

    def _pass(self, looks: Sequence[Look]) -> Answers:
        answers = self._ask(looks)
        self._seen(len(looks))
        return answers
