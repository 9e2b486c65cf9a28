"""A worker's settings: where the control plane and the broker are, and what it may use of its machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from preceptor_services.errors import BadSetting
from preceptor_services.queue import VISIBILITY_SECONDS
from preceptor_services.settings import PREFIX, read_secret

SECRETS = ("key", "broker_url")
"""Settings that hold a secret, or may: each also reads its `_FILE`."""


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class WorkerSettings(BaseModel):
    """What a worker is told from outside, as `PRECEPTOR_*` variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: str = Field(pattern=r"^https?://\S+$")
    """The control plane."""
    key: SecretStr
    """A key of scope `run`."""
    broker_url: SecretStr
    """The broker, by any Redis-protocol URL; `rediss://` for TLS."""
    visibility_timeout: float = Field(VISIBILITY_SECONDS, gt=0)
    """Seconds after which the broker hands an unacknowledged message to another worker."""
    cache_dir: Path = Path("~/.cache/preceptor")
    """Where artifacts, teachers' heads and working folders lie."""
    cache_bytes: int = Field(20_000_000_000, ge=0)
    """How much of the disk artifacts may take before the least recently used go."""
    worker_name: str = Field(default_factory=_own_name, min_length=1, max_length=100)
    """What runs show as their worker."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The settings that the environment names. Raises BadSetting, naming the variable."""
        env = os.environ if env is None else env
        given: dict[str, object] = {}
        for name in cls.model_fields:
            variable = PREFIX + name.upper()
            value = read_secret(variable, env) if name in SECRETS else env.get(variable)
            if value:
                given[name] = value
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadSetting(f"{PREFIX}{str(first['loc'][0]).upper()}: {first['msg']}. Set this variable.") from None
