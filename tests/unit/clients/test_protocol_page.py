"""docs/protocol.md's examples are what the code reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from preceptor.twins import request_from_json
from preceptor.wire.teachers import PROTOCOL, Card

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_the_page_is_of_the_version_that_is_spoken() -> None:
    assert PAGE.startswith(f"# The score protocol, version {PROTOCOL}\n")


def test_the_card_is_a_card() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    card = Card.model_validate_json(example.replace("sha256:...", "sha256:" + "0" * 64))
    assert set(json.loads(example)) >= {name for name, field in Card.model_fields.items() if field.is_required()}
    assert card.head is not None


def test_the_request_is_a_request() -> None:
    (example,) = re.findall(r"-d '\n(.*?)'", PAGE, re.DOTALL)
    request = request_from_json(example.encode())
    assert [len(ids) for ids in request.completions] == [2, 0]


def test_every_field_of_a_request_and_a_stamp_is_explained() -> None:
    from preceptor.frames import Options
    from preceptor.wire.teachers import Stamp

    for name in [*Options.model_fields, *Stamp.model_fields]:
        assert f"`{name}`" in PAGE, name
