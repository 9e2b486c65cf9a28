"""A batch goes to where the student's weights are, whole."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from tests.unit.trainer.test_loss_reference import case


def test_every_tensor_of_a_batch_moves_and_slots_of_one_teacher_share_its_head() -> None:
    batch = case({"a": ["full", "topk"], "b": ["sampled"]}).batch
    assert batch.to(torch.device("cpu")) is batch
    first = batch.slots["a"][0]
    twice = type(batch)(**{**{f.name: getattr(batch, f.name) for f in fields(batch)}, "slots": {"a": [first, first]}})
    moved, meta = twice.to(torch.device("meta")), torch.device("meta")
    assert moved.slots["a"][0].head is moved.slots["a"][1].head
    found = [moved, moved.behaviour, *batch.to(meta).slots["a"], *batch.to(meta).slots["b"]]
    tensors = [value for each in found for f in fields(each) if isinstance(value := getattr(each, f.name), Tensor)]
    assert len(tensors) > 20 and all(tensor.device == meta for tensor in tensors)
    heads = [each.head for each in batch.to(meta).slots["a"] if each.head is not None]
    assert heads and all(head.weight_VD.device == meta for head in heads)
    assert moved.offsets == batch.offsets and moved.rows is batch.rows
