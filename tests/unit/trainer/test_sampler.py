"""The local sampler against the model itself and against transformers' own generation."""

from __future__ import annotations

from pathlib import Path

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
