"""How a database comes to have the tables of `db.models`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

_LOCK = 7_314_050_211
"""Number of the PostgreSQL advisory lock under which migrations run: two services may start at the same time."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database up to date, or up to a revision. Does nothing where it is."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
