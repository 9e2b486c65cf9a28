"""Alembic's entry. The connection comes from `upgrade`: there is no configuration file, and no URL to go wrong."""

from alembic import context

from preceptor_services.db.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter a table; alembic then makes a new one and moves the rows.
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
)
context.run_migrations()
