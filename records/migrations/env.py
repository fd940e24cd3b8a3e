"""What Alembic runs to apply versions: on the connection, and in the transaction, of `migrations.upgrade`."""

from alembic import context

from records.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
