"""The transpose of a linearisation with its parameter part, for tests."""

import snode


def pulled(field, lin, p, weight=1.0):
    """Return f_x^T p and {name: weight f_theta^T p}."""
    into = snode.Partials.of(field.parameters)
    return lin.vjp(p, into.times(weight)), into.arrays
