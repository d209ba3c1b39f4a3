"""How Alembic runs: always on the connection that `hwtrust_backend.db.schema` gives it."""

from __future__ import annotations

from alembic import context

from hwtrust_backend.db.base import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
