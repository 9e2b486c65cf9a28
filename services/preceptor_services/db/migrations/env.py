"""Alembic's entry. The connection comes from `upgrade`: there is no configuration file, and no URL to go wrong."""

from alembic import context

from preceptor_services.db.columns import Document, Instant
from preceptor_services.db.models import Base


def rendered(kind, item, autogen_context):
    """Our column types as what they are to the database: a migration must not change when our code does."""
    if kind == "type" and isinstance(item, Document):
        return "sa.JSON(none_as_null=True)"
    if kind == "type" and isinstance(item, Instant):
        return "sa.DateTime(timezone=True)"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter a table; alembic then makes a new one and moves the rows.
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=rendered,
    transaction_per_migration=False,
)
context.run_migrations()
