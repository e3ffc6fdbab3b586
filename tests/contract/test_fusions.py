from __future__ import annotations

from typing import ClassVar

import torch
from fusion_contract import FusionContract, distributed_steps
from safetensors.torch import load

from agfnet.models.peers import FUSIONS


class TestAttentionGuidedFusion(FusionContract):
    fusion = "agf"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestConcatenation(FusionContract):
    fusion = "concatenation"


class TestGating(FusionContract):
    fusion = "gating"


class TestMultimodalTransfer(FusionContract):
    fusion = "mmtm"


class TestBottleneck(FusionContract):
    fusion = "bottleneck"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestCrossAttention(FusionContract):
    fusion = "cross_attention"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestWithoutLocal(FusionContract):
    fusion = "agf_without_local"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestWithoutGlobal(FusionContract):
    fusion = "agf_without_global"
    options: ClassVar[dict[str, object]] = {"width": 32}


def test_every_fusion_has_its_contract():
    tested = {c.fusion for c in FusionContract.__subclasses__()}
    assert tested == set(FUSIONS)


def test_two_processes_with_modality_dropout(tmp_path):
    """Two gloo processes, each with batches in which a view is absent throughout, finish and agree."""
    fusions = [(contract.fusion, contract.options) for contract in FusionContract.__subclasses__()]
    torch.multiprocessing.start_processes(distributed_steps, (fusions, str(tmp_path)), nprocs=2, start_method="spawn")
    for fusion, _ in fusions:
        first, second = (load((tmp_path / f"{fusion}-{rank}.safetensors").read_bytes()) for rank in (0, 1))
        for name, value in first.items():
            if "running_" not in name and "num_batches" not in name:
                assert torch.equal(value, second[name]), (fusion, name)
