"""Ranks of real processes give what one gives: the same losses, evaluations and weights, whatever the recipe.

What is stated here as equal differs by additions in another order, in float32: losses of a few steps by less than 1e-5
of themselves, weights after a few steps of AdamW by less than 2e-5, where the rate is 1e-3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import StepReport
from preceptor_trainer.lora import WEIGHTS as ADAPTER
from preceptor_trainer.model import load_model
from preceptor_trainer.ranks import Ranks
from tests.debaters import reply
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import ToyData, weights_of
from tests.unit.trainer.ranked import Plan, Told, alone, together

LOSS, WEIGHTS = 1e-5, 2e-5

WEIGHED: dict[str, Any] = {
    "rollout": {"samples": 2, "max_tokens": 8},
    "objective": [
        {"kind": "jsd", "beta": 0.5, "weights": [{"kind": "importance_truncate", "most": 1.5}]},
        {"kind": "sampled_reverse_kl", "coefficient": 0.3, "weights": [{"kind": "group_advantage"}]},
    ],
}
"""Two terms, with weights that look at the whole batch."""
SHORT: dict[str, Any] = {"rollout": {"max_tokens": 8}}
TEACHERS = ("first", "second", "third")
SETTINGS: dict[str, Any] = {
    "steps": 3,
    "batch": 3,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "samples_kept": 1,
    "clip_norm": 0.1,
}
"""Three tasks for two ranks: their shares differ, and with one task, one has none. Every gradient is clipped."""
ROUTED: dict[str, Any] = {
    "overrides": {
        **SHORT,
        "contexts.reference.router": {
            "kind": "rules",
            "rules": [{"teacher": "first", "like": "*[ab]?"}, {"teacher": "second", "like": "*c?"}],
            "otherwise": "third",
        },
    },
    "training": {"batch": 6},
    "teachers": TEACHERS,
    "refilled": {"first": None, "second": "third"},
}
SURE = [reply("Read it from its end.", confidence) for confidence in (90, 40, 5)]
DEBATED: dict[str, Any] = {
    "recipe": "mad_opd",
    "overrides": {
        "rollout": {"samples": 2, "max_tokens": 8, "temperature": 1.0},
        "contexts.debate": {
            "kind": "debate",
            "debaters": [*TEACHERS, "silent"],
            "sighted": False,
            "on_failure": "drop",
        },
    },
    "teachers": TEACHERS,
    "says": {"first": SURE, "second": SURE[::-1], "third": ["Well, well.", SURE[0]], "silent": []},
}
"""Blind, so that the two rollouts of a question share theirs. One babbles now and then, one never says a word."""
CLASSIFIED: dict[str, Any] = {
    "overrides": {
        **SHORT,
        "contexts.reference.router": {"kind": "classifier", "domains": TEACHERS, "classifier": "judge"},
        "contexts.reference.on_failure": "drop",
    },
    "training": {"batch": 6},
    "teachers": TEACHERS,
    "says": {"judge": [*(f"<domain>{each}</domain>" for each in TEACHERS), "Hard to say."]},
    "gone": ["second"],
}
"""One of those to whom questions are sent answers nobody, and not every question is sent to one."""
CASES: dict[str, dict[str, Any]] = {
    "weighed": {"overrides": WEIGHED, "training": {"microbatch_tokens": 40}},
    "sequence": {"overrides": {**WEIGHED, "reduction": "sequence"}, "training": {"keep": "best", "evaluate_every": 1}},
    "lora": {
        "overrides": WEIGHED,
        "training": {"lora": {"rank": 4, "alpha": 8}, "gradient_checkpointing": True, "learning_rate": 1e-2},
    },
    "mask": {"overrides": {**SHORT, "constraint": {"kind": "sparse"}}},
    "ema": {"overrides": {**SHORT, "teacher": {"kind": "ema", "decay": 0.5}}},
    "rollback": {
        "overrides": SHORT,
        "training": {"guards": {"entropy": {"threshold": 19.0, "action": "rollback", "patience": 2}}, "steps": 2},
    },
    "written": {"recipe": "sft"},
    "one task": {"overrides": WEIGHED, "training": {"batch": 1, "steps": 2}},
    "routed": ROUTED,
    "hangs": {**ROUTED, "hangs": True},
    "debate": DEBATED,
    "classified": CLASSIFIED,
    "not finite": {"overrides": SHORT, "training": {"guards": {"nonfinite": "warn"}}, "poison": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for products that are computed otherwise than by `linear` (`products`)."""
    return tiny_model_folder(tmp_path_factory.mktemp("model"), hidden=128)


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Told, Told]]:
    """Every case on one rank and on two; torchrun is started once."""
    work = tmp_path_factory.mktemp("runs")
    models = {
        name: str(tiny_model_folder(work / f"of-{name}", seed=at, hidden=128)) for at, name in enumerate(TEACHERS, 3)
    }
    plans = {
        name: Plan(
            folder=str(folder),
            work=str(work / name),
            recipe=case.get("recipe", "opsd"),
            overrides=case.get("overrides", {}),
            training={**SETTINGS, **case.get("training", {})},
            poison=case.get("poison"),
            teachers={role: models[role] for role in case.get("teachers", ())},
            refilled={role: each and models[each] for role, each in case.get("refilled", {}).items()},
            hangs=case.get("hangs", False),
            says=case.get("says", {}),
            gone=case.get("gone", ()),
        )
        for name, case in CASES.items()
    }
    first = replace(plans["weighed"], work=str(work / "first"), stop=1)
    begun = alone(first)
    middle = replace(first, work=str(work / "middle"), resume=begun.checkpoints[-1][1], stop=2)
    apart = [replace(plan, work=f"{plan.work}-2") for plan in plans.values()]
    *two, gone_on = together([*apart, middle])
    one = [alone(plan) for plan in plans.values()]
    last = alone(replace(first, work=str(work / "last"), resume=gone_on.checkpoints[-1][1], stop=None))
    moved = replace(
        last,
        steps=begun.steps + gone_on.steps + last.steps,
        samples=begun.samples + gone_on.samples + last.samples,
        evaluations=begun.evaluations + gone_on.evaluations + last.evaluations,
    )
    found = {name: (one[index], two[index]) for index, name in enumerate(plans)}
    return found | {"moved": (found["weighed"][0], moved)}


@pytest.mark.parametrize("case", [*CASES, "moved"])
def test_two_ranks_give_the_curve_of_one(folder: Path, both: dict[str, tuple[Told, Told]], case: str) -> None:
    """`moved` is a run of one device, resumed on two, and on one again."""
    one, two = both[case]
    assert [each.step for each in two.steps] == [each.step for each in one.steps]
    for mine, theirs in zip(one.steps, two.steps, strict=True):
        timed = {"seconds", "tokens_per_second"}
        for name in sorted(mine.metrics.keys() - timed):
            if name.startswith("sampler_gap"):  # of the size of a rounding error
                assert max(mine.metrics[name], theirs.metrics[name]) < 1e-4
                continue
            assert theirs.metrics[name] == pytest.approx(mine.metrics[name], rel=LOSS, abs=1e-6, nan_ok=True), name
        assert theirs.ledger.tokens["completion"] == mine.ledger.tokens["completion"]
        assert theirs.ledger.scored_sequences == mine.ledger.scored_sequences
        assert theirs.ledger.rollouts == mine.ledger.rollouts
    for mine, theirs in zip(one.evaluations, two.evaluations, strict=True):
        assert (theirs.step, theirs.hits, theirs.mean_length) == (mine.step, mine.hits, mine.mean_length)
        assert theirs.entropy == pytest.approx(mine.entropy, rel=1e-4)
    assert len(two.samples) == len(one.samples) and two.kept_step == one.kept_step
    assert [note["message"] for note in two.notes] == [note["message"] for note in one.notes]
    assert one.model is not None and two.model is not None
    start, first, second = (weights_of(load_model(each)) for each in (folder, one.model, two.model))
    torch.testing.assert_close(second, first, atol=WEIGHTS, rtol=0)
    moved = float((second - start).abs().max())
    back = case == "rollback" or two.kept_step == 0  # the last step, or the best of equals, is the beginning
    assert moved == 0 if back else moved > 1e-3


def test_every_rank_follows_in_the_same_step(both: dict[str, tuple[Told, Told]]) -> None:
    """That two ranks have the numbers of one is held above: what the first heard, the other has followed."""
    for told in (*both["routed"], *both["hangs"]):
        assert [each.ledger.unrouted > 0 for each in told.steps] == [False, True, True]
        for each in told.steps:
            assert each.ledger.scored_sequences == each.ledger.rollouts - each.ledger.unrouted > 0


def test_where_one_rank_hangs_all_ask_about_the_step_anew(both: dict[str, tuple[Told, Told]]) -> None:
    """As if the change had been planned for that step. One rank's share of it was heard of whoever left."""
    for mine, theirs in zip(both["hangs"], both["routed"], strict=True):
        assert mine.losses == theirs.losses
        for each, other in zip(mine.steps, theirs.steps, strict=True):
            assert (each.ledger.contexts, each.ledger.rollouts) == (other.ledger.contexts, other.ledger.rollouts)


def test_a_debate_is_held_once_and_stored_once_on_whatever_rank(both: dict[str, tuple[Told, Told]]) -> None:
    one, two = both["debate"]
    assert sorted(map(untimed, two.held)) == sorted(map(untimed, one.held)), "every one, with all that was said"
    asked = [(each.step, each.task) for each in two.held]
    assert len(set(asked)) == len(asked) >= SETTINGS["steps"]
    for mine, theirs in zip(one.steps, two.steps, strict=True):
        assert counts(theirs) == counts(mine)
        held = [each for each in two.held if each.step == theirs.step]
        texts = sum(texts for texts, _, _ in counts(theirs).values())
        assert texts == sum(turn.missing != "unavailable" for each in held for turn in each.turns)
        assert counts(theirs)["silent"] == (0, len(held), 0)
    assert {turn.missing for each in two.held for turn in each.turns} == {None, "unreadable", "unavailable"}
    scored = [each.ledger.scored_sequences for each in two.steps]
    assert all(2 * each.ledger.rollouts <= found for each, found in zip(two.steps, scored, strict=True)), scored


def test_whoever_is_routed_to_and_does_not_answer_is_left_out_on_every_rank(both: dict[str, tuple[Told, Told]]) -> None:
    one, two = both["classified"]
    for mine, theirs in zip(one.steps, two.steps, strict=True):
        assert counts(theirs) == counts(mine)
        ledger = theirs.ledger
        assert (ledger.unrouted, ledger.contexts) == (mine.ledger.unrouted, mine.ledger.contexts)
        assert ledger.scored_sequences <= ledger.contexts == ledger.rollouts - ledger.unrouted
    ledgers = [each.ledger for each in two.steps]
    assert any(each.unrouted for each in ledgers) and any(each.scored_sequences < each.contexts for each in ledgers)
    assert any(each.scored_sequences for each in ledgers)


def untimed(held: HeldDebate) -> str:
    return held.model_dump_json(exclude={"turns": {"__all__": {"seconds"}}})


def counts(step: StepReport) -> dict[str, tuple[int, int, int]]:
    """Texts that were written, that were not, and that nobody could read, by role."""
    return {role: (each.texts, each.unwritten, each.unreadable) for role, each in step.ledger.teachers.items()}


def test_a_checkpoint_is_the_same_from_one_and_from_two(both: dict[str, tuple[Told, Told]]) -> None:
    for name, told in both.items():
        one, two = (Path(each.checkpoints[-1][1]) for each in told)
        files = {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
        assert {str(path.relative_to(two)) for path in two.rglob("*") if path.is_file()} == files, name
        for file in files:
            if file.endswith(".safetensors"):
                first, second = load_file(one / file), load_file(two / file)
                assert first.keys() == second.keys()
                for key, each in first.items():
                    assert each.shape == second[key].shape and each.dtype == second[key].dtype
                    torch.testing.assert_close(second[key], each, atol=5e-4, rtol=1e-2)  # AdamW divides small by small
    assert any(file.name == ADAPTER for file in Path(both["lora"][1].checkpoints[-1][1]).rglob("*"))


def test_tasks_are_shared_whole_and_all_of_them() -> None:
    tasks = ToyData().train(1, 7, 0)
    tasks = [*tasks, tasks[2], tasks[0]]
    shares = [Ranks(rank, 3).share(tasks) for rank in range(3)]
    assert sorted(task.id for share in shares for task in share) == sorted(task.id for task in tasks)
    for index, share in enumerate(shares):
        others = {task.id for other in range(3) if other != index for task in shares[other]}
        assert not {task.id for task in share} & others, "the rollouts of one question stay together"
