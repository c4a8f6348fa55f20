"""The tests of chatd: `python -m twisted.trial tests` or `pytest`."""
