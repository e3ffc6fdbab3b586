from __future__ import annotations

import threading

import numpy as np
import pytest

from agfnet.data.dataset import EpochSampler
from agfnet.training.ranks import ALONE, Machine, _leave, together
from agfnet.types import ConfigError

LABELS = np.random.default_rng(0).integers(0, 3, 77)


def batches(rank: int, replicas: int, size: int = 77, batch: int = 12, epoch: int = 3) -> list[list[int]]:
    sampler = EpochSampler(LABELS[:size], batch=batch, shuffle=True, seed=5, rank=rank, replicas=replicas)
    sampler.set_epoch(epoch)
    drawn = [i for _, i in sampler]
    assert len(drawn) == len(sampler)
    own = batch // replicas
    return [drawn[first : first + own] for first in range(0, len(drawn), own)]


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("size", [77, 72, 73, 12])
def test_the_ranks_batches_together_are_the_batches_of_one_process(replicas, size):
    alone = batches(0, 1, size)
    shares = [batches(rank, replicas, size) for rank in range(replicas)]
    assert {len(share) for share in shares} == {len(alone)}
    for step, whole in enumerate(alone):
        assert sorted(i for share in shares for i in share[step]) == sorted(whole)


def test_no_case_twice_in_an_epoch_and_another_order_in_the_next():
    drawn = [i for rank in (0, 1) for b in batches(rank, 2) for i in b]
    assert len(drawn) == len(set(drawn)) == 72
    assert batches(0, 2, epoch=3) != batches(0, 2, epoch=4)


def test_every_rank_has_every_class_in_the_batchs_proportion():
    shares = [batches(rank, 3) for rank in range(3)]
    for step in range(6):
        counts = [np.bincount(LABELS[share[step]], minlength=3) for share in shares]
        assert np.ptp(counts, axis=0).max() <= 1


def test_fewer_cases_than_a_batch_are_one_step_for_every_rank():
    shares = [batches(rank, 2, size=7) for rank in (0, 1)]
    assert [len(share) for share in shares] == [1, 1]
    assert {i for share in shares for i in share[0]} == set(range(7))


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_validation_has_every_case_once(replicas):
    samplers = [EpochSampler(LABELS, batch=8, shuffle=False, rank=r, replicas=replicas) for r in range(replicas)]
    assert sorted(i for sampler in samplers for _, i in sampler) == list(range(77))
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]


def test_every_rank_has_validation_cases_with_a_label():
    labels = [-1, 0, -1, 1, -1, 2, -1, 0]
    samplers = [EpochSampler(labels, batch=8, shuffle=False, rank=r, replicas=2) for r in (0, 1)]
    assert [sum(labels[i] >= 0 for _, i in sampler) for sampler in samplers] == [2, 2]


def test_what_does_not_fit_the_machine_is_said(monkeypatch):
    with pytest.raises(ConfigError, match=r"batch_size=16 is shared by 3 processes .* take 15"):
        Machine(devices=3).check(16, 100)
    with pytest.raises(ConfigError, match="1 labelled validation cases for 2 processes"):
        Machine(devices=2).check(16, 1)
    with pytest.raises(ConfigError, match="torchrun or srun"):
        Machine(nodes=2).check(16, 100)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(ConfigError, match="SLURM has 4 processes"):
        Machine(devices=2).check(16, 100)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(ConfigError, match="--ntasks-per-node=2"):
        Machine(devices=2, nodes=2).check(16, 100)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    Machine(devices=2, nodes=2).check(16, 100)


def test_after_an_error_a_process_does_not_wait_for_those_that_wait_for_it(monkeypatch):
    """As Lightning's handler would, which ends the group of NCCL when the process does."""
    called = []
    monkeypatch.setattr("agfnet.training.ranks._failed", threading.Event())
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    monkeypatch.setattr("atexit.register", called.append)
    with pytest.raises(ZeroDivisionError), together(ALONE):
        raise ZeroDivisionError
    assert called == [_leave]
    called.clear()
    with together(ALONE):
        pass
    assert called == []


def test_the_order_of_an_epoch_is_of_its_seed():
    orders = [list(EpochSampler([0, 1] * 20, batch=4, shuffle=True, seed=seed)) for seed in (5, 6, 5)]
    assert orders[0] == orders[2] != orders[1]
