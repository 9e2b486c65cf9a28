"""What docs/experts.md shows is what recipes take: every block is a run's settings, and its teachers fill its roles."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from preceptor_trainer import recipes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "experts.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TARGETS = re.findall(r"`(\{kind = [^`]*\})`", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_is_a_run_s_settings(block: str) -> None:
    wish = tomllib.loads(block)
    recipe = recipes.load(wish["recipe"]).override(wish["overrides"])
    assert recipe.roles == set(wish["teachers"])


def test_what_the_tables_name_is_there() -> None:
    """Targets, weights and a schedule, as they are written."""
    whole = [each for each in TARGETS if "..." not in each]
    assert len(BLOCKS) == 4 and len(whole) >= 8
    two = {name: {"kind": "plain", "teacher": name} for name in ("a", "b")}
    gkd = recipes.load("gkd").override({"contexts": two})
    for each in whole:
        part = tomllib.loads(f"part = {each}")["part"]
        if part["kind"] in ("confidence", "entropy_gate", "disagreement"):
            assert gkd.override({"objective.0.weights": [part]}).weighing
        elif part["kind"] == "linear":
            gkd.override({"objective.0.coefficient": part})
        else:
            assert gkd.override({"objective.0.target": part}).objective[0].target is not None
