"""The skill bank of a run, kept by the control plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preceptor.client import Client
from preceptor.pool import TeacherPool
from preceptor.resources.skills import pinned
from preceptor.skills.embedding import open_embedder
from preceptor.wire.runs import Run
from preceptor.wire.skills import Skill, SkillBankVersion, SkillCreate, SkillSource, SkillUse, SkillUses
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.skill_bank import RunBank


class KeptBank:
    """The trainer's `Shelf`, over the SDK."""

    def __init__(self, client: Client, run: str, bank: str) -> None:
        self._skills, self._run, self._bank = client.skills, run, bank

    def skills(self, version: int) -> Sequence[Skill]:
        return list(self._skills.skills(self._bank, version=version))

    def published(self) -> Mapping[int, int]:
        made = (each for each in self._skills.versions(self._bank) if each.run == self._run)
        return {each.step: each.version for each in made if each.step is not None}

    def publish(self, base: int, add: Sequence[SkillCreate], step: int) -> SkillBankVersion:
        learned = [each.model_copy(update={"sources": self._sources(each, step)}) for each in add]
        return self._skills.publish(self._bank, base, learned, run=self._run, step=step)

    def record(self, uses: Sequence[SkillUse], step: int) -> None:
        self._skills.record_uses(self._bank, SkillUses(run=self._run, step=step, uses=tuple(uses)))

    def _sources(self, skill: SkillCreate, step: int) -> tuple[SkillSource, ...]:
        return tuple(each.model_copy(update={"run": self._run, "step": step}) for each in skill.sources)


def open_bank(run: Run, client: Client, pool: TeacherPool) -> RunBank | None:
    """The bank that a run has pinned; None: it names none. Raises PreceptorError."""
    if run.skills is None:
        return None
    name, version = pinned(run.skills)
    assert version is not None, "the control plane pins one at submit"
    embedder = open_embedder(client.skills.get(name).embedder)
    return RunBank(KeptBank(client, run.id, name), version, embedder, Recipe.model_validate(run.resolved), pool)
