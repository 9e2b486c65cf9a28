"""What the shipped model is taught: every context, right and wrong, on the tasks that have something for it."""

from __future__ import annotations

from importlib import import_module
from random import Random

import pytest

from models.examined import prompt_ids
from models.folder import make_tokenizer
from models.formats import CONTEXTS, MISLEADING, PHRASES, example, formats, prompt
from preceptor_trainer import tasks
from preceptor_trainer.recipe import Context


def test_every_context_is_taught_on_some_task() -> None:
    names = ("contexts", "contexts_debated", "contexts_tried", "contexts_written")
    modules = [import_module(f"preceptor_trainer.parts.{name}") for name in names]
    classes = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    there = {each.kind for each in classes if issubclass(each, Context) and "kind" in vars(each)}
    assert {part.kind for part in CONTEXTS.values()} >= there
    taught = {kind for name in tasks.names() for kind, _ in formats(tasks.load(name))}
    assert taught == set(CONTEXTS)


@pytest.mark.parametrize("name", tasks.names())
def test_a_wrong_reply_follows_what_was_shown_and_is_wrong(name: str) -> None:
    source = tasks.load(name)
    both = {kind for kind, wrong in formats(source) if wrong and (kind, False) in formats(source)}
    assert {"reference", "debate"} <= both
    for seed, task in enumerate(source.held_out(4)):
        for kind in both:
            right, wrong = (example(source, task, kind, each, seed) for each in (False, True))
            assert right.reply == task.reference and source.verifier(task, right.reply).correct
            assert right.messages != wrong.messages
            assert wrong.reply != right.reply
            if kind != "hint":  # of a sum, what goes on as is right may end in the right answer
                assert not source.verifier(task, wrong.reply).correct
            if kind in ("reference", "demonstration", "critique", "tried"):
                assert wrong.reply in wrong.messages[-1]["content"]
        for kind in MISLEADING.keys() & {kind for kind, _ in formats(source)}:
            assert not source.verifier(task, example(source, task, kind, True, seed).reply).correct


def test_the_librarys_own_wrong_content_differs_from_the_right() -> None:
    source = tasks.load("skill_code")
    (task,) = source.held_out(1)
    for kind, wrong in formats(source):
        if wrong and kind not in MISLEADING:
            part = CONTEXTS[kind].model_copy(update={"wrong": True})
            assert prompt(source, task, kind, Random(1), part) != prompt(source, task, kind, Random(1))


def test_templates_are_single_tokens() -> None:
    tokenizer = make_tokenizer()
    assert all(len(tokenizer.encode(phrase)) == 1 for phrase in PHRASES)
    for name in ("spell_backward", "skill_code", "library_call"):
        source = tasks.load(name)
        for kind, wrong in formats(source):
            messages = example(source, source.held_out(1)[0], kind, wrong, seed=0).messages
            assert len(prompt_ids(tokenizer, messages)) < 110
