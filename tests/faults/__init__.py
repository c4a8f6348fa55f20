"""Faults injected into real daemons under load: `python -m tests.faults`."""
