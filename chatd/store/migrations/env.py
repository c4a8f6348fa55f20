"""Runs the revisions on the connection that chatd.store.schema hands over."""

from alembic import context

# The caller has locked the database and commits, so no transaction is begun here.
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
