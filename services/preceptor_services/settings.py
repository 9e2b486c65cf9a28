"""Settings of the control plane: `PRECEPTOR_*` in the environment.

A secret X may also be given as X_FILE, the path of a file that holds it; that is how composed containers get theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from preceptor_services.errors import BadSetting

PREFIX = "PRECEPTOR_"
MIB = 2**20


class SecretFiles(PydanticBaseSettingsSource):
    """Reads every field of type SecretStr from the file that `<variable>_FILE` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = PREFIX + field_name.upper()
        secret = "SecretStr" in str(field.annotation)
        return (read_secret(variable) if secret and not os.environ.get(variable) else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class ServiceSettings(BaseSettings):
    """The base of every service's settings: the environment first, then the files of secrets.

    Raises pydantic's ValidationError, or BadSetting where a secret's file cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True, use_attribute_docstrings=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretFiles(settings_cls)


class Settings(ServiceSettings):
    """What the control plane is told from outside."""

    home_dir: Path = Path("~/.preceptor")
    """Where blobs lie, and the SQLite database unless `database_url` names another."""
    database_url: SecretStr | None = None
    """`sqlite:///path` or `postgresql://user:password@host/name`."""
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Any server that speaks the Redis protocol."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8420, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    lease_seconds: float = Field(default=30.0, gt=0, le=3600)
    """How long a worker's lease lasts without a heartbeat."""
    visibility_timeout: float = Field(default=3600.0, gt=0)
    """Seconds after which the broker hands an unacknowledged message to another worker."""
    sweep_seconds: float = Field(default=2.0, gt=0, le=600)
    """How often expired leases are looked for."""
    watch_seconds: float = Field(default=5.0, gt=0, le=3600)
    """How often the endpoints of teachers that runs use are looked at."""
    requeue_seconds: float = Field(default=900.0, gt=0)
    """How long a run may be queued before its message is sent once more, in case the broker lost it."""
    recipes: Path | None = None
    """A folder of recipes of your own, one file each; the workers need the same. docs/your-own-method.md."""
    admin_key: SecretStr | None = None
    """A key of scope admin that is registered at start, instead of one that is made up and printed."""
    worker_key: SecretStr | None = None
    """A key of scope run that is registered at start, in place of the last one."""
    max_body_bytes: int = Field(default=16 * MIB, ge=1024)
    """Largest JSON body."""
    max_piece_bytes: int = Field(default=64 * MIB, ge=1024)
    """Largest piece of an upload."""
    max_artifact_bytes: int = Field(default=256 * 1024 * MIB, ge=1)
    """Largest artifact."""
    refused_networks: Annotated[tuple[str, ...], NoDecode] = (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "100.100.100.200/32",
        "192.0.0.192/32",
    )
    """Networks that no teacher's URL may lead to, comma-separated: link-local and the metadata services of clouds."""

    @field_validator("home_dir")
    @classmethod
    def _expanded(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("admin_key", "worker_key")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < 20:
            raise ValueError("is too short to be safe; give at least 20 random characters")
        return secret

    @field_validator("refused_networks", mode="before")
    @classmethod
    def _networks(cls, networks: str | tuple[str, ...]) -> tuple[str, ...]:
        each = networks.split(",") if isinstance(networks, str) else networks
        return tuple(str(ip_network(network.strip())) for network in each)

    @property
    def database(self) -> str:
        """The database's URL."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home_dir / 'preceptor.db'}"

    @property
    def blob_dir(self) -> Path:
        """Where contents lie."""
        return self.home_dir / "blobs"


def read_secret(variable: str, env: Mapping[str, str] | None = None) -> str | None:
    """What a variable holds, or the file that `<variable>_FILE` names; None where neither is set.

    Raises BadSetting where the file cannot be read.
    """
    env = os.environ if env is None else env
    if value := env.get(variable):
        return value
    path = env.get(variable + "_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{variable}_FILE: {path} cannot be read ({error}). Name a readable file.") from error
