"""The pages say what the code says. `python tests/unit/test_docs.py` writes docs/operations.md's tables again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"


def settings() -> dict[str, type[BaseModel]]:
    """The classes whose fields are settings, by the name of their block in the page."""
    from preceptor_services.settings import Settings
    from preceptor_services.teacher.settings import TeacherSettings
    from preceptor_services.worker.settings import WorkerSettings

    return {"api": Settings, "worker": WorkerSettings, "teacher": TeacherSettings}


def default_of(name: str, model: type[BaseModel]) -> str:
    """A setting's default in words; nothing that depends on the machine."""
    field = model.model_fields[name]
    if field.default_factory is not None:
        return "from the machine"
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "none"
    return ", ".join(f"`{each}`" for each in value) if isinstance(value, tuple) else f"`{value}`"


def table(model: type[BaseModel]) -> str:
    """Every setting, its default, and the docstring under its field."""
    rows = ["| setting | default | what it says |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no docstring"
        alias = field.validation_alias
        variable = alias if isinstance(alias, str) else f"PRECEPTOR_{name.upper()}"
        rows.append(f"| `{variable}` | {default_of(name, model)} | {' '.join(field.description.split())} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """The page with its generated blocks as the code has them now."""
    for block, model in settings().items():
        pattern = rf"(<!-- settings: {block} -->\n).*?(?=\n##)"
        page, found = re.subn(pattern, lambda match: f"{match[1]}\n{table(model)}\n", page, count=1, flags=re.DOTALL)  # noqa: B023
        assert found, f"docs/operations.md has no block 'settings: {block}'"
    return page


def test_the_settings_tables_are_what_the_code_has() -> None:
    page = OPERATIONS.read_text(encoding="utf-8")
    assert page == written(page), "run `python tests/unit/test_docs.py` and commit docs/operations.md"


PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder that is there."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_pages_name_are_there(page: Path) -> None:
    for name in re.findall(r"\bscripts/([a-z][a-z-]*(?:\.sh)?)", page.read_text(encoding="utf-8")):
        assert (ROOT / "scripts" / name).exists(), f"{page.name} names scripts/{name}, which is not there"


if __name__ == "__main__":
    OPERATIONS.write_text(written(OPERATIONS.read_text(encoding="utf-8")), encoding="utf-8")
