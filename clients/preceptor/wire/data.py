"""Where a run's tasks come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from preceptor.wire.common import ArtifactId, Wire

PARTS = ("prompt", "messages", "answer", "reference")
"""What a row's columns may be to every run; recipes and verifiers may read others, by their own names."""


class TaskSource(Wire):
    """Procedural tasks: made on the fly from a seed, scored by the task's own verifier."""

    kind: Literal["task"] = "task"
    """Says that this is a procedural task."""
    task: str = Field(max_length=200)
    """The task's name, e.g. `spell_backward`."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The task's own settings, e.g. `{"min_word_len": 3}`."""


class DatasetSource(Wire):
    """A user's own rows: an artifact of kind `dataset` (JSONL or Parquet)."""

    kind: Literal["dataset"] = "dataset"
    """Says that this is a dataset."""
    artifact: ArtifactId
    """The dataset's artifact."""
    columns: dict[str, str] = Field(default_factory=dict[str, str])
    """Which column plays which part: `{"answer": "solution"}` reads `answer` from the column `solution`. The parts are
    `prompt` or `messages`, `answer`, `reference`; one that is not named here has the column of its own name."""
    verifier: str = Field(default="exact", max_length=100)
    """How a completion is judged, by name: `exact`, `math` (math-verify), `procedural` (reasoning-gym's own scorer),
    `program` (runs it, with limits, against the column `library`), `disclosure` (columns `needed` and `secret`)."""
    held_out: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the rows that is never trained on, drawn by a hash of the prompt."""

    def column(self, part: str) -> str:
        """The column that plays a part."""
        return self.columns.get(part, part)


DataSpec = Annotated[TaskSource | DatasetSource, Field(discriminator="kind")]
"""Where tasks come from, told apart by `kind`."""
