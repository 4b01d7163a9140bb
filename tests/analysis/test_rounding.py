"""The class that is computed does not change inside of a certified radius: rounding included."""

from fractions import Fraction

import numpy as np
import pytest

import snode
from snode.analysis.growth_rates import Layers
from snode.analysis.rounding import ACTIVATION, spread_of_euler

DTYPES = ["float32", "float64"]


def nearly_parallel(rng, dtype, n, activation="identity", n_steps=1):
    """A classifier whose rows of V differ by a few roundings, and whose classes meet near x."""
    eps = np.finfo(dtype).eps
    W = (rng.standard_normal((n_steps, n, n)) * rng.uniform(0.2, 2)).astype(dtype)
    b = rng.standard_normal((n_steps, n)).astype(dtype)
    body = snode.StandaloneField(W, b, rng.uniform(0.1, 3.0), activation=activation)
    row = rng.standard_normal(n) * 10.0 ** rng.integers(-2, 7)
    near = row * (1 + eps * rng.integers(1, 200) * rng.standard_normal(n))
    x = rng.standard_normal((n, 1)).astype(dtype)
    size = 10.0 ** rng.uniform(0, 6) * eps * np.abs(row).max()
    return snode.Classifier(
        body, np.array([row, near], dtype), np.array([0.0, rng.standard_normal() * size], dtype)
    ), x


def flips(field, x, found, directions, fractions):
    """Computed classes of arrays whose exact distance from x is less than the radius."""
    bad = tried = 0
    radius = Fraction(float(found.radius[0]))
    for d in directions:
        for part in fractions:
            moved = (x.astype(np.float64) + part * found.radius[0] * d[:, None]).astype(x.dtype)
            if not np.isfinite(moved).all():
                continue
            gaps = [
                Fraction(float(a)) - Fraction(float(c))
                for a, c in zip(moved.flat, x.flat, strict=True)
            ]
            if sum(g * g for g in gaps) >= radius * radius:
                continue
            tried += 1
            bad += int(snode.predict(field, moved)[0] != found.label[0])
    return bad, tried


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.grid(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "activation", "n_steps"), [
    (1, "identity", 1), (1, "tanh", 3), (2, "identity", 2), (3, "leaky_relu", 4),
])  # fmt: skip
def test_no_class_flips_inside_of_the_radius(dtype, n, activation, n_steps):
    rng = np.random.default_rng([n, n_steps])
    certified = tried = 0
    for _ in range(60):
        field, x = nearly_parallel(rng, dtype, n, activation, n_steps)
        found = snode.certified_radius(field, x, method="norms")
        if not 0 < found.radius[0] < np.inf:
            continue
        certified += 1
        toward = field.V[1].astype(float) - field.V[0]
        directions = [*np.eye(n), *-np.eye(n), *rng.standard_normal((4, n)), toward, -toward]
        directions = [d / np.linalg.norm(d) for d in directions if d.any()]
        bad, count = flips(field, x, found, directions, [0.3, 0.5, 0.9, 0.99, 1 - 1e-6])
        assert not bad
        tried += count
    assert certified >= 5
    assert tried >= 100


@pytest.mark.parametrize(
    ("dtype", "V", "c", "w", "T", "x0", "part"),
    [
        ("float32", [-0.36583662033081055, -0.36583665013313293], [0.0, 0.0011366904946044087],
         -1.7183743715286255, 3.0, 0.15700108, 0.5),
        ("float64", [2181362.094879416, 2181362.094879383], [0.0, 1.6164397982799024],
         -1.0017659973535433, 0.1, 1.4702837353486158, 0.99),
    ],
)  # fmt: skip
def test_found_flips_are_outside(dtype, V, c, w, T, x0, part):
    body = snode.StandaloneField(
        np.full((1, 1, 1), w, dtype), np.zeros((1, 1), dtype), T, activation="identity"
    )
    field = snode.Classifier(body, np.array(V, dtype)[:, None], np.array(c, dtype))
    found = snode.certified_radius(field, np.array([[x0]], dtype))
    one = [np.array([1.0]), np.array([-1.0])]
    assert flips(field, np.array([[x0]], dtype), found, one, [part, 0.999])[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_far_apart_lose_next_to_nothing(dtype):
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((20, 4, 4)) / 4 - np.eye(4)).astype(dtype)
    body = snode.StandaloneField(W, np.zeros((20, 4), dtype), 1.0, activation="leaky_tanh")
    field = snode.Classifier.random(body, 3, rng=1)
    x = rng.standard_normal((4, 30)).astype(dtype)
    found = snode.certified_radius(field, x)
    V = field.V.astype(np.float64)
    z = np.sort((V @ snode.solve_direct(body, x, keep="last").x_T), axis=0)
    plain = (z[-1] - z[-2]) / (
        np.linalg.norm(V[:, None] - V, axis=2).max() * found.growth.factor[-1]
    )
    eps = np.finfo(dtype).eps
    assert (found.radius >= plain * (1 - 1e-3) - 2000 * eps).all()


# --- the running bound ----------------------------------------------------------------------------


def fields(dtype, rng):
    W = rng.standard_normal((6, 3, 3)).astype(dtype)
    b = rng.standard_normal((6, 3)).astype(dtype)
    for activation in ("tanh", "relu", "softplus", "sigmoid"):
        yield snode.StandaloneField(W, b, 2.0, activation=activation)
    yield snode.StandaloneField(W, b, 2.0, activation="elu", interpolation="linear")
    yield snode.MLPField((3, 5, 4, 3), time="concat", rng=2, T=2.0, n_layers=6, dtype=dtype)
    yield snode.MLPField((3, 4, 3), output_activation="same", rng=2, n_layers=6, dtype=dtype)


def test_computed_states_stay_within_the_bound_of_exact_ones():
    # float64 stands for exact arithmetic: its own error is 1e-9 of what is bounded here
    rng = np.random.default_rng(3)
    for field in fields("float32", rng):
        layers, x = Layers.of(field), rng.standard_normal((3, 40)).astype(np.float32)
        factors = np.exp(snode.growth_bound(field, kind="euler", method="norms").upper
                         * np.diff(layers.grid))  # fmt: skip
        spread = spread_of_euler(layers, factors, field, x)
        exact = field.with_parameters(
            **{name: p.astype(np.float64) for name, p in field.parameters.items()}
        )
        true = snode.solve_direct(exact, x.astype(np.float64), keep="last").x_T
        error = np.linalg.norm(spread.x_T - true, axis=0)
        # the offset is for two passes, so half of it for one
        assert (error <= 0.5 * spread.offset).all()
        assert (0.5 * spread.offset <= 3e4 * error.max()).all()
        for size in (1e-7, 1e-3, 10.0):  # other inputs, other batches
            moved = x + (size * rng.standard_normal(x.shape)).astype(np.float32)
            distance = np.linalg.norm(moved.astype(float) - x, axis=0)
            apart = snode.solve_direct(field, moved[:, :7].copy(), keep="last").x_T
            apart = np.linalg.norm(apart.astype(float) - spread.x_T[:, :7], axis=0)
            assert (apart <= spread.gain * distance[:7] + spread.offset[:7]).all()


@pytest.mark.parametrize("spec", [
    *snode.activation_names(), {"name": "elu", "alpha": 100.0},
    {"name": "leaky_tanh_c1", "alpha": 1e-3}, {"name": "smooth_leaky_relu", "width": 10.0},
    {"name": "smooth_relu", "width": 1e-3},
], ids=str)  # fmt: skip
def test_activations_are_right_to_what_the_bound_allows(spec):
    entry = snode.get_activation(spec)
    far = np.logspace(-6, 3, 2000)
    a = np.concatenate([-far, far, np.linspace(-12, 12, 5001)]).astype(np.float32)
    error = np.abs(entry.value(a) - entry.value(a.astype(np.float64)))
    S = max(1.0, *map(abs, entry.slope_interval))
    allowed = ACTIVATION * np.finfo(np.float32).eps * (S * np.abs(a) + abs(entry.at_zero()))
    assert (error <= 0.5 * allowed).all()
