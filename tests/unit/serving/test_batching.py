from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from agfnet.serving.batching import Batcher, Door
from agfnet.serving.problems import Problem


def look(value):
    return {"clinical": np.full((3, 2, 2), value, np.float32)}


def mean_of(looks):
    return {"mean": np.array([[one["clinical"].mean()] for one in looks])}


def test_each_question_gets_its_own_answers():
    sizes = []
    batcher = Batcher(mean_of, batch=8, wait=0.05, seen=sizes.append)
    counts = [1 + i % 3 for i in range(30)] + [20]
    futures = [batcher.submit([look(100 * i + j) for j in range(n)]) for i, n in enumerate(counts)]
    for i, (n, future) in enumerate(zip(counts, futures, strict=True)):
        assert future.result(5)["mean"][:, 0].tolist() == [100 * i + j for j in range(n)]
    batcher.close()
    assert sum(sizes) == sum(counts)
    assert max(sizes) == 8
    assert len(sizes) < 15


def test_a_lone_question_does_not_wait_for_long():
    batcher = Batcher(mean_of, batch=8, wait=0.05)
    started = time.monotonic()
    batcher.submit([look(1)]).result(5)
    assert time.monotonic() - started < 1.0
    batcher.close()


def test_a_fault_belongs_to_those_who_asked(caplog):
    def ask(looks):
        if any(one["clinical"].mean() < 0 for one in looks):
            raise RuntimeError("broken")
        return mean_of(looks)

    batcher = Batcher(ask, batch=1, wait=0.0)
    bad, good = batcher.submit([look(-1)]), batcher.submit([look(4)])
    with pytest.raises(RuntimeError, match="broken"):
        bad.result(5)
    assert good.result(5)["mean"][0, 0] == 4
    batcher.close()
    assert not caplog.records  # who asked knows of which request it is


def test_closing_answers_what_waits_and_cancelled_questions_are_not_asked():
    asked, begun, goes_on = [], threading.Event(), threading.Event()

    def ask(looks):
        begun.set()
        goes_on.wait(5)
        asked.extend(one["clinical"].mean() for one in looks)
        return mean_of(looks)

    batcher = Batcher(ask, batch=1, wait=0.0)
    first = batcher.submit([look(1)])
    begun.wait(5)
    second, third = batcher.submit([look(2)]), batcher.submit([look(3)])
    second.cancel()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    goes_on.set()
    closing.join(5)
    assert first.done()
    assert third.result(0)["mean"][0, 0] == 3
    assert asked == [1, 3]


def test_the_door_lets_in_so_many():
    door = Door(2)
    with door.entered():
        with door.entered():
            assert door.full
            with pytest.raises(Problem) as refused, door.entered():
                pass
            assert refused.value.status == 503
            assert refused.value.headers == {"Retry-After": "1"}
        assert not door.full
    assert door.inside == 0


def test_answers_that_do_not_fit_together_are_a_fault_of_theirs_alone():
    def ask(looks):
        return mean_of(looks) if looks[0]["clinical"].mean() > 0 else {"mean": np.zeros((1, len(looks), 5))}

    batcher = Batcher(ask, batch=1, wait=0.0)
    bad, good = batcher.submit([look(4), look(-1)]), batcher.submit([look(4)])
    with pytest.raises(ValueError, match="dimension"):
        bad.result(5)
    assert good.result(5)["mean"][0, 0] == 4
    assert batcher.alive
    batcher.close()
    assert not batcher.alive
