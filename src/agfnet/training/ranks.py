"""The processes of one training: how many, which one this is, and that none outlives another."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only

from agfnet.types import AgfnetError, ConfigError

log = logging.getLogger("agfnet")

PARENT = "AGFNET_FIRST_PROCESS"
"""Environment variable with the id of the process that started this one."""
GRACE = 3.0
"""Seconds in which a process that lost another may end by itself, with its files closed."""
PATIENCE = timedelta(hours=2)
"""How long the others wait while the first process exports and evaluates a fold."""


class RankError(AgfnetError):
    """Another process of the training has ended."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run is trained on. No part of its configuration: it may be resumed on another number of devices.

    Attributes:
        devices: GPUs of each node, or processes where there is no GPU.
        nodes: machines; more than one are started by torchrun or SLURM.
        profile: measure what a step spends its time on.
    """

    devices: int = 1
    nodes: int = 1
    profile: bool = False

    @property
    def processes(self) -> int:
        """One for each device."""
        return self.devices * self.nodes

    def check(self, batch_size: int, validation: int) -> None:
        """Refuse what cannot work before anything is begun.

        Args:
            batch_size: cases of a step over all processes.
            validation: number of validation cases with a label.

        Raises:
            ConfigError: the batch does not divide, there are fewer GPUs or validation cases than asked for, or another
                number of processes was started.
        """
        n = self.processes
        if batch_size % n:
            near = max(n, round(batch_size / n) * n)
            raise ConfigError(
                f"training.batch_size={batch_size} is shared by {n} processes and does not divide; take {near}, say."
            )
        if batch_size == n:
            log.warning(
                "one case a step%s: batch normalisation keeps the statistics that the encoders came with. Take a "
                "training.batch_size of %d or more.", " and process" if n > 1 else "", 8 * n,
            )  # fmt: skip
        if validation < n:
            raise ConfigError(f"{validation} labelled validation cases for {n} processes; use fewer devices.")
        if torch.cuda.is_available() and self.devices > torch.cuda.device_count():
            raise ConfigError(f"--devices {self.devices}: this machine has {torch.cuda.device_count()} GPUs.")
        launcher, started = _launched()
        if launcher is None and self.nodes > 1:
            raise ConfigError(f"--nodes {self.nodes}: start the command on every node with torchrun or srun.")
        if launcher is not None and started != n:
            raise ConfigError(
                f"{launcher} has {started} processes, --devices {self.devices} --nodes {self.nodes} makes {n}; "
                "make them agree (SLURM: start the command with srun, one task for each device)."
            )
        if launcher == "SLURM" and n > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise ConfigError(f"SLURM: give the tasks as --ntasks-per-node={self.devices}, not as --ntasks.")

    def options(self) -> dict[str, Any]:
        """What Lightning's Trainer needs to know."""
        # Lightning's own requeueing would keep half an epoch, under names that nothing else here knows.
        slurm = [SLURMEnvironment(auto_requeue=False)] if _launched()[0] == "SLURM" else None
        if self.processes == 1:
            return {"devices": 1, "plugins": slurm}
        # Buffers are shared by the module itself: DDP would do so at every forward pass, also in validation, where
        # processes with one batch less would leave the others waiting. Some parameters get no gradient in some steps:
        # FRL's in steps without it, those of one view that look at others, in some encoders what no map is made of.
        strategy = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True, timeout=PATIENCE)
        return {"devices": self.devices, "num_nodes": self.nodes, "strategy": strategy, "plugins": slurm}


ALONE = Machine()
"""One device, one process."""


def rank() -> int:
    """The number of this process, from 0; before the Trainer is made, as the launcher has it."""
    return int(getattr(rank_zero_only, "rank", 0))


def first_process() -> bool:
    """Whether this process writes, reports, exports and evaluates; the others only train."""
    return rank() == 0


def _launched() -> tuple[str | None, int]:
    """Who started the processes, if not this command, and how many."""
    if TorchElasticEnvironment.detect():
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if SLURMEnvironment.detect():
        return "SLURM", int(os.environ["SLURM_NTASKS"])
    return None, 1


def started_together() -> bool:
    """Whether the other processes are there from the start; this command's own are started with the training."""
    return _launched()[0] is not None


class KeepTerminate(pl.Callback):
    """Leaves SIGTERM as the command has it: Lightning's handler talks to the other processes amid whatever they do."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Put it back: Lightning sets its own after `on_fit_start`."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


_others: list[subprocess.Popen[bytes]] = []
"""What this process started; they take part in all its trainings (folds)."""
_failed = threading.Event()
"""This process ends the others itself."""


@contextmanager
def together(machine: Machine) -> Iterator[None]:
    """Have all processes of a training here, and end all where one fails.

    Raises:
        RankError: another process has ended, or cannot be reached.
    """
    if machine.processes > 1 and _launched()[0] is None:
        if PARENT in os.environ:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which ends the others
            _watch(_first_is_gone)
        elif not _others:
            _start_others(machine)
            _watch(_other_is_gone)
    try:
        yield
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and _is_lost_connection(error)
        told = _reason() if lost else None
        _failed.set()
        for process in _others:
            process.kill()
        if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
            # Lightning's handler at the end of the process waits for the others, which wait for this one. What is
            # registered last is called first, once the error has been said.
            atexit.register(_leave)
        if told is not None:
            raise RankError(told) from error
        raise


def _leave() -> None:
    """End this process as it is."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _start_others(machine: Machine) -> None:
    """Start the same command once for each further device, as Lightning expects of an outside launcher."""
    import __main__  # noqa: PLC0415 - how this process was started

    spec = __main__.__spec__
    how = [sys.argv[0]] if spec is None else ["-m", spec.name]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "WORLD_SIZE": str(machine.processes),
        "NODE_RANK": "0",
        "LOCAL_RANK": "0",
    }
    for local in range(1, machine.processes):
        environment = {**os.environ, "LOCAL_RANK": str(local), PARENT: str(os.getpid())}
        _others.append(subprocess.Popen([sys.executable, *how, *sys.argv[1:]], env=environment))  # noqa: S603


def _watch(gone: Callable[[], str | None]) -> None:
    """Ask every moment whether another process is gone; then end this one, if it does not end by itself."""
    name = "other processes"
    if any(thread.name == name for thread in threading.enumerate()):
        return

    def look() -> None:
        while (message := gone()) is None:
            if _failed.wait(0.2):
                return
        for process in _others:
            process.kill()
        if message:
            time.sleep(GRACE)  # a connection that breaks is an error in the main thread, which may wait in vain, though
            log.error("%s", message)
            os._exit(1)

    threading.Thread(target=look, daemon=True, name=name).start()


def _first_is_gone() -> str | None:
    return None if os.getppid() == int(os.environ[PARENT]) else _ended("the first process")


def _other_is_gone() -> str | None:
    """What to say of a process that failed; nothing to say ("") where all have come to their end."""
    codes = [process.poll() for process in _others]
    for number, code in enumerate(codes, start=1):
        if code:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return _ended(f"process {number} ({how})")
    return "" if all(code == 0 for code in codes) else None


def _reason() -> str:
    """Why the connection was lost; a process that broke it takes a moment to be gone."""
    gone = _first_is_gone if PARENT in os.environ else _other_is_gone
    for _ in range(20 if _others or PARENT in os.environ else 0):
        if message := gone():
            return message
        time.sleep(0.1)
    return _ended("another process")


def _ended(who: str) -> str:
    return f"{who} of this training has ended; so do the others. What was finished is kept: go on with --resume."


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
