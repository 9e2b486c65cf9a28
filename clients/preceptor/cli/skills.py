"""`preceptor skills`: skill banks, their versions, and what their skills are worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from preceptor.cli import output
from preceptor.cli.files import read_text
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.errors import Invalid
from preceptor.resources.skills import Progress as Report
from preceptor.resources.skills import pinned
from preceptor.wire.skills import Lift, Skill, SkillBankVersion

app = typer.Typer(help="Look at skill banks, search them, compare them, carry them over.", no_args_is_help=True)

Bank = Annotated[str, typer.Argument(metavar="BANK[@VERSION]", help="The bank; without a version, its latest.")]
_SHOWN = 160
"""Characters of a text that a table shows."""


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All skill banks."""
    with connect(url, key_file) as client:
        banks = client.skills.list()
    if as_json:
        return output.show_json(banks)
    rows = [(b.name, b.version, b.skills, b.cap, b.task, b.description[:_SHOWN], b.updated_at) for b in banks]
    empty = "No skill banks yet: `preceptor skills import FILE`, or Client().skills.create(...)."
    output.show_table(("bank", "version", "skills", "cap", "task", "about", "changed"), rows, empty=empty)


@app.command()
def show(
    bank: Bank,
    versions: Annotated[bool, typer.Option("--versions", help="Its versions instead of its skills.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """The skills of a version, and what each was measured to be worth."""
    name, version = pinned(bank)
    with connect(url, key_file) as client:
        if versions:
            return _show_versions(list(client.skills.versions(name)), as_json)
        about, skills = client.skills.get(name), list(client.skills.skills(name, version=version))
    if as_json:
        return output.show_json({"bank": about.model_dump(mode="json"), "skills": _plain(skills)})
    output.show_facts({"bank": about.name, "about": about.description or None, "task": about.task})
    _show_skills(skills)


@app.command()
def search(
    bank: Bank,
    query: Annotated[str, typer.Argument(help="Words to look for, or a whole question.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 10,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """The skills that share words with a query or are like it, best first."""
    name, version = pinned(bank)
    with connect(url, key_file) as client:
        hits = client.skills.search(name, query, limit=limit, version=version)
    if as_json:
        return output.show_json(hits)
    rows = [(h.skill.number, *_texts(h.skill), h.lexical, h.similarity) for h in hits]
    output.show_table(("skill", "what to do", "mistake", "words", "likeness"), rows, empty="Nothing like it.")


@app.command()
def diff(
    first: Bank, second: Bank, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False
) -> None:
    """What one version holds and the other does not; the banks may be two."""
    with connect(url, key_file) as client:
        found = client.skills.diff(first, second)
    if as_json:
        return output.show_json(found)
    marked = [(mark, each) for mark, skills in (("-", found.removed), ("+", found.added)) for each in skills]
    marked += [("again", each) for each in found.learned_again]
    rows = [(mark, each.id, *_texts(each)) for mark, each in marked]
    output.show_table(("", "skill", "what to do", "mistake"), rows, empty="They hold the same skills.")
    output.console.print(f"{found.same} in both.", style="dim")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` has written.")],
    name: Annotated[str | None, typer.Option(help="Another name for the bank than the file's.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Make a bank from a file, or fold the file into the bank of its name. Every hash is checked first."""
    lines = read_text(file).split("\n")  # and no others of Unicode's line ends: a skill may hold them
    with connect(url, key_file) as client, _bar(as_json) as bar:
        bank = client.skills.import_(lines, name=name, progress=_reports(bar, "skills sent"))
    if as_json:
        return output.show_json(bank)
    output.console.print(f"{bank.name}@{bank.version} holds {bank.skills} skills.")


@app.command()
def export(
    bank: Bank,
    file: Annotated[Path | None, typer.Argument(help="Where to write it; left out: standard output.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Write a version as JSON lines with a hash for each skill and one for all."""
    name, version = pinned(bank)
    if file is None and as_json:
        raise Invalid("--json tells what was written to a file; there is none.", field="file", remedy="Name a file.")
    with connect(url, key_file) as client, _bar(as_json) as bar:
        lines = list(client.skills.export(name, version=version, progress=_reports(bar, "skills read")))
    text = "".join(f"{line}\n" for line in lines)
    if file is None:
        sys.stdout.write(text)
        return
    file.expanduser().write_text(text, encoding="utf-8")
    if as_json:
        return output.show_json({"file": str(file), "skills": len(lines) - 1})
    output.console.print(f"{len(lines) - 1} skills are in {file}", soft_wrap=True)


def _bar(as_json: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return output.bars(as_json, *columns)


def _reports(bar: Progress, what: str) -> Report:
    task = bar.add_task(what, total=None)
    return lambda done, of: bar.update(task, completed=done, total=of)


def _show_versions(versions: list[SkillBankVersion], as_json: bool) -> None:
    if as_json:
        return output.show_json(versions)
    rows = [
        (v.version, v.base, v.skills, *map(_count, (v.added, v.folded, v.removed, v.evicted)), _author(v), v.created_at)
        for v in versions
    ]
    columns = ("version", "base", "skills", "added", "folded", "removed", "evicted", "by", "made")
    output.show_table(columns, rows, empty="No version yet: the bank is empty.")


def _author(version: SkillBankVersion) -> str | None:
    return None if version.run is None else f"{version.run}, step {version.step}"


def _show_skills(skills: list[Skill]) -> None:
    rows = [
        (
            s.number,
            *_texts(s),
            len(s.sources),
            s.usefulness.used,
            *map(_lift, (s.usefulness.outcome, s.usefulness.support)),
        )
        for s in skills
    ]
    columns = ("skill", "what to do", "mistake", "sources", "used", "outcome", "support")
    output.show_table(columns, rows, empty="This version is empty.")


def _lift(lift: Lift | None) -> str | None:
    return None if lift is None else f"{lift.mean:+.3f} [{lift.low:+.3f}, {lift.high:+.3f}]"


def _texts(skill: Skill) -> tuple[str | None, str | None]:
    short = [" ".join(text.split())[:_SHOWN] or None for text in (skill.skill, skill.mistake)]
    return short[0], short[1]


def _count(things: tuple[object, ...]) -> int | None:
    return len(things) or None


def _plain(skills: list[Skill]) -> list[object]:
    return [each.model_dump(mode="json") for each in skills]
