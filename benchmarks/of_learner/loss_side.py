"""One side of the loss comparison in a process of its own: seconds of a step, and its peak memory. Prints one JSON
object.

A side gets hidden states and heads of student and teacher and must leave JSD(0.5)'s mean over tokens, and its gradient
with respect to the student's hidden states and head. Memory is what the process held at most, less what it held once
library and inputs were there, less the size of the two gradients.

Started by `losses.py`; a peer's side runs under the Python that has the peer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Side = Callable[[Tensor, Tensor, Tensor, Tensor], float]
"""(student hidden, student head, teacher hidden, teacher head) -> loss; gradients are on the first two."""


def composing(auto: bool) -> Side:
    """Ours; with `auto`, through autograd in blocks as any term without a hand-derived gradient goes."""
    from preceptor_trainer.batch import Row, Slot, build_batch
    from preceptor_trainer.loss import blank_scalars, fold
    from preceptor_trainer.model import Head
    from preceptor_trainer.parts.contexts import Plain
    from preceptor_trainer.parts.divergences import JSD
    from preceptor_trainer.parts.rollouts import Student
    from preceptor_trainer.parts.targets import Single
    from preceptor_trainer.recipe import Recipe, Term
    from preceptor_trainer.views import BlockView, Message, Opinion, Task
    from preceptor_trainer.weighing import weigh

    class Plainly(Term, kind="benchmark_jsd"):
        """JSD(0.5) as a method author would write it."""

        def __call__(self, block: BlockView, target: Opinion) -> Tensor:
            return JSD(beta=0.5).compare(*block.pair(target))

    recipe = Recipe(
        paper="none",
        rollout=Student(),
        contexts={"t": Plain()},
        target=Single(context="t"),
        objective=(Plainly() if auto else JSD(beta=0.5),),
    )

    def step(hidden_TD: Tensor, weight_VD: Tensor, teacher_TD: Tensor, teacher_VD: Tensor) -> float:
        ids = (0,) * len(hidden_TD)
        row = Row(
            task=Task(id="t", messages=(Message(role="user", content="?"),)),
            index=0,
            prompt_ids=(0,),
            completion_ids=ids,
            logprobs=(0.0,) * len(ids),
            text="",
        )
        ones_T = torch.ones(len(ids))
        # What the teacher answered for the written tokens: the loss holds it against its hidden states.
        said_T = (teacher_TD @ teacher_VD[0]) - torch.cat(
            [(part @ teacher_VD.t()).logsumexp(-1) for part in teacher_TD.split(16)]
        )
        slot = Slot(
            context="t",
            role="teacher",
            logprob_T=said_T,
            present_T=ones_T,
            weight_T=ones_T,
            hidden_TD=teacher_TD,
            head=Head(teacher_VD),
        )
        batch = build_batch([row], {"t": [slot]}, 1, torch.float32)
        view = batch.view(blank_scalars(batch, torch.float32))
        plans = weigh(recipe, view, None)

        def again() -> float:
            grad_TD, sums = fold(recipe, batch, view, plans, Head(weight_VD), hidden_TD, 0)
            hidden_TD.grad = grad_TD
            return sums.loss

        return timed(again, hidden_TD, weight_VD)

    return step


def materialised(hidden_TD: Tensor, weight_VD: Tensor, teacher_TD: Tensor, teacher_VD: Tensor) -> float:
    """[T, V] of both, autograd."""

    def once() -> float:
        student_TV = torch.log_softmax(hidden_TD @ weight_VD.t(), -1)
        with torch.no_grad():
            teacher_TV = torch.log_softmax(teacher_TD @ teacher_VD.t(), -1)
        mixture_TV = (teacher_TV + log(0.5)).logaddexp(student_TV + log(0.5))
        to_target_T = (teacher_TV.exp() * (teacher_TV - mixture_TV)).sum(-1)
        to_student_T = (student_TV.exp() * (student_TV - mixture_TV)).sum(-1)
        loss = (0.5 * to_target_T + 0.5 * to_student_T).mean()
        loss.backward()
        return float(loss.detach())

    return timed(once, hidden_TD, weight_VD)


def trl_materialised(hidden_TD: Tensor, weight_VD: Tensor, teacher_TD: Tensor, teacher_VD: Tensor) -> float:
    from trl.experimental.gkd.gkd_trainer import GKDTrainer  # pyright: ignore[reportMissingImports]

    def once() -> float:
        with torch.no_grad():
            teacher_TV = teacher_TD @ teacher_VD.t()
        loss = GKDTrainer.generalized_jsd_loss(
            (hidden_TD @ weight_VD.t())[None], teacher_TV[None], beta=0.5, num_items_in_batch=len(hidden_TD)
        )
        loss.backward()
        return float(loss.detach())

    return timed(once, hidden_TD, weight_VD)


def trl_chunked(hidden_TD: Tensor, weight_VD: Tensor, teacher_TD: Tensor, teacher_VD: Tensor) -> float:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction  # pyright: ignore[reportMissingImports]

    def once() -> float:
        per_T, _ = ChunkedDivergenceFunction.apply(hidden_TD, weight_VD, None, teacher_TD, teacher_VD, None, 0.5)
        loss = per_T.mean()
        loss.backward()
        return float(loss.detach())

    return timed(once, hidden_TD, weight_VD)


def liger(hidden_TD: Tensor, weight_VD: Tensor, teacher_TD: Tensor, teacher_VD: Tensor) -> float:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # pyright: ignore[reportMissingImports]

    of = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=False)
    labels_T = torch.zeros(len(hidden_TD), dtype=torch.int64)

    def once() -> float:
        loss = of(hidden_TD, weight_VD, teacher_TD, teacher_VD, labels_T)
        loss.backward()
        return float(loss.detach())

    return timed(once, hidden_TD, weight_VD)


SIDES: dict[str, Callable[[], Side]] = {
    "composing": lambda: composing(auto=False),
    "composing_autograd": lambda: composing(auto=True),
    "materialised": lambda: materialised,
    "trl_materialised": lambda: trl_materialised,
    "trl_chunked": lambda: trl_chunked,
    "liger": lambda: liger,
}

_measured: dict[str, float] = {}


def timed(once: Callable[[], float], *leaves: Tensor) -> float:
    """Loss of a step; the memory that the first one needed at most and the second one's seconds are kept."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    once()
    _measured["bytes"] = _status("VmHWM") - before
    for leaf in leaves:
        leaf.grad = None
    began = time.perf_counter()
    loss = once()
    _measured["seconds"] = time.perf_counter() - began
    return loss


def _status(name: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def inputs(tokens: int, hidden: int, vocab: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits with a standard deviation of about 2, the teacher's near the student's: what self-distillation sees."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weight_VD, hidden_TD = normal(vocab, hidden).mul_(2 / hidden**0.5), normal(tokens, hidden)
    teacher_TD, teacher_VD = hidden_TD + 0.3 * normal(tokens, hidden), weight_VD.clone()
    return hidden_TD.requires_grad_(), weight_VD.requires_grad_(), teacher_TD, teacher_VD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=list(SIDES), required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    side = SIDES[given.side]()
    side(*inputs(32, given.hidden, 2048))  # libraries open what they open once
    arrays = inputs(given.tokens, given.hidden, given.vocab)
    loss = side(*arrays)
    grads = [array.grad for array in arrays[:2]]
    assert all(grad is not None for grad in grads)
    size = sum(array.numel() * array.element_size() for array in arrays[:2])
    result: dict[str, Any] = {
        "loss": loss,
        "norms": [float(grad.norm()) for grad in grads if grad is not None],
        "seconds": _measured["seconds"],
        "bytes": max(1.0, _measured["bytes"] - size),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
