"""The student as a rank learns with it: whole, or cut into shards with `torch.distributed.fsdp.fully_shard` (FSDP2).

A rank of several holds the student twice. The plain one is whole: it writes, is evaluated, becomes checkpoints, and
nothing here knows of shards. The other one learns: of every weight that moves this rank holds a part, its gradient's
and its moments', and gathers the layer that computes. Weights that do not move are held once, by both.

After a step the plain one takes over what the shards have become (`collect`); what was put on the plain one, a
checkpoint's weights, goes to the shards by `spread`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from preceptor_trainer.grouping import Cut, Group, hidden_states
from preceptor_trainer.model import Head, Model, head_of
from preceptor_trainer.ranks import Ranks

IDLE = Cut(range(0), ((Group((0,), ((0,),)),),))
"""A pass over next to nothing: what a rank with fewer passes than others computes meanwhile, since a layer is gathered
by all ranks at once."""


class Learning:
    """One device: the student itself learns."""

    def __init__(self, model: Model, ranks: Ranks | None = None) -> None:
        self.model = model
        """The plain student."""
        self.module: PreTrainedModel = model.module
        """The one that learns."""
        self.ranks = ranks or Ranks()

    def head(self) -> Head:
        """The output projection, whole; gradient on it is gathered on these very tensors."""
        return head_of(self.module)

    def passes(self, mine: Sequence[Cut], most: int) -> Iterator[Cut]:
        """This rank's passes, and as many idle ones as it has fewer than `most`."""
        yield from mine
        yield from [IDLE] * (most - len(mine))

    def hidden_states(self, cut: Cut) -> Tensor:
        """The final hidden states that predict the cut's completion tokens [T, D]. Carries gradient."""
        return hidden_states(self.module, cut)

    def backward(self, hidden_TD: Tensor, grad_TD: Tensor) -> None:
        """Take the gradient on hidden states to the weights."""
        if hidden_TD.requires_grad:
            hidden_TD.backward(grad_TD)

    def close(self, head: Head) -> None:
        """The last pass is done: what was gathered on the head becomes the gradient of its weights."""

    def collect(self) -> None:
        """The plain student becomes what the shards are."""

    def spread(self) -> None:
        """The shards become what the first rank's plain student is."""


class Sharded(Learning):
    """One rank of several."""

    def __init__(self, model: Model, copy: Model, ranks: Ranks) -> None:
        """`copy` is the same student once more; it is cut into shards. What moves is what of `model` has
        `requires_grad`."""
        super().__init__(model, ranks)
        self.module = copy.module
        theirs = dict(model.module.named_parameters())
        still = set[nn.Parameter]()
        for name, each in copy.module.named_parameters():
            each.requires_grad_(theirs[name].requires_grad)
            if not each.requires_grad:
                each.data = theirs[name].data
                still.add(each)
        _cut(copy.module, ranks, still)
        mine = dict(copy.module.named_parameters())
        self._pairs = [(each, _sharded(mine[name])) for name, each in theirs.items() if each.requires_grad]

    def head(self) -> Head:
        """The plain student's has the same numbers."""
        moves = [each is not None and each.requires_grad for each in head_of(self.module)]
        weight_VD, bias_V = (
            None if each is None else each.detach().requires_grad_(move)
            for each, move in zip(head_of(self.model.module), moves, strict=True)
        )
        assert weight_VD is not None, "a head has weights"
        return Head(weight_VD, bias_V)

    def backward(self, hidden_TD: Tensor, grad_TD: Tensor) -> None:
        """FSDP takes the mean over ranks, and a loss with a global denominator is a sum."""
        super().backward(hidden_TD, grad_TD * self.ranks.count)

    def close(self, head: Head) -> None:
        """Every rank's sum, added to the part of it that this rank holds."""
        for whole, mine in zip(head, head_of(self.module), strict=True):
            if whole is None or mine is None or not whole.requires_grad:
                continue
            part = _sharded(mine)
            sums = torch.zeros_like(whole) if whole.grad is None else whole.grad
            found = DTensor.from_local(sums, part.device_mesh, [Partial()]).redistribute(placements=part.placements)
            mine.grad = found if mine.grad is None else mine.grad + found

    @torch.no_grad()
    def collect(self) -> None:
        for whole, part in self._pairs:
            whole.copy_(part.full_tensor())

    @torch.no_grad()
    def spread(self) -> None:
        for whole, part in self._pairs:
            part.copy_(distribute_tensor(whole.detach(), part.device_mesh, part.placements))
            whole.copy_(part.full_tensor())


def whole(tensor: Tensor) -> Tensor:
    """The same, of all ranks together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def on_first(tensor: Tensor) -> Tensor:
    """On the first rank the whole tensor, on the CPU; on others nothing, which saves the room."""
    found = whole(tensor).detach()
    if isinstance(tensor, DTensor) and tensor.device_mesh.get_rank() != 0:
        return found.new_empty(0, device="cpu")
    return found.cpu()


def as_held(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, held as `like` is: its shard, where that is one."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _cut(module: PreTrainedModel, ranks: Ranks, still: set[nn.Parameter]) -> None:
    """Layer by layer, then the rest of the body, then the head, which is multiplied with by hand."""
    body: Any = module.base_model
    head: Any = module.get_output_embeddings()
    tied = next((name for name, each in body.named_parameters() if each is head.weight), None)
    settings: dict[str, Any] = {"mesh": ranks.mesh, "ignored_params": still}
    for layer in [each for each in body.modules() if isinstance(each, GradientCheckpointingLayer)]:
        fully_shard(layer, **settings)
    fully_shard(body, **settings)
    if tied is not None:
        head.weight = dict(body.named_parameters())[tied]
    if any(each not in still for each in head.parameters() if tied is None or each is not head.weight):
        fully_shard(head, mesh=ranks.mesh, ignored_params=still if tied is None else still | {head.weight})


def _sharded(parameter: Tensor) -> DTensor:
    assert isinstance(parameter, DTensor), "every weight that moves is cut into shards"
    return parameter
