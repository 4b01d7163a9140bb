"""Second opinions for the tests of derivatives: textbook Runge-Kutta, fields written as formulas.

Nothing here calls the package's solvers or linearisations. Everything takes complex numbers, so a
complex step gives the derivative of the numbers without cancellation.
"""

from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline

import snode

FROZEN = {"ode23": "bogacki_shampine", "ode45": "dormand_prince"}
"""The fixed-step method that takes the steps of an adaptive one again."""

FIELDS = ("constant", "linear", "cubic", "mlp", "mlp of t", "function")
T = 1.5


def make(kind, n=3, K=4, seed=0):
    """Return a field with large parameters that has every derivative."""
    rng = np.random.default_rng([seed, n, K])
    if kind.startswith("mlp"):
        time = "concat" if kind == "mlp of t" else "none"
        field = snode.MLPField((n, 5, n), time=time, T=T, n_layers=K, scale=1.5, rng=seed)
        biases = {k: 0.5 * rng.standard_normal(field.parameters[k].shape) for k in ("b1", "b2")}
        return field.with_parameters(**biases)
    if kind == "function":
        theta = {"A": rng.standard_normal((n, n)), "c": rng.standard_normal(n)}
        return snode.FunctionField(
            _waves, n, parameters=theta, jvp=_waves_jvp, vjp=_waves_vjp, df_dt=_waves_dt,
            T=T, n_layers=K,
        )  # fmt: skip
    size = K + (kind != "constant")
    W = 1.2 * rng.standard_normal((size, n, n)) / np.sqrt(n)
    b = 0.6 * rng.standard_normal((size, n))
    return snode.StandaloneField(W, b, T, interpolation=kind)


def _waves(t, x, theta):
    return theta["A"] @ np.tanh(x) + np.cos(3 * t) * theta["c"][:, None] * x


def _waves_jvp(t, x, theta, dx, dtheta):
    slope = 1 - np.tanh(x) ** 2
    return (
        theta["A"] @ (slope * dx) + dtheta["A"] @ np.tanh(x)
        + np.cos(3 * t) * (theta["c"][:, None] * dx + dtheta["c"][:, None] * x)
    )  # fmt: skip


def _waves_vjp(t, x, theta, p):
    pull = (1 - np.tanh(x) ** 2) * (theta["A"].T @ p) + np.cos(3 * t) * theta["c"][:, None] * p
    return pull, {"A": p @ np.tanh(x).T, "c": np.cos(3 * t) * (p * x).sum(axis=1)}


def _waves_dt(t, x, theta):
    return -3 * np.sin(3 * t) * theta["c"][:, None] * x


def formula(field, theta):
    """Return f(t, x, middle) written out; `middle` is the middle of the step, for the jumps."""
    if isinstance(field, snode.FunctionField):
        return lambda t, x, middle: _waves(t, x, theta)
    if isinstance(field, snode.MLPField):
        return lambda t, x, middle: _perceptron(field, theta, t, x)

    def layer(t, x, middle):
        W, b = (_at_depth(field, theta[name], t, middle) for name in ("W", "b"))
        return np.tanh(W @ x + b[:, None])

    return layer


def _perceptron(field, theta, t, x):
    if field.time == "concat":
        x = np.concatenate([x, np.full((1, x.shape[1]), t)])
    hidden = np.tanh(theta["W1"] @ x + theta["b1"][:, None])
    return theta["W2"] @ hidden + theta["b2"][:, None]


def _at_depth(field, stack, t, middle):
    nodes = field.grid
    if field.interpolation == "constant":
        return stack[int(middle / field.T * field.n_layers)]
    if field.interpolation == "linear":
        i = min(int(np.real(t) / field.T * field.n_layers), field.n_layers - 1)
        s = (t - nodes[i]) / (nodes[i + 1] - nodes[i])
        return (1 - s) * stack[i] + s * stack[i + 1]
    spline = CubicSpline(nodes, stack)
    return spline(np.real(t)) + 1j * np.imag(t) * spline(np.real(t), 1)


def runge_kutta(f, tableau, t, x0):
    """Return the trajectory: the two formulas of the method, loop by loop."""
    x = [x0]
    for start, stop in pairwise(t):
        h, middle = stop - start, np.real(start + stop) / 2
        K = []
        for i in range(len(tableau.b)):
            y = x[-1]
            for a, k in zip(tableau.a[i], K, strict=True):
                y = y + h * float(a) * k
            K.append(f(start + float(sum(tableau.a[i])) * h, y, middle))
        new = x[-1]
        for b, k in zip(tableau.b, K, strict=True):
            new = new + h * float(b) * k
        x.append(new)
    return np.stack(x)


def states(n=3, m=4, seed=0):
    return np.random.default_rng([5, seed]).standard_normal((n, m))


def direction(field, seed=0):
    """Return normal numbers like the parameters."""
    rng = np.random.default_rng([6, seed])
    return {name: rng.standard_normal(p.shape) for name, p in field.parameters.items()}


def moved(field, d, eps):
    """Return the field at theta + eps d."""
    return field.with_parameters(
        **{name: field.parameters[name] + eps * change for name, change in d.items()}
    )


def inner(a, b):
    """Return the Euclidean inner product of two mappings, over the names of the first."""
    return sum(float(np.sum(a[name] * b[name])) for name in a)
