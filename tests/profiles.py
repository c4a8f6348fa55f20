"""How long hypothesis searches: briefly and the same way each time, or, with the environment
variable CHATD_SEARCH=long, far and elsewhere each time.
"""

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("CHATD_SEARCH", "") == "long"
STEPS = 50  # of a machine's run

# What fails is printed so that it can be repeated.
_FIXED = settings(derandomize=not LONG, database=None, deadline=None, print_blob=True)


def search(examples: int) -> settings:
    """For so many examples: 7,500 in a long search, where a dozen tests make 10^5."""
    return settings(_FIXED, max_examples=7_500 if LONG else examples)


def machine(runs: int, many: int) -> settings:
    """For so many runs of a machine of `STEPS` steps each; `many` in a long search."""
    return settings(
        _FIXED,
        max_examples=many if LONG else runs,
        stateful_step_count=STEPS,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),  # a step is what takes time, not to find one
    )
