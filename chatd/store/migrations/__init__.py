"""The schema's history, one Alembic revision per change, for SQLite and MySQL alike."""
