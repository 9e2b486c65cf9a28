"""Equal tokenizers have equal fingerprints however their files are written; any change that moves an id shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_card, tokenizer_fingerprint
from tests.models import CHAT_TEMPLATE, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 80}')
    return tmp_path


def edit(folder: Path, change: Any, name: str = "tokenizer.json") -> str:
    parsed = json.loads((folder / name).read_text())
    change(parsed)
    (folder / name).write_text(json.dumps(parsed))
    return tokenizer_fingerprint(folder)


def test_a_card_says_what_the_files_say(folder: Path) -> None:
    card = tokenizer_card(folder)
    assert card.vocab_size == 80
    assert card.special == {"eos": 2, "pad": 0, "unk": 3}
    assert card.fingerprint is not None and card.fingerprint.startswith("sha256:")


def test_files_may_lie_anywhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("blobs")
    files = {path.name: path.rename(elsewhere / f"blob{index}") for index, path in enumerate(sorted(folder.iterdir()))}
    assert tokenizer_card(files).special["eos"] == 2


def test_the_same_tokenizer_written_otherwise_has_the_same_fingerprint(folder: Path) -> None:
    before = tokenizer_fingerprint(folder)

    def shuffle(parsed: dict[str, Any]) -> None:
        parsed["model"]["vocab"] = dict(reversed(parsed["model"]["vocab"].items()))
        parsed["added_tokens"].reverse()
        parsed["model"].pop("ignore_merges", None)
        parsed["truncation"] = {"max_length": 3}

    assert edit(folder, shuffle) == before


def test_merges_are_the_same_in_both_spellings(folder: Path) -> None:
    pairs = edit(folder, lambda parsed: parsed["model"].update(merges=[["a", "b"]]))
    assert edit(folder, lambda parsed: parsed["model"].update(merges=["a b"])) == pairs


@pytest.mark.parametrize(
    "change",
    [
        lambda parsed: parsed["model"]["vocab"].update(a=99),
        lambda parsed: parsed["model"].update(merges=[["a", "b"]]),
        lambda parsed: parsed.update(normalizer={"type": "Lowercase"}),
        lambda parsed: parsed.update(pre_tokenizer={"type": "Whitespace"}),
        lambda parsed: parsed["added_tokens"][0].update(lstrip=True),
        lambda parsed: parsed["added_tokens"].pop(),
        lambda parsed: parsed["model"].update(byte_fallback=True),
    ],
)
def test_whatever_moves_an_id_changes_it(folder: Path, change: Any) -> None:
    before = tokenizer_fingerprint(folder)
    assert edit(folder, change) != before


def test_the_chat_template_is_hashed_wherever_it_stands(folder: Path) -> None:
    before = tokenizer_card(folder).chat_template
    (folder / "chat_template.jinja").unlink()
    assert tokenizer_card(folder).chat_template is None
    edit(folder, lambda parsed: parsed.update(chat_template=CHAT_TEMPLATE), "tokenizer_config.json")
    assert tokenizer_card(folder).chat_template == before is not None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{", "not JSON"),
        ("tokenizer.json", "[]", "not a JSON object"),
        ("tokenizer.json", "{}", "no 'model'"),
        ("tokenizer.json", '{"model": {}}', "no vocabulary"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [1]}', "added_tokens"),
        ("config.json", None, "no config.json"),
        ("config.json", "{}", "vocab_size"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, name: str, content: str | None, says: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(Invalid, match=says) as caught:
        tokenizer_card(folder)
    assert caught.value.field == name
