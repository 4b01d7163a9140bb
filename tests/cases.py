"""Many cases of one claim: the first few by default, the others among the slow tests."""

import pytest


def cases(values, by_default=2):
    """Return parameters for ``pytest.mark.parametrize``, slow from number `by_default` on."""
    return [
        pytest.param(value, marks=[pytest.mark.slow] * (k >= by_default))
        for k, value in enumerate(values)
    ]
