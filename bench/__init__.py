"""The benchmark of chatd; `python -m bench --help`."""
