"""Specimens that many tests share: every activation, every interpolation, small fields and data.

The fields are larger in weight than the ones users start from, so that every derivative matters,
and small in size, so that brute force is affordable.
"""

import importlib
import signal
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from snode import StandaloneField, get_activation, solve_direct

DEMOS = Path(__file__).parent.parent / "demos"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark cases of a grid slow: all but the first and about one in n, by chance, once for all."""
    seen = set()
    for item in items:
        grid, function = item.get_closest_marker("grid"), item.nodeid.partition("[")[0]
        if grid and function in seen and crc32(item.nodeid.encode()) % grid.args[0]:
            item.add_marker(pytest.mark.slow)
        seen.add(function)


@pytest.fixture(scope="session", autouse=True)
def _hangup():
    """A closed terminal ends a process, also where the tests were started by nohup."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


# name, parameters, points where sigma is not smooth (sigma' or sigma'' jumps)
ACTIVATIONS = (
    ("sigmoid", {}, ()),
    ("tanh", {}, ()),
    ("relu", {}, (0.0,)),
    ("leaky_relu", {}, (0.0,)),
    ("leaky_relu", {"alpha": 0.2}, (0.0,)),
    ("smooth_relu", {}, (-0.1, 0.1)),
    ("smooth_leaky_relu", {}, (-0.1, 0.1)),
    ("smooth_leaky_relu", {"alpha": 0.3, "width": 0.5}, (-0.5, 0.5)),
    ("elu", {}, (0.0,)),
    ("elu", {"alpha": 0.2}, (0.0,)),
    ("elu", {"alpha": 1.7}, (0.0,)),
    ("softplus", {}, ()),
    ("identity", {}, ()),
    ("leaky_tanh", {}, ()),
    ("leaky_tanh", {"alpha": 0.4}, ()),
    ("leaky_tanh_c1", {}, (-1.8184464592320668,)),
    ("leaky_tanh_c1", {"alpha": 0.4}, (-1.0317185344477801,)),
)


def _label(entry):
    name, params, _ = entry
    return name + "".join(f"-{key}{value}" for key, value in params.items())


@pytest.fixture(params=ACTIVATIONS, ids=_label)
def activation(request):
    """Every activation of the table, with several parameters."""
    name, params, _ = request.param
    return get_activation(name, **params)


@pytest.fixture(params=["constant", "linear", "cubic"])
def interpolation(request):
    return request.param


@pytest.fixture
def make_field():
    """Return make(n, K, ...) -> StandaloneField with independent normal weights."""

    def make(
        n=3, K=4, *, T=1.5, activation="tanh", interpolation="constant", scale=1.0, seed=0,
        dtype=np.float64,
    ):  # fmt: skip
        rng = np.random.default_rng([seed, n, K])
        size = K + (interpolation != "constant")
        W = scale * rng.standard_normal((size, n, n)) / np.sqrt(n)
        b = 0.5 * scale * rng.standard_normal((size, n))
        return StandaloneField(
            W.astype(dtype), b.astype(dtype), T,
            activation=activation, interpolation=interpolation,
        )  # fmt: skip

    return make


@pytest.fixture
def make_smooth_case(make_field):
    """Return make(...) -> (field, x0) whose pre-activations keep away from every kink.

    Finite differences need it: a kink between two evaluations is no fault of the derivative.
    """

    def make(activation, *, m=3, margin=0.01, seed=0, **options):
        breaks = next(
            points
            for name, params, points in ACTIVATIONS
            if get_activation(name, **params).spec == activation.spec
        )
        for attempt in range(500):
            field = make_field(activation=activation, seed=1000 * seed + attempt, **options)
            x0 = np.random.default_rng([seed, attempt]).uniform(-1, 1, (field.n, m))
            if _distance(field, x0, breaks) >= margin:
                return field, x0
        raise AssertionError("no draw keeps away from the kinks")

    return make


def _distance(field, x0, breaks):
    sol = solve_direct(field, x0, keep="trajectory")
    identity = StandaloneField(
        field.W, field.b, field.T, activation="identity", interpolation=field.interpolation
    )
    a = np.stack([identity(t, x) for t, x in zip(sol.t[:-1], sol.x[:-1], strict=True)])
    return min((np.abs(a - point).min() for point in breaks), default=np.inf)


@pytest.fixture
def random_like():
    """Return f(mapping, seed) -> mapping of normal arrays of the same shapes and dtypes."""

    def draw(parameters, seed=0):
        rng = np.random.default_rng([77, seed])
        return {k: rng.standard_normal(p.shape).astype(p.dtype) for k, p in parameters.items()}

    return draw


@pytest.fixture
def moved():
    """Return f(field, direction, eps) -> field at theta + eps d."""

    def move(field, direction, eps):
        theta = {k: p + eps * direction[k] for k, p in field.parameters.items() if k in direction}
        return field.with_parameters(**theta)

    return move


@pytest.fixture(params=["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def cp(request, monkeypatch):
    """CuPy, or what stands in for it."""
    if request.param == "cupy":
        module = pytest.importorskip("cupy")
        if module.cuda.runtime.getDeviceCount() == 0:
            pytest.skip("no GPU")
        return module
    import fakecupy

    monkeypatch.setitem(sys.modules, "cupy", fakecupy.make())
    return sys.modules["cupy"]


@pytest.fixture
def interrupts():
    """Ctrl-C raises KeyboardInterrupt, also where the shell started us with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def demo():
    """Load a demo by name, ``snode/fig11_noise``; scripts beside it can be imported by it."""

    def load(name):
        folder, module = name.split("/")
        path = str(DEMOS / folder)
        if path not in sys.path:
            sys.path.insert(0, path)
        return importlib.import_module(module)

    return load
