"""Growth bounds: closed forms, brute force over vertices, measured trajectories, attacks."""

import dataclasses
import itertools
from decimal import Decimal, localcontext

import numpy as np
import pytest

import snode
from snode.analysis.attacks import carlini_wagner, deepfool, fgsm, pgd, sensitivity_attack
from snode.analysis.growth import certified_radius, growth_bound, trajectory_gap
from snode.analysis.growth_rates import Layers

KINDS = ("flow", "euler")
ACCURATE = snode.Solver("ode45", rtol=1e-9, atol=1e-11)
SOLVERS = {"euler": "euler", "flow": ACCURATE}


def layered(n=3, K=4, *, interpolation="constant", activation="tanh", seed=0, T=1.2, size=1.0,
            shift=0.3):  # fmt: skip
    rng = np.random.default_rng([seed, n, K])
    nodes = K + (interpolation != "constant")
    W = size * rng.standard_normal((nodes, n, n)) / np.sqrt(n) - shift * np.eye(n)
    b = 0.3 * rng.standard_normal((nodes, n))
    return snode.StandaloneField(W, b, T, activation=activation, interpolation=interpolation)


def jacobians(layers, slopes):
    """Return D_k A_k ... D_1 A_1 at every vertex."""
    for d in itertools.product(
        *(itertools.product(pair, repeat=len(A)) for A, pair in zip(layers, slopes, strict=True))
    ):
        J = np.eye(layers[0].shape[1])
        for A, dj in zip(layers, d, strict=True):
            J = np.array(dj)[:, None] * (A @ J)
        yield J


def true_rate(layers, slopes):
    return max(np.linalg.eigvalsh(0.5 * (J + J.T))[-1] for J in jacobians(layers, slopes))


def true_step(layers, slopes, h):
    return max(np.linalg.norm(np.eye(len(J)) + h * J, 2) for J in jacobians(layers, slopes))


def weights(field, t):
    j, row = field.depth_basis["W"].row(t)
    return np.tensordot(row, field.W[j : j + len(row)], axes=1)


# --- the factor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_normal_matrices_and_linear_fields_are_exact(kind):
    W = np.array([[[-0.4, 1.1], [-1.1, -0.4]]]).repeat(6, axis=0)
    field = snode.StandaloneField(W, np.zeros((6, 2)), 1.5, activation="identity")
    bound = growth_bound(field, kind=kind)
    h = 0.25
    per_step = np.exp(-0.4 * h) if kind == "flow" else abs(1 + h * (-0.4 + 1.1j))
    assert bound.factor == pytest.approx(per_step ** np.arange(7), rel=1e-12)
    # every pair of trajectories attains it
    u, v = np.random.default_rng(0).standard_normal((2, 2, 5))
    gap = trajectory_gap(field, u, v, solver=SOLVERS[kind], growth=bound)
    assert gap.tightness == pytest.approx(1, abs=1e-8)
    assert gap.ratio == pytest.approx(np.outer(bound.factor, np.ones(5)), rel=1e-7)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "elu-1.7", "leaky_tanh"])
def test_constant_cells_against_all_vertices(activation):
    name, _, alpha = activation.partition("-")
    entry = snode.get_activation(name, **({"alpha": float(alpha)} if alpha else {}))
    field = layered(n=4, K=3, activation=entry)
    slopes, h = [entry.slope_interval], 0.4
    rates = np.array([true_rate([W], slopes) for W in field.W])
    steps = np.array([true_step([W], slopes, h) for W in field.W])
    flow, euler = (growth_bound(field, kind=kind) for kind in KINDS)
    assert (flow.upper >= rates - 1e-12).all()
    assert (flow.lower <= rates + 1e-12).all()
    assert (flow.upper - rates <= 0.05).all()
    assert flow.log_factor[1:] == pytest.approx(np.cumsum(h * flow.upper), abs=1e-12)
    assert (h * euler.upper >= np.log(steps) - 1e-12).all()
    assert (h * euler.upper <= np.log(steps) + 0.03).all()
    assert euler.log_factor[-1] == pytest.approx(h * euler.upper.sum(), abs=1e-12)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_between_the_nodes_against_fine_quadrature(interpolation):
    field = layered(n=3, K=5, interpolation=interpolation, activation="leaky_relu")
    bound = growth_bound(field)
    s = (np.arange(60) + 0.5) / 60
    for k in range(5):
        a, b = field.grid[k : k + 2]
        rates = [true_rate([weights(field, a + (b - a) * x)], [(0.01, 1.0)]) for x in s]
        assert np.mean(rates) <= bound.upper[k] + 1e-4  # midpoint rule
    assert bound.factor[-1] <= growth_bound(field, method="norms").factor[-1]


@pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_control_points_are_those_of_the_field(interpolation, K):
    field = layered(K=K, interpolation=interpolation, T=1.0)
    cell = 1.0 / K
    for a, b in ((0.0, cell), (0.25 * cell, 0.75 * cell), (1 - cell, 1.0)):
        points = [A[0] for A in Layers.of(field).controls(a, b)]
        for x in (0.0, 0.3, 0.8):
            curve = points
            while len(curve) > 1:  # de Casteljau
                curve = [(1 - x) * p + x * q for p, q in itertools.pairwise(curve)]
            assert np.allclose(curve[0], weights(field, a + x * (b - a)), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", ["none", "concat"])
def test_multilayer_fields_against_all_vertices(kind, time):
    field = snode.MLPField((2, 3, 2), activation="leaky_tanh", time=time, T=0.8, n_layers=4, rng=1)
    layers = [field.parameters["W1"][:, :2], field.parameters["W2"]]
    slopes = [(0.1, 1.0), (1.0, 1.0)]
    bound = growth_bound(field, kind=kind)
    if kind == "flow":
        true = true_rate(layers, slopes)
    else:
        true = np.log(true_step(layers, slopes, 0.2)) / 0.2
    assert (bound.upper >= true - 1e-12).all()
    assert (bound.upper <= true + 0.35).all()
    classifier = snode.Classifier.random(field, 3, rng=0)
    assert np.array_equal(growth_bound(classifier, kind=kind).log_factor, bound.log_factor)


def test_depths():
    field = layered(K=4, T=1.0)
    whole = growth_bound(field)
    part = growth_bound(field, [0.25, 0.4, 0.75])
    assert part.factor[0] == pytest.approx(1, abs=1e-14)
    rates = whole.upper
    expected = [0, 0.15 * rates[1], 0.25 * rates[1] + 0.25 * rates[2]]
    assert part.log_factor == pytest.approx(expected, abs=1e-8)
    assert growth_bound(field, 0.5).log_factor == pytest.approx(whole.log_factor[[0, 2]], abs=1e-8)
    euler = growth_bound(field, kind="euler")
    some = growth_bound(field, [0.25, 0.75], kind="euler")
    assert some.log_factor[1] == pytest.approx(euler.log_factor[3] - euler.log_factor[1], abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_coarser(kind):
    for field in (layered(), layered(interpolation="cubic"), snode.MLPField((2, 4, 2), rng=0)):
        fine, coarse = (growth_bound(field, kind=kind, method=m) for m in ("certificate", "norms"))
        assert (fine.upper <= coarse.upper + 1e-9).all()
        assert np.isnan(coarse.lower).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_weights_do_not_move_anything(kind):
    field = snode.StandaloneField(np.zeros((3, 2, 2)), np.ones((3, 2)), 1.0)
    assert growth_bound(field, kind=kind).factor == pytest.approx(1, abs=1e-12)


def test_a_step_onto_one_point_has_factor_zero():
    field = snode.StandaloneField(-np.eye(2)[None], np.zeros((1, 2)), 1.0, activation="identity")
    assert 0 <= growth_bound(field, kind="euler").factor[-1] <= 1e-7


def test_euler_becomes_the_flow():
    W = np.random.default_rng(0).standard_normal((1, 3, 3))
    flow, gaps = growth_bound(snode.StandaloneField(W, np.zeros((1, 3)), 1.0)).log_factor[-1], []
    for K in (50, 100, 200):
        field = snode.StandaloneField(W.repeat(K, axis=0), np.zeros((K, 3)), 1.0)
        gaps.append(growth_bound(field, kind="euler").log_factor[-1] - flow)
    assert abs(gaps[2]) <= 0.02
    assert abs(gaps[1]) / abs(gaps[2]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_fields(kind):
    field = layered(activation="relu")
    single = snode.StandaloneField(
        field.W.astype(np.float32), field.b.astype(np.float32), field.T, activation="relu"
    )
    one, other = growth_bound(field, kind=kind), growth_bound(single, kind=kind)
    assert other.log_factor == pytest.approx(one.log_factor, abs=1e-5)


def test_arrays_of_another_library(cp):
    field = layered(activation="leaky_tanh")
    moved = snode.StandaloneField(
        cp.asarray(field.W), cp.asarray(field.b), field.T, activation="leaky_tanh"
    )
    x = np.random.default_rng(0).standard_normal((3, 8))
    for kind in KINDS:
        one, other = growth_bound(field, kind=kind), growth_bound(moved, kind=kind)
        assert np.array_equal(one.log_factor, other.log_factor)
    here, there = (
        certified_radius(f, a, n_classes=3) for f, a in ((field, x), (moved, cp.asarray(x)))
    )
    assert isinstance(there.radius, cp.ndarray)
    assert here.radius == pytest.approx(cp.asnumpy(there.radius), rel=1e-10)


def test_huge_growth_is_infinite_and_certifies_nothing():
    field = snode.StandaloneField(2e4 * np.ones((1, 2, 2)), np.zeros((1, 2)), 1.0)
    assert growth_bound(field).factor[-1] == np.inf
    steep = snode.StandaloneField(1e200 * np.eye(2)[None], np.zeros((1, 2)), 1.0)
    radius = certified_radius(steep, np.array([[0.3], [0.1]]), n_classes=2).radius
    assert 0 <= radius[0] <= 1e-199


def test_factors_are_rounded_up():
    bound = growth_bound(layered(K=40, size=3.0))
    with localcontext() as context:
        context.prec = 40
        for log_factor, factor in zip(bound.log_factor, bound.factor, strict=True):
            assert Decimal(factor) >= Decimal(log_factor).exp()


# --- trajectories ---------------------------------------------------------------------------------


def random_fields(count):
    names = ("tanh", "relu", "leaky_relu", "leaky_tanh", "leaky_tanh_c1", "elu", "identity")
    for seed in range(count):
        rng = np.random.default_rng([11, seed])
        n, K = int(rng.integers(1, 6)), int(rng.integers(2, 6))
        name = names[seed % len(names)]
        if seed % 5 == 4:
            field = snode.MLPField(
                (n, 4, n), activation=name, rng=seed, n_layers=K, scale=1.5,
                time=("none", "concat")[seed % 2], output_activation=("identity", "same")[seed % 2],
            )  # fmt: skip
        else:
            kind = ("constant", "linear", "cubic")[seed % 3]
            field = layered(
                n, K, seed=seed, interpolation=kind, activation=name,
                T=float(rng.uniform(0.3, 2)), size=float(rng.uniform(0.3, 2)),
                shift=float(rng.uniform(-0.5, 1.5)),
            )  # fmt: skip
        yield field, rng


@pytest.mark.slow
def test_ten_thousand_pairs_never_exceed_the_bound():
    pairs, best = 0, {kind: [] for kind in KINDS}
    for field, rng in random_fields(50):
        u = rng.standard_normal((field.n, 200)) * rng.choice([0.1, 1, 10], 200)
        direction = rng.standard_normal(u.shape)
        direction[:, :100] = worst_direction(field)[:, None]
        v = u + direction * 10.0 ** rng.uniform(-4, 0.5, 200)
        pairs += 200
        for kind in KINDS:
            gap = trajectory_gap(field, u, v, solver=SOLVERS[kind])
            assert (gap.ratio <= gap.bound[:, None] * (1 + 1e-6)).all()
            best[kind].append(gap.tightness[-1])
    assert pairs == 10_000
    # the bound is not so large that the test could not fail
    for kind in KINDS:
        assert max(best[kind]) >= 0.999
        assert np.median(best[kind]) >= 0.4


def worst_direction(field):
    A = Layers.of(field).at(0.0)
    J = A[0] if len(A) == 1 else A[1] @ A[0]
    return np.linalg.eigh(0.5 * (J + J.T))[1][:, -1]


def test_gap_is_what_two_solves_give():
    field = layered()
    u, v = np.random.default_rng(1).standard_normal((2, 3, 4))
    gap = trajectory_gap(field, u, v)
    x, y = (snode.solve_direct(field, a).x for a in (u, v))
    assert gap.gap == pytest.approx(np.linalg.norm(x - y, axis=1), rel=1e-12)
    assert np.array_equal(gap.t, field.grid)
    assert gap.ratio[0] == pytest.approx(1)


# --- certified radii ------------------------------------------------------------------------------


def network(seed=0, n=6, C=3):
    field = layered(n, 5, seed=seed, activation="leaky_tanh", size=0.8, shift=0.6)
    return snode.Classifier.random(field, C, rng=seed)


BOX = (-20.0, 20.0)
ATTACKS = {
    "sensitivity": lambda f, x, y, **o: sensitivity_attack(
        f, x, y, step=0.05, n_iter=40, margin=0.01, margin_kind="additive", **o
    ),
    "multiplicative": lambda f, x, y, **o: sensitivity_attack(f, x, y, step=0.1, **o),
    "deepfool": deepfool,
    "deepfool-exact": lambda f, x, y, **o: deepfool(f, x, y, overshoot=1e-6, **o),
    "fgsm-inf": lambda f, x, y, **o: fgsm(f, x, y, eps=0.3, **o),
    "fgsm-2": lambda f, x, y, **o: fgsm(f, x, y, eps=0.6, norm="2", **o),
    "pgd-inf": lambda f, x, y, **o: pgd(f, x, y, eps=0.3, n_iter=10, **o),
    "pgd-2": lambda f, x, y, **o: pgd(f, x, y, eps=0.6, norm="2", n_iter=10, **o),
    "cw": lambda f, x, y, **o: carlini_wagner(f, x, y, n_search=3, n_iter=40, **o),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_attack_succeeds_within_the_radius(seed, kind):
    field = network(seed)
    x = np.random.default_rng(seed).standard_normal((6, 40))
    found = certified_radius(field, x, solver=SOLVERS[kind])
    y = snode.predict(field, x, solver=SOLVERS[kind])
    assert np.array_equal(found.label, y)
    assert (found.radius > 0).all()
    smallest = np.full(40, np.inf)
    chosen = ATTACKS if kind == "euler" else {"deepfool-exact": ATTACKS["deepfool-exact"]}
    for attack in chosen.values():
        result = attack(field, x, y, box=BOX, solver=SOLVERS[kind])
        smallest = np.where(result.success, np.minimum(smallest, result.norm2), smallest)
    assert np.isfinite(smallest).mean() >= (0.9 if kind == "euler" else 0.6)
    assert (found.radius <= smallest).all()
    assert (found.radius / smallest).max() >= 0.25  # not trivially small


@pytest.mark.parametrize("kind", KINDS)
def test_radius_is_exact_for_a_rotation_and_a_linear_head(kind):
    # an orthogonal flow: the decision boundaries are hyperplanes at known distances
    W = np.array([[[0.0, 1.3], [-1.3, 0.0]]]).repeat(3, axis=0)
    body = snode.StandaloneField(W, np.zeros((3, 2)), 0.9, activation="identity")
    V, c = np.random.default_rng(0).standard_normal((4, 2)), np.array([0.1, -0.2, 0.0, 0.3])
    field = snode.Classifier(body, V, c)
    x = np.random.default_rng(1).standard_normal((2, 30))
    found = certified_radius(field, x, solver=SOLVERS[kind])
    z = field.readout(snode.solve_direct(body, x, method="euler", keep="last").x_T)
    if kind == "flow":
        a = 1.3 * 0.9
        z = V @ (np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ x) + c[:, None]
    factor = abs(1 + 0.3 * 1.3j) ** 3 if kind == "euler" else 1.0
    for k in range(30):
        i = int(z[:, k].argmax())
        others = [j for j in range(4) if j != i]
        true = min((z[i, k] - z[j, k]) / np.linalg.norm(V[i] - V[j]) for j in others) / factor
        assert found.radius[k] == pytest.approx(true, rel=1e-6, abs=1e-9)


def test_radius_without_a_readout_is_the_margin_over_root_two():
    field = layered(4, 3)
    x = np.random.default_rng(0).standard_normal((4, 20))
    found = certified_radius(field, x, n_classes=3)
    z = np.sort(snode.solve_direct(field, x, keep="last").x_T[:3], axis=0)
    factor = growth_bound(field, kind="euler").factor[-1]
    assert found.margin == pytest.approx(z[-1] - z[-2], rel=1e-12)
    assert found.radius == pytest.approx((z[-1] - z[-2]) / (2**0.5 * factor), rel=1e-9)


def test_never_below_the_bound_by_the_norm_of_the_head():
    field = network(3)
    x = np.random.default_rng(0).standard_normal((6, 30))
    found = certified_radius(field, x)
    coarse = found.margin / (2**0.5 * np.linalg.norm(field.V, 2) * found.growth.factor[-1])
    assert (found.radius >= coarse * (1 - 1e-9)).all()
    assert (found.radius > 1.05 * coarse).any()


def test_misclassified_samples_have_no_radius():
    field, x = network(), np.random.default_rng(0).standard_normal((6, 20))
    label = snode.predict(field, x)
    y = label.copy()
    y[:5] = (label[:5] + 1) % 3
    found = certified_radius(field, x, y)
    assert (found.radius[:5] == 0).all()
    assert (found.margin[:5] < 0).all()
    assert (found.radius[5:] > 0).all()
    assert np.array_equal(found.radius[5:], certified_radius(field, x).radius[5:])
    assert found.accuracy([0.0, 1e9]) == pytest.approx([0.75, 0.0])
    radii = np.linspace(0, found.radius.max(), 7)
    expected = [(found.radius > r).mean() for r in radii]
    assert found.accuracy(radii) == pytest.approx(expected)
    assert "15 of 20" in repr(found)


def test_growth_can_be_given():
    field, x = network(), np.random.default_rng(0).standard_normal((6, 5))
    growth = growth_bound(field, kind="euler")
    given = certified_radius(field, x, growth=growth)
    assert given.growth is growth
    assert given.radius == pytest.approx(certified_radius(field, x).radius, rel=1e-9)


# --- errors ---------------------------------------------------------------------------------------


class Other:
    n, parameters, breakpoints = 2, {}, ()
    grid = np.linspace(0, 1, 3)


@pytest.mark.parametrize("field", [Other(), np.eye(2), None])
def test_other_fields_are_refused(field):
    with pytest.raises(TypeError, match="field must be a StandaloneField"):
        growth_bound(field)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "rk4"}, "kind must be one of"),
        ({"method": "guess"}, "method must be one of"),
        ({"t": [0.5, 0.2]}, "t must be increasing depths"),
        ({"t": [0.0, 7.0]}, "t must be increasing depths"),
        ({"t": [0.0, np.nan]}, "t must be increasing depths"),
        ({"t": [0.3]}, "t must be increasing depths"),
        ({"t": [0.0, 0.1], "kind": "euler"}, "t must be depths of the grid"),
        ({"n_starts": 0}, "n_starts must be"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        growth_bound(layered(), **options)


def test_wrong_arguments_of_radius_and_gap_are_named():
    field, x = layered(), np.ones((3, 2))
    with pytest.raises(ValueError, match="solver must be 'euler'"):
        certified_radius(field, x, n_classes=3, solver="rk4")
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        certified_radius(field, x, n_classes=1)
    with pytest.raises(ValueError, match=r"y must hold labels 0\.\.2"):
        certified_radius(field, x, np.array([0, 3]), n_classes=3)
    with pytest.raises(ValueError, match="y must be integer labels"):
        certified_radius(field, x, np.array([0.0, 1.0]), n_classes=3)
    with pytest.raises(ValueError, match="growth must be a bound for kind='euler'"):
        certified_radius(field, x, n_classes=3, growth=growth_bound(field))
    part, ends = (growth_bound(field, t, kind="euler") for t in ([0.0, field.grid[1]], [0.0, 1.2]))
    with pytest.raises(ValueError, match="growth must be a bound over the whole depth"):
        certified_radius(field, x, n_classes=3, growth=part)
    with pytest.raises(ValueError, match="radii must be >= 0"):
        certified_radius(field, x, n_classes=3).accuracy([-1.0])
    with pytest.raises(ValueError, match="u and v must differ"):
        trajectory_gap(field, x, x)
    with pytest.raises(ValueError, match="u and v must have the same shape"):
        trajectory_gap(field, x, np.ones((3, 4)))
    with pytest.raises(ValueError, match="growth must be a bound on the grid"):
        trajectory_gap(field, x, 2 * x, growth=ends)


def test_a_certificate_is_never_worse_than_the_norms(monkeypatch):
    from snode.analysis import growth_rates

    rng = np.random.default_rng(3)
    W = rng.standard_normal((3, 5, 5))
    field = snode.StandaloneField(W, np.zeros((3, 5)), T=1.0, activation="relu")
    norms = snode.growth_bound(field, method="norms")
    assert (snode.growth_bound(field).upper < norms.upper).all()
    own = growth_rates.max_log_norm

    def stalled(*args, **options):
        return dataclasses.replace(own(*args, **options), upper=1e3)

    monkeypatch.setattr(growth_rates, "max_log_norm", stalled)
    np.testing.assert_array_equal(snode.growth_bound(field).upper, norms.upper)


def test_a_bound_of_another_field_is_refused():
    """It would certify radii that are too large."""
    x = np.ones((3, 2))
    field = layered()
    tame = field.with_parameters(W=-0.1 * field.W)
    for other in (tame, layered(activation="leaky_tanh"), layered(seed=1)):
        for use in (
            lambda growth: certified_radius(field, x, n_classes=3, growth=growth),
            lambda growth: trajectory_gap(field, x, 2 * x, growth=growth),
        ):
            with pytest.raises(ValueError, match="for this field"):
                use(growth_bound(other, kind="euler"))
    own = growth_bound(field.with_parameters(b=0 * field.b), kind="euler")  # b has no part in it
    certified_radius(field, x, n_classes=3, growth=own)
