"""A run on CUDA devices, FSDP2 over NCCL, gives the CPU's curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models import tiny_model_folder
from tests.unit.trainer.ranked import Plan, alone, together
from tests.unit.trainer.test_ranks import SETTINGS, WEIGHED


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["whole", "lora"])
def test_cuda_ranks_give_the_curve_of_the_cpu(tmp_path: Path, lora: dict[str, int] | None) -> None:
    """As many ranks as there are devices, up to two; one alone is sharded as well. The teacher stays on the CPU."""
    training = {**SETTINGS, **({} if lora is None else {"lora": lora})}
    folder = tiny_model_folder(tmp_path / "model")
    plan = Plan(folder=str(folder), work=str(tmp_path / "cpu"), overrides=WEIGHED, training=training)
    (there,) = together([replace(plan, work=str(tmp_path / "cuda"))], ranks=min(2, torch.cuda.device_count()))
    here = alone(plan)
    assert there.losses == pytest.approx(here.losses, rel=1e-3)
    assert [each.hits for each in there.evaluations] == [each.hits for each in here.evaluations]
