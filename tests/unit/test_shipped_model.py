"""The model that ships: a real folder, small enough to ship, that can do what its card says and no more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from models.curriculum import is_secret
from models.examined import hits, prompt_ids
from models.folder import make_tokenizer
from models.formats import CONTEXTS, PARTIAL, PHRASES, SOLVED, UNHELPFUL, example, formats
from models.tiny_card import interval, read_card
from preceptor_trainer import recipes, tasks
from preceptor_trainer.parts.contexts import Shown

FOLDER = Path(__file__).parents[2] / "models" / "tiny"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
STATED = read_card(CARD)
NAMES = sorted(STATED)
UNTOLD = {"plain", "wrong_answer", *UNHELPFUL}
"""Contexts that are not there to tell the answer."""
MARGIN = 0.1
"""By which a context that helps is to beat the plain prompt."""


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    opened = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32)
    assert isinstance(opened, Qwen3ForCausalLM)
    return opened


def test_the_folder_is_four_megabytes_at_most_and_holds_no_pickle() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4 * 2**20
    assert {file.suffix for file in files} == {".json", ".safetensors", ".jinja", ".md"}


def test_it_is_a_qwen3_of_six_hundred_thousand_parameters(model: Qwen3ForCausalLM) -> None:
    assert isinstance(model, Qwen3ForCausalLM)
    assert 550_000 < sum(each.numel() for each in model.parameters()) < 650_000
    assert model.config.tie_word_embeddings
    assert model.config.head_dim >= 32


def test_it_ends_and_pads_with_different_tokens(tokenizer, model: Qwen3ForCausalLM) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    for holder in (generation["eos_token_id"], model.config.eos_token_id):
        assert holder == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("text", ["planet", "4 + 3 = 7\n#### 7", "Größe 漢字 \U0001f600\t", "user\nassistant\n", ""])
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_goes_round(tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True).endswith("assistant\n")


def test_its_tokenizer_is_the_one_its_script_makes(tokenizer) -> None:
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert all(len(tokenizer.encode(phrase)) == 1 for phrase in PHRASES)


@pytest.mark.parametrize("name", NAMES)
def test_the_templates_are_single_tokens_so_that_privileged_prompts_stay_short(tokenizer, name: str) -> None:
    source = tasks.load(name)
    (task,) = source.held_out(1)
    plain = len(prompt_ids(tokenizer, task.messages))
    for kind, part in CONTEXTS.items():
        if not isinstance(part, Shown) or (kind, False) not in formats(source) or kind == "rubric":  # has two pieces
            continue
        messages = example(source, task, kind, wrong=False, seed=0).messages
        before, after = part.template.removeprefix("{question}").split(f"{{{part.placeholder}}}")
        content = messages[-1]["content"].removeprefix(task.messages[-1]["content"] + before).removesuffix(after)
        assert len(prompt_ids(tokenizer, messages)) == plain + 2 + len(tokenizer.encode(content))


def test_no_held_out_or_validation_question_is_in_training() -> None:
    for name in NAMES:
        source = tasks.load(name)
        kept = {task.id for split in ("held_out", "validation") for task in source.take(split, 300)}
        assert not kept & {task.id for step in range(50) for task in source.train(step, 64, seed=0)}


def test_the_card_names_these_weights_and_covers_every_format() -> None:
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() in CARD
    assert {"spell_backward", "spell_in_turns", "skill_code", "library_call"} == set(STATED)
    for name, shares in STATED.items():
        assert set(shares) == set(formats(tasks.load(name)))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_card_states_leaves_a_gap_that_only_right_content_closes(name: str) -> None:
    shares, secret = STATED[name], is_secret(tasks.load(name))
    plain = shares["plain", False]
    assert plain < (0.1 if secret else 0.6)
    for (kind, wrong), share in shares.items():
        if wrong:
            assert share <= plain, kind
        elif kind in SOLVED:
            assert share >= 0.85, kind
        elif kind in PARTIAL and not (secret and kind == "hint"):  # the rest of it is the secret
            assert share >= plain + MARGIN, kind
        elif kind in UNHELPFUL:
            assert share >= plain - 1.5 * MARGIN, kind


@pytest.mark.parametrize("name", recipes.names())
def test_what_a_recipe_shows_beats_the_plain_prompt_and_wrong_content_does_not(name: str) -> None:
    kinds = {part.kind: kind for kind, part in CONTEXTS.items() if kind not in UNTOLD} | {"reprompt": "tried"}
    for context in recipes.load(name).contexts.values():
        if (kind := kinds.get(context.kind)) is None:
            continue
        known = [shares for shares in STATED.values() if (kind, False) in shares]
        assert any(shares[kind, False] >= shares["plain", False] + MARGIN for shares in known), kind
        assert all(shares.get((kind, True), 0.0) <= shares["plain", False] for shares in known), kind


@pytest.mark.parametrize(("name", "kind", "wrong"), [(name, *each) for name in NAMES for each in STATED[name]])
def test_the_cards_figures_come_out_again(
    tokenizer, model: Qwen3ForCausalLM, name: str, kind: str, wrong: bool
) -> None:
    source = tasks.load(name)
    some = Random(f"{name} {kind} {wrong}").sample(source.held_out(500), 60)
    found = hits(model, tokenizer, source, some, kind, wrong)
    low, high = interval(sum(found) / 60, 60)
    assert low - 0.05 <= STATED[name][kind, wrong] <= high + 0.05
