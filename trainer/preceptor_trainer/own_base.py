"""A student as it began, as its own frozen teacher, in this process: a LoRA student's weights under the adapters, held
once; of a student that trains whole weights a second copy, of those that the run began with.

The same scoring code as behind HTTP gives the same numbers. Nothing passes the network: its ledger has no requests.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from time import monotonic
from typing import Any

import transformers

from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_file
from preceptor.frames import hash_of, head_buffers
from preceptor.limits import check_lengths
from preceptor.tensors import Tensor
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import OnFailure, Run, TeacherLedger
from preceptor.wire.score import Head as WireHead
from preceptor.wire.score import ScoreRequest, Scores, context_hash
from preceptor.wire.teachers import OWN_BASE, Card, HeadCard, Limits, Stamp, Support, Values
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_trainer.asking import Scorer
from preceptor_trainer.model import Model, head_of, load_model
from preceptor_trainer.scoring import score
from preceptor_trainer.student import Student

MOST = 2**31 - 1


class WithOwnBase:
    """A `Scorer` that answers some roles with the student's base and hands the others on."""

    def __init__(
        self, others: Scorer, roles: Collection[str], base: Model, named: str, dtype: str, batch_tokens: int
    ) -> None:
        """`named`: what the student's artifact is called. `dtype`: what it computes in. `batch_tokens`: most tokens in
        one forward pass."""
        self._others = others
        self._roles = roles
        self._base = base
        self._batch_tokens = batch_tokens
        self._ledgers = {role: TeacherLedger() for role in roles}
        weight, bias = head_of(base.module)
        weight_VD, bias_V = weight.detach().cpu(), None if bias is None else bias.detach().cpu()
        frame = head_buffers(Tensor.of(weight_VD.numpy()), None if bias_V is None else Tensor.of(bias_V.numpy()))
        self._head = WireHead(
            hash=hash_of(frame), weight_VD=weight_VD.numpy(), bias_V=None if bias_V is None else bias_V.numpy()
        )
        self._card = Card(
            teacher=OWN_BASE,
            model=named,
            weights_version=0,
            engine=f"hf {transformers.__version__}",
            device=str(base.device),
            dtype=dtype,
            tokenizer=base.card.model_copy(update={"vocab_size": weight_VD.shape[0]}),
            limits=Limits(
                max_tokens=base.max_tokens, max_batch_tokens=MOST, max_k=weight_VD.shape[0], max_body_bytes=MOST
            ),
            supports=tuple(Support),
            head=HeadCard(hash=self._head.hash, hidden_size=weight_VD.shape[1], bias=bias is not None),
        )

    def begin(self, step: int) -> Collection[str]:
        return self._others.begin(step)

    def begin_again(self) -> Collection[str]:
        return self._others.begin_again()

    def card(self, role: str) -> Card:
        return self._card if role in self._roles else self._others.card(role)

    def tokenizer(self, role: str) -> TokenizerFile:
        return tokenizer_file(self._base.folder) if role in self._roles else self._others.tokenizer(role)

    def head(
        self, role: str, hash: str | None = None, *, on_failure: OnFailure = "wait", completions: int = 0
    ) -> WireHead:
        if role in self._roles:
            return self._head
        return self._others.head(role, hash, on_failure=on_failure, completions=completions)

    def chat(self, role: str, request: ChatRequest, **settings: Any) -> Reply:
        """Raises Invalid for a role of its own: submit refuses it, since the card says that nothing is generated."""
        if role in self._roles:
            raise Invalid(
                f"teachers.{role}: the student's own base scores, and writes no text.", field=f"teachers.{role}"
            )
        return self._others.chat(role, request, **settings)

    def score(self, role: str, request: ScoreRequest, **settings: Any) -> Scores:
        if role not in self._roles:
            return self._others.score(role, request, **settings)
        check_lengths(request, self._card.limits.max_tokens)
        began = monotonic()
        numbers = score(self._base, request, batch_tokens=self._batch_tokens)
        seconds = monotonic() - began
        held = self._ledgers[role]
        self._ledgers[role] = held.model_copy(
            update={
                "sequences": held.sequences + len(request.completions),
                "tokens": held.tokens + int(numbers.offsets[-1]),
                "seconds": held.seconds + seconds,
                "weights_versions": [0],
            }
        )
        return Scores.stamped(numbers, self._stamp(request, seconds))

    def take_ledger(self) -> dict[str, TeacherLedger]:
        mine, self._ledgers = self._ledgers, {role: TeacherLedger() for role in self._roles}
        return self._others.take_ledger() | mine

    def _stamp(self, request: ScoreRequest, seconds: float) -> Stamp:
        card = self._card
        return Stamp(
            teacher=card.teacher,
            model=card.model,
            weights_version=0,
            head_hash=self._head.hash,
            engine=card.engine,
            device=card.device,
            dtype=card.dtype,
            temperature=request.temperature,
            values=Values.RAW,
            context_hashes=tuple(context_hash(ids) for ids in request.contexts),
            queued_seconds=0.0,
            computed_seconds=seconds,
        )


def with_own_base(scorer: Scorer, run: Run, student: Student, folder: Path) -> Scorer:
    """The scorer, and the student as it began for the roles that the run gives it. `folder`: the student's."""
    roles = {role for role, name in run.teachers.items() if name == OWN_BASE}
    if not roles:
        return scorer
    base = student.base or load_model(folder, str(student.model.device))
    base.module.train(False)
    dtype = "bfloat16" if run.training.precision == "bf16" and student.base is not None else "float32"
    return WithOwnBase(scorer, roles, base, run.student, dtype, run.training.microbatch_tokens)
