"""The local sampler against the model itself and against transformers' own generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from preceptor_trainer.draws import Job, draw
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.sampler import LocalSampler
from tests.models import tiny_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


PROMPTS = ((5, 6, 7), (9,), (10, 11, 12, 13, 14, 15), (20, 21))


def jobs(max_tokens: int = 12) -> list[Job]:
    return [Job(prompt_ids=prompt, seed=100 + index, max_tokens=max_tokens) for index, prompt in enumerate(PROMPTS)]


def forced(model: Model, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float = 1.0) -> list[float]:
    """Log-probabilities of a completion by one plain forward."""
    with torch.no_grad():
        logits = model.module(torch.tensor([[*prompt, *completion]])).logits[0].double() / temperature
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logprobs.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1).tolist()


def test_an_attention_that_adds_its_mask_is_given_one_to_add(model: Model, tmp_path: Path) -> None:
    eager = load_model(tiny_model_folder(tmp_path / "model"))
    eager.module.set_attn_implementation("eager")
    expected = LocalSampler(model).sample(jobs(), 1.0)
    assert [each.token_ids for each in LocalSampler(eager).sample(jobs(), 1.0)] == [each.token_ids for each in expected]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_distribution_drawn_from(model: Model, temperature: float) -> None:
    for job, written in zip(jobs(), LocalSampler(model).sample(jobs(), temperature), strict=True):
        expected = forced(model, job.prompt_ids, written.token_ids, temperature)
        assert list(written.logprobs) == pytest.approx(expected, abs=1e-4)


def test_what_a_rollout_is_batched_with_does_not_decide_what_it_writes(model: Model) -> None:
    together = LocalSampler(model).sample(jobs(), 1.0)
    alone = [LocalSampler(model).sample([job], 1.0)[0] for job in jobs()]
    paired = LocalSampler(model, max_rows=2).sample(jobs(), 1.0)
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    assert [each.token_ids for each in together] == [each.token_ids for each in paired]
    assert LocalSampler(model).sample(jobs(), 1.0) == together


def test_another_seed_writes_something_else(model: Model) -> None:
    others = [Job(prompt_ids=job.prompt_ids, seed=job.seed + 1, max_tokens=job.max_tokens) for job in jobs()]
    assert LocalSampler(model).sample(jobs(), 1.0) != LocalSampler(model).sample(others, 1.0)


def test_greedy_is_transformers_own(model: Model) -> None:
    for job, written in zip(jobs(), LocalSampler(model).sample(jobs(), 0.0), strict=True):
        ids = torch.tensor([job.prompt_ids])
        expected = model.module.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=job.max_tokens,
        )
        assert written.token_ids == tuple(expected[0, len(job.prompt_ids) :].tolist())


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_completion_ends_with_its_first_end_token(tmp_path: Path, pad_is_eos: bool) -> None:
    """Many short streams: some end early, and those that do end exactly once, at their last token."""
    special = {"eos_token_id": 2, "pad_token_id": 2 if pad_is_eos else 0}
    model = load_model(tiny_model_folder(tmp_path / "model", vocab=16, **special))
    many = [Job(prompt_ids=(5, 6), seed=seed, max_tokens=40) for seed in range(48)]
    written = LocalSampler(model).sample(many, 1.0)
    finished = [each for each in written if each.finished]
    assert len(finished) > 8
    assert all(each.token_ids.count(2) == 1 and each.token_ids[-1] == 2 for each in finished)
    assert all(2 not in each.token_ids and len(each.token_ids) == 40 for each in written if not each.finished)
    for job, each in zip(many, written, strict=True):
        assert list(each.logprobs) == pytest.approx(forced(model, job.prompt_ids, each.token_ids), abs=1e-4)


def test_every_job_keeps_its_own_limit(model: Model) -> None:
    limits = (1, 5, 9)
    short = [Job(prompt_ids=(5, 6), seed=index, max_tokens=limit) for index, limit in enumerate(limits)]
    written = LocalSampler(model).sample(short, 1.0)
    assert all(len(each.token_ids) <= limit for each, limit in zip(written, limits, strict=True))
    assert all(each.finished or len(each.token_ids) == limit for each, limit in zip(written, limits, strict=True))


def test_uniforms_become_tokens_in_proportion_to_their_probability() -> None:
    probabilities_V = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    token_B, logprob_B = draw(probabilities_V.log().expand(1000, 4), 1.0, grid)
    assert torch.bincount(token_B, minlength=4).tolist() == pytest.approx([500, 0, 300, 200], abs=1)
    torch.testing.assert_close(logprob_B, probabilities_V.log()[token_B])


def mixed(groups: int = 5, samples: int = 3) -> list[Job]:
    """Groups of several prompts with limits of their own: rows end at different times, and others take their slots."""
    return [
        Job(
            prompt_ids=tuple(5 + (7 * group + place) % 50 for place in range(3 + 4 * group)),
            seed=100 * group + index,
            max_tokens=1 + (5 * group + 3 * index) % 11,
        )
        for group in range(groups)
        for index in range(samples)
    ]


@pytest.mark.parametrize("rows", [1, 2, 4, 64])
def test_rows_that_end_make_room_and_nobody_s_numbers_change(model: Model, rows: int) -> None:
    written = LocalSampler(model, max_rows=rows).sample(mixed(), 1.0)
    for job, each in zip(mixed(), written, strict=True):
        (alone,) = LocalSampler(model).sample([job], 1.0)
        assert each.token_ids == alone.token_ids and each.finished == alone.finished
        assert list(each.logprobs) == pytest.approx(alone.logprobs, abs=1e-5)
        assert list(each.logprobs) == pytest.approx(forced(model, job.prompt_ids, each.token_ids), abs=1e-4)


@pytest.mark.parametrize("rows", [3, 64])
def test_the_same_jobs_give_the_same_bits(model: Model, rows: int) -> None:
    first, second = (LocalSampler(model, max_rows=rows).sample(mixed(), 1.0) for _ in range(2))
    assert first == second


def reads(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all forward passes from now on."""
    shapes: list[tuple[int, ...]] = []
    forward = model.module.base_model.forward

    def counting(**kwargs: torch.Tensor) -> object:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(**kwargs)

    monkeypatch.setattr(model.module.base_model, "forward", counting)
    return shapes


def test_a_prompt_is_read_once_for_its_group(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = reads(model, monkeypatch)
    group = [Job(prompt_ids=tuple(range(5, 25)), seed=seed, max_tokens=4) for seed in range(6)]
    LocalSampler(model, max_rows=2).sample(group, 1.0)
    assert shapes[0] == (1, 20)
    assert all(shape[1] == 1 for shape in shapes[1:]), "every further pass is one token of each row"


def test_a_batch_stays_full_while_jobs_wait_and_shrinks_after(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (2, 9, 3, 3, 5)
    endless = replace(model, tokenizer=SimpleNamespace(eos_token_id=None))
    monkeypatch.setattr(model.module.generation_config, "eos_token_id", None)
    shapes = reads(model, monkeypatch)
    jobs = [Job(prompt_ids=(5, 6), seed=index, max_tokens=limit) for index, limit in enumerate(limits)]
    written = LocalSampler(endless, max_rows=2).sample(jobs, 1.0)
    assert [len(each.token_ids) for each in written] == list(limits)
    # The first token of each comes of its prompt; a pass brings one more to everybody at work.
    assert [rows for rows, _ in shapes[1:]] == [2] * 8 + [1]
    assert sum(rows for rows, _ in shapes[1:]) == sum(limits) - len(limits)


def test_fewer_rows_are_at_work_where_their_keys_would_not_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = reads(model, monkeypatch)
    expected = LocalSampler(model).sample(mixed(), 1.0)
    shapes.clear()
    found = LocalSampler(model, cache_bytes=1).sample(mixed(), 1.0)
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert {rows for rows, width in shapes if width == 1} == {1}


def test_completions_come_as_they_are_finished(model: Model) -> None:
    order = [number for number, _ in LocalSampler(model, max_rows=2).stream(mixed(), 1.0)]
    assert sorted(order) == list(range(15)) and order != sorted(order)


def test_whoever_checks_can_end_the_work(model: Model) -> None:
    class Enough(Exception):
        pass

    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 3:
            raise Enough

    with pytest.raises(Enough):
        list(LocalSampler(model).stream(mixed(), 1.0, check))


def test_a_model_whose_layers_look_through_a_window_is_written_in_lockstep(tmp_path: Path) -> None:
    window = tiny_model_folder(tmp_path / "w", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    windowed = load_model(window)
    together = LocalSampler(windowed, max_rows=4).sample(mixed(), 1.0)
    for job, each in zip(mixed(), together, strict=True):
        assert list(each.logprobs) == pytest.approx(forced(windowed, job.prompt_ids, each.token_ids), abs=1e-4)
