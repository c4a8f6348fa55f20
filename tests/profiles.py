"""How long hypothesis searches: briefly and the same way each time, or long and anywhere."""

import os

from hypothesis import HealthCheck, Phase, settings

LONG = os.environ.get("CHATD_SEARCH") == "long"


def machine() -> settings:
    return settings(
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        max_examples=int(os.environ.get("N", "60")),
        stateful_step_count=50,
        **({'phases': (Phase.generate,)} if 'NOSHRINK' in os.environ else {}),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
