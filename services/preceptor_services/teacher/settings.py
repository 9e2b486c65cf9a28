"""Settings of a teacher: `PRECEPTOR_TEACHER_*` in the environment, the command line above it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from preceptor_services.settings import PREFIX, ServiceSettings

MIB = 1 << 20


class TeacherSettings(ServiceSettings):
    """What a teacher is told from outside. The key may also be given as PRECEPTOR_TEACHER_KEY_FILE."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    teacher_key: SecretStr
    """What callers must show: `Authorization: Bearer KEY`."""
    teacher_name: str = Field("teacher", min_length=1, max_length=100)
    """What the teacher calls itself on its card and stamps."""
    teacher_max_queue: int = Field(64, ge=1)
    """Requests that may wait or be worked on; one more is answered 429."""
    teacher_max_batch_tokens: int = Field(262_144, ge=1)
    """Most tokens in one score request, contexts counted with every completion."""
    teacher_forward_tokens: int | None = Field(None, ge=1)
    """Most tokens, padding included, in one forward pass; none: 2,048 on a CPU, 8,192 on a GPU."""
    teacher_compile: bool = False
    """Compile the model's layers with torch (hf backend): minutes at the start, faster passes; `--compile`."""
    teacher_prefix_bytes: int = Field(256 * MIB, ge=0)
    """Memory for the keys and values of contexts that were read before; 0: every context is read again."""
    teacher_engine_key: SecretStr | None = None
    """The key of an engine's server that runs elsewhere (`--engine-url`); also PRECEPTOR_TEACHER_ENGINE_KEY_FILE."""
    teacher_max_k: int = Field(1_024, ge=1)
    """Most ids per position."""
    teacher_max_body_bytes: int = Field(256 * MIB, ge=1024)
    """Largest request body."""
    teacher_max_new_tokens: int = Field(4_096, ge=1)
    """Longest text that one completion request may ask for."""

    teacher_takes_weights: bool = False
    """Whether `POST /v1/weights` may load another version of the model's weights."""
    teacher_frozen_head: bool = False
    """Declare that the head never changes, and refuse weights that would move it: learners fetch it once."""
    teacher_weights_dir: Path | None = None
    """Where weights are written that are sent; else the system's temporary folder. Room for two versions, for three
    with an engine, which must see the folder under the same path."""

    @field_validator("teacher_key")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value()) < 20:
            raise ValueError("is too short to be safe; give at least 20 random characters")
        return secret
