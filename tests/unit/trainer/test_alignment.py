"""A run that is aligned by bytes: the gradient is the spans' own, equal tokenizers change nothing, and it learns."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preceptor.wire.runs import Run
from preceptor_trainer import recipes
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Batch, Row, Slot, build_batch, share_spans
from preceptor_trainer.learner import Learner
from preceptor_trainer.loop import train
from preceptor_trainer.loss import blank_scalars, fold
from preceptor_trainer.model import Head, Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.readers import OtherTokens
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.telling import samples_of
from preceptor_trainer.views import Message, Task
from preceptor_trainer.weighing import weigh
from preceptor_trainer.writer import Writer
from tests.models import pairs_tokenizer, tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run
from tests.unit.trainer.toy import toy_rows

OPD = recipes.load("opd").override({"rollout": {"max_tokens": 8, "samples": 2}})


def spanned(rows: list[Row], logprob_T: Tensor, span_T: Tensor, weight_T: Tensor | None = None) -> Batch:
    """A batch with a teacher whose numbers are of spans."""
    present_T = (span_T >= 0).to(torch.float64)
    weight_T = torch.ones_like(present_T) if weight_T is None else weight_T
    slot = Slot(
        context="teacher", role="teacher", logprob_T=logprob_T, present_T=present_T, weight_T=weight_T, span_T=span_T
    )
    return build_batch(rows, {"teacher": [slot]}, 1, torch.float64)


STATE_TD = torch.eye(4, dtype=torch.float64)
"""Hidden states: 0 before anything is written, 1 + a after the token a."""


class Enumerated:
    """A student over three tokens and every text that it can write, as likely in the batch as the student makes it."""

    def __init__(self, texts: list[tuple[int, ...]]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight_VD = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
        self.texts = texts
        states = [STATE_TD[0 if t == 0 else 1 + text[t - 1]] for text in texts for t in range(len(text))]
        self._hidden_TD = torch.stack(states)
        self._token_T = torch.tensor([token for text in texts for token in text])

    @property
    def logprob_T(self) -> Tensor:
        return (self._hidden_TD @ self.weight_VD.T).log_softmax(-1).gather(-1, self._token_T[:, None]).squeeze(-1)

    @property
    def logprob_Y(self) -> Tensor:
        return self.logprob_T.reshape(len(self.texts), -1).sum(1)

    def gradient(self, said_T: Tensor, span_T: Tensor) -> Tensor:
        """What the run's own loss gives in expectation, spans cut by blocks."""
        own_T, length = self.logprob_T.detach(), len(self.texts[0])
        task = Task(id="t", messages=(Message(role="user", content="?"),))
        rows = [
            Row(task=task, index=0, prompt_ids=(1,), completion_ids=text, logprobs=None, text="") for text in self.texts
        ]
        chance_T = self.logprob_Y.detach().exp().repeat_interleave(length)
        batch = share_spans(spanned(rows, said_T, span_T, chance_T), own_T)
        recipe = OPD.override({"objective": [{"kind": "sampled_reverse_kl", "importance": False}]})
        view = batch.view(blank_scalars(batch, torch.float64))
        plans = weigh(recipe, view, None)
        fold(recipe, batch, view, plans, Head(weight_VD=self.weight_VD), self._hidden_TD, 0, block_tokens=3)
        assert self.weight_VD.grad is not None
        return self.weight_VD.grad * plans[0].denominator


def test_the_expected_gradient_is_that_of_the_reverse_kl_over_spans() -> None:
    """Every text of two student tokens that a teacher reads as one: S(ab) against T(ab)."""
    student = Enumerated(list(product(range(3), repeat=2)))
    teacher_Y = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)
    found = student.gradient(teacher_Y.repeat_interleave(2), torch.arange(9).repeat_interleave(2) * 2)
    kl = (student.logprob_Y.exp() * (student.logprob_Y - teacher_Y)).sum()
    (expected,) = torch.autograd.grad(kl, student.weight_VD)
    torch.testing.assert_close(found, expected)


def test_what_is_masked_neither_draws_nor_repels() -> None:
    """One token, the last of three masked: the gradient is that of the reverse KL given that a token was heard."""
    student = Enumerated([(0,), (1,), (2,)])
    teacher_V = torch.tensor([0.01, 0.09, 0.9], dtype=torch.float64).log()
    found = student.gradient(teacher_V * torch.tensor([1, 1, 0]), torch.tensor([0, 1, -1]))
    heard_Y = student.logprob_Y[:2]
    chance = heard_Y.exp().sum()
    given_Y = heard_Y - chance.log()
    kl = (given_Y.exp() * (given_Y - teacher_V[:2])).sum()
    (expected,) = torch.autograd.grad(kl, student.weight_VD)
    torch.testing.assert_close(found, expected * chance.detach())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 2**16))
def test_spans_of_one_token_keep_the_teachers_numbers_to_the_bit(lengths: list[int], seed: int) -> None:
    rows = toy_rows(lengths, seed=seed)
    total = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    logprob_T, own_T = (-5 * torch.rand(total, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = spanned(rows, logprob_T, torch.arange(total))
    (slot,) = share_spans(batch, own_T).slots["teacher"]
    assert torch.equal(slot.logprob_T, logprob_T) and slot.span_T is None
    assert batch.spanned and not share_spans(batch, own_T).spanned


def test_the_log_ratio_of_each_token_is_its_spans() -> None:
    own_T = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0], dtype=torch.float64)
    said_T = torch.tensor([-3.5, -3.5, 0.0, -9.0, 0.0], dtype=torch.float64)
    batch = spanned(toy_rows([4, 1]), said_T, torch.tensor([0, 0, -1, 1, -2]))
    (slot,) = share_spans(batch, own_T, fill=False).slots["teacher"]
    assert (slot.logprob_T - own_T)[[0, 1, 3]].tolist() == [-0.5, -0.5, -1.0]
    assert slot.logprob_T[2] == 0 and slot.present_T.tolist() == [1, 1, 0, 1, 0]
    (filled,) = share_spans(batch, own_T).slots["teacher"]
    assert (filled.logprob_T - own_T)[:4].tolist() == pytest.approx([-0.5, -0.5, -2 / 3, -1.0])
    assert filled.present_T.tolist() == [1, 1, 1, 1, 0], "a rollout that was not asked about stays absent"


def test_a_batch_of_which_nothing_was_heard_teaches_nothing() -> None:
    batch = spanned(toy_rows([2]), torch.zeros(2, dtype=torch.float64), torch.tensor([-1, -1]))
    (slot,) = share_spans(batch, torch.full((2,), -1.0, dtype=torch.float64)).slots["teacher"]
    assert slot.present_T.tolist() == [0, 0]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Reads pairs of letters where the student writes letters, and has its ids in another order."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("teacher"), vocab=512, hidden=16, seed=7)
    pairs_tokenizer().save_pretrained(folder)
    return load_model(folder)


def rows_of(model: Model, tasks: int = 6) -> list[Row]:
    return Writer(OPD.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, tasks, 0), 1)


def test_a_foreign_teacher_is_asked_in_its_own_tokens(student: Model, teacher: Model) -> None:
    rows, scorer = rows_of(student), LocalScorer({"teacher": teacher})
    asked = Opinions(OPD, student, scorer, 0, torch.float32, "bytes").ask(rows, 1)
    ((_, request),) = scorer.asked
    total = sum(len(row.completion_ids) for row in rows)
    read = sum(map(len, request.completions))
    assert 0 < read < total, "pairs of letters are fewer tokens"
    question = teacher.tokenizer.apply_chat_template(
        [dict(each) for each in rows[0].task.messages], add_generation_prompt=True, return_dict=False
    )
    assert request.contexts[0].tolist() == question
    (slot,) = asked.slots["teacher"]
    assert slot.span_T is not None and asked.masked is not None
    assert int(slot.present_T.sum()) == total - asked.masked
    assert len(set(slot.span_T[slot.span_T >= 0].tolist())) < int(slot.present_T.sum()), "some spans are of several"


def test_equal_tokenizers_give_the_plain_result(student: Model, tmp_path: Path) -> None:
    """Asked as if it were foreign, a teacher with the student's tokenizer says what it says when asked plainly."""
    other = load_model(tiny_model_folder(tmp_path, seed=3))
    rows = rows_of(student)
    plain = Opinions(OPD, student, LocalScorer({"teacher": other}), 0, torch.float32).ask(rows, 1)
    scorer = LocalScorer({"teacher": other})
    same = Opinions(OPD, student, scorer, 0, torch.float32, "bytes")
    assert torch.equal(_slot(same.ask(rows, 1)).logprob_T, _slot(plain).logprob_T), "equal tokenizers: exact ids"
    same._questions._readers["teacher"] = OtherTokens(student, scorer.tokenizer("teacher"), "teacher")
    aligned = same.ask(rows, 1)
    own_T = torch.randn(_slot(plain).logprob_T.shape)
    batch = share_spans(build_batch(rows, aligned.slots, 1, torch.float32), own_T, fill=False)
    (slot,) = batch.slots["teacher"]
    heard = slot.present_T > 0
    assert heard.sum() > 0.5 * len(heard)
    torch.testing.assert_close(slot.logprob_T[heard], _slot(plain).logprob_T[heard], atol=1e-5, rtol=1e-5)


def _slot(asked: Asked) -> Slot:
    (slot,) = asked.slots["teacher"]
    return slot


def test_samples_show_what_was_heard_and_nothing_where_nothing_was(student: Model, teacher: Model) -> None:
    rows = rows_of(student)
    asked = Opinions(OPD, student, LocalScorer({"teacher": teacher}), 0, torch.float32, "bytes").ask(rows, 1)
    batch = build_batch(rows, asked.slots, 1, torch.float32)
    samples = samples_of(batch, len(rows), lambda ids: "")
    shown = [bool(token.teachers) for sample in samples for token in sample.tokens]
    assert shown == (_slot(asked).present_T > 0).tolist()
    assert shown.count(False) == asked.masked and any(shown)


def test_how_a_batch_is_cut_changes_nothing(student: Model, teacher: Model) -> None:
    rows = rows_of(student)
    asked = Opinions(OPD, student, LocalScorer({"teacher": teacher}), 0, torch.float32, "bytes").ask(rows, 1)
    batch = build_batch(rows, asked.slots, 1, torch.float32)
    losses: list[float] = []
    for microbatch in (8192, 40):
        learner = Learner(OPD, student, toy_run(OPD, microbatch_tokens=microbatch).training)
        learner.optimizer.zero_grad()
        sums = learner.gradient(batch)
        assert sums is not None
        losses.append(sums.loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_whole_distributions_are_not_compared_across_tokenizers(student: Model, teacher: Model) -> None:
    recipe = recipes.load("opsd").override({"rollout": {"max_tokens": 4}})
    opinions = Opinions(recipe, student, LocalScorer({"self": teacher}), 0, torch.float32, "bytes")
    with pytest.raises(ValueError, match="across tokenizers there is only sampled"):
        opinions.ask(rows_of(student), 1)


def aligned_run(recipe: Recipe, **training: object) -> Run:
    return toy_run(recipe, **training).model_copy(update={"alignment": "bytes"})


def test_a_run_learns_from_a_teacher_with_another_tokenizer(student: Model, teacher: Model, tmp_path: Path) -> None:
    run = aligned_run(OPD, steps=24, batch=24, learning_rate=3e-3, evaluate_every=24, checkpoint_every=24)
    reporter = Remembering()
    train(run, student.folder, ToyData(), LocalScorer({"teacher": teacher}), reporter, tmp_path)
    ratios = [report.metrics["teacher/log_ratio"] for report in reporter.steps]
    before, after = sum(ratios[:4]) / 4, sum(ratios[-4:]) / 4
    assert before < -3 and after > before + 0.5, ratios
    for report in reporter.steps:
        assert report.ledger.scored_sequences == report.ledger.stamped_sequences == report.ledger.rollouts
    masked = [report.ledger.tokens["masked"] / report.ledger.tokens["completion"] for report in reporter.steps]
    assert max(masked[-4:]) < 0.25, "and did not flee to what the teacher cannot read"
