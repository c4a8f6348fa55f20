"""What is kept: the rooms' logs, the accounts, and the schema they live in."""
