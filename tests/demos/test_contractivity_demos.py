"""Demos of paper 003: the numbers are those of independent computations, and claims can fail."""

import argparse
import copy
import json
from itertools import pairwise, product

import numpy as np
import pytest

import snode

NAMES = ("inner_flow", "outer_newton", "multilayer", "time_dependent", "trajectories",
         "exact_vs_local")  # fmt: skip


@pytest.fixture(scope="module")
def common(demo):
    return demo("contractivity/contractivity_common")


@pytest.fixture(scope="module")
def runs(demo):
    """Return a function that loads a demo and its quick numbers, computed once."""
    known = {}

    def get(name):
        if name not in known:
            module = demo(f"contractivity/{name}")
            known[name] = module, module.run(quick=True, rng=1)
        return known[name]

    return get


def _value(d, A):
    """Largest eigenvalue of Sym(DA)."""
    J = np.diag(d) @ A
    return float(np.linalg.eigvalsh(J + J.T)[-1] / 2)


def _broken(runs, name, change):
    """Return which claims fail after a change of the numbers, and how many there are."""
    module, numbers = runs(name)
    numbers = copy.deepcopy(numbers)
    change(numbers)
    found = module.claims(numbers)
    return [k for k, (_, holds, _) in enumerate(found) if not holds], len(found)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_is_written_and_drawn(runs, common, name, tmp_path, capsys):
    module, numbers = runs(name)
    claims = module.claims(numbers)
    assert [text for text, holds, _ in claims if not holds] == []
    args = argparse.Namespace(name=name, size="quick", seed=1, out=tmp_path / "f.png",
                              quick=True, full=False)  # fmt: skip
    common.finish(args, module.plot(numbers), numbers, claims)
    summary = json.loads((tmp_path / "f.json").read_text())
    assert [c["measured"] for c in summary["claims"]] == [m for *_, m in claims]
    assert summary["options"] == {"seed": 1}
    assert set(summary["versions"]) == {"snode", "numpy", "scipy", "python"}
    assert set(numbers) <= set(summary)
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("holds: ") == len(claims)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_run_is_there_and_is_a_full_one(common, name):
    summary = json.loads((common.RESULTS / f"contractivity_{name}.json").read_text())
    assert summary["size"] == "full"
    assert all(c["agrees"] for c in summary["claims"])


def test_full_runs_are_recorded_with_the_others(common, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("sys.argv", ["x", "--full", "--seed", "5", "--out", str(tmp_path / "f")])
    args = common.options("A line.\n\nMore.", "x")
    module, numbers = runs("inner_flow")
    common.finish(args, module.plot(numbers), {"a": 1, "b": 2}, [("c", False, "d")], ("b",))
    summary = json.loads((tmp_path / "results" / "contractivity_x.json").read_text())
    assert (summary["a"], summary["size"], summary["options"]) == (1, "full", {"seed": 5})
    assert "b" not in summary
    assert summary["claims"] == [{"claim": "c", "agrees": False, "measured": "d"}]
    assert (tmp_path / "f.png").exists()
    with pytest.raises(ValueError, match="claims"):
        common.finish(args, module.plot(numbers), {"claims": 1}, [])


# --- what is shared -------------------------------------------------------------------------------


def test_brute_force_tries_all_vertices(common):
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 3, 3))
    best = max(_value(d, A) for d in product((0.2, 1.0), repeat=3))
    assert common.brute_force([A], 0.2) == pytest.approx(best, abs=1e-14)
    best = max(_value(d[:3], B @ np.diag(d[3:]) @ A) for d in product((0.2, 1.0), repeat=6))
    assert common.brute_force([A, B], 0.2) == pytest.approx(best, abs=1e-14)
    assert len(np.unique(common.vertices([2, 3], 0.5), axis=0)) == 32


def test_wilson_interval_solves_its_equation(common):
    for found, of in ((0, 10), (3, 10), (10, 10), (333, 900)):
        p, z2 = found / of, 1.959963984540054**2
        for end in common.wilson(found, of):
            assert (p - end) ** 2 == pytest.approx(z2 * end * (1 - end) / of, abs=1e-14)


# --- inner flow -----------------------------------------------------------------------------------


def test_flow_values_are_those_of_its_ends_and_the_maximum_is_the_maximum(runs, common):
    _, numbers = runs("inner_flow")
    A, m = numbers["A"], numbers["m"]
    true = common.brute_force([A], m)
    assert numbers["lower"] - 1e-12 <= true <= numbers["upper"] + 1e-12
    first = numbers["flows"][0]
    assert first["value"][0] == pytest.approx(_value(np.full(len(A), (1 + m) / 2), A), abs=1e-12)
    for flow in numbers["flows"]:
        d = np.asarray(flow["d"])
        assert flow["end"] == pytest.approx(_value(d, A), abs=1e-12)
        assert flow["value"][-1] == pytest.approx(flow["end"], abs=1e-12)
        assert flow["n_active"][-1] == ((d == m) | (d == 1)).sum()
        neighbours = [_value(np.where(np.arange(len(A)) == i, 0.999 * d + 0.001 * (1 + m - d), d),
                             A) for i in range(len(A))]  # fmt: skip
        assert max(neighbours) < flow["end"]  # a local maximum


def test_claims_on_the_flow_can_fail(runs):
    def fall(numbers):
        numbers["flows"][1]["value"][1] = numbers["flows"][1]["value"][0] - 1e-13

    def not_stationary(numbers):
        numbers["flows"][2]["residual"][-1] = 1e-4

    def inside(numbers):
        numbers["flows"][2]["n_active"][-1] -= 1

    def moves(numbers):
        numbers["flows"][0]["sign_step_moves"] = 1

    def above(numbers):
        numbers["upper"] -= 1e-6

    def all_best(numbers):
        for flow in numbers["flows"]:
            flow["end"] = numbers["lower"]

    for k, change in enumerate((fall, not_stationary, inside, moves, above, all_best)):
        assert _broken(runs, "inner_flow", change) == ([k], 6)


def test_maxima_are_the_different_ends(runs):
    module, _ = runs("inner_flow")
    ends = (0.2, 0.1, 0.2 + 1e-12, 0.1 - 1e-6)
    assert module.maxima({"flows": [{"end": e} for e in ends]}) == [0.2 + 1e-12, 0.1, 0.1 - 1e-6]


# --- outer problem --------------------------------------------------------------------------------


def test_closed_form_is_the_maximum_over_all_vertices(runs, common):
    module, _ = runs("outer_newton")
    for beta, m in product((0.1, 1.0, 1.9), (0.05, 0.3, 0.8, 1.0)):
        true = common.brute_force([np.array([[-1, beta], [0, -1]])], m)
        assert module.closed_form(beta, m) == pytest.approx(true, abs=1e-14)
        assert module.closed_form(beta, beta**2 / 4) == pytest.approx(0, abs=1e-15)


def test_bounds_enclose_f_and_the_roots_are_those_of_f(runs, common):
    _, numbers = runs("outer_newton")
    A = numbers["A"]
    for k in (0, 3, len(numbers["m"]) - 1):
        true = common.brute_force([A], numbers["m"][k])
        assert numbers["lower"][k] - 1e-12 <= true <= numbers["upper"][k] + 1e-12
        assert true <= numbers["crude"][k] + 1e-12
    assert numbers["crude"][-1] == pytest.approx(numbers["mu_2"])
    for level in numbers["levels"]:
        found = level["certified"]
        assert common.brute_force([A], found["m"]) <= level["c"] + 1e-10
        if found["lower"] > 0:
            assert common.brute_force([A], found["lower"] - 1e-6) > level["c"]


def test_newton_points_lie_on_tangents(runs):
    module, numbers = runs("outer_newton")
    for level in numbers["levels"]:
        for name in ("local", "certified"):
            points = module.newton_points(level[name])
            assert len(points) >= 3
            for here, there in pairwise(points):
                m = here["m"] - (here["value"] - level["c"]) / here["slope"]
                assert there["m"] == pytest.approx(m, abs=1e-12)


def test_claims_on_the_outer_problem_can_fail(runs):
    def root(numbers):
        numbers["exact_test"][1]["local"] += 2e-10

    def form(numbers):
        numbers["exact_test"][0]["valid"] = False

    def crossed(numbers):
        numbers["lower"][2] = numbers["upper"][2] + 1e-12

    def kink(numbers):
        numbers["upper"][3] += 0.02

    def back(numbers):
        numbers["levels"][0]["certified"]["history"][2]["m"] = 0.0

    def below(numbers):
        numbers["levels"][1]["certified"]["m"] = numbers["levels"][1]["local"]["m"] - 1e-6

    for k, change in ((0, root), (1, form), (2, crossed), (3, kink), (4, back)):
        assert _broken(runs, "outer_newton", change) == ([k], 7)
    assert 6 in _broken(runs, "outer_newton", below)[0]


# --- several layers -------------------------------------------------------------------------------


def test_stacks_are_bounded_and_the_truth_is_from_all_vertices(runs, common):
    module, numbers = runs("multilayer")
    layers = module.stack(3, 2, np.random.default_rng(4))
    row = module._small(layers)
    A, B = layers
    true = max(_value(d[:3], B @ np.diag(d[3:]) @ A) for d in product((0.5, 1.0), repeat=6))
    assert row["true"] == pytest.approx(true, abs=1e-14)
    assert row["lower"] - 1e-12 <= true <= row["upper"]
    expected = np.linalg.svd(A)[1][0] * np.linalg.svd(B)[1][0]
    assert row["norms"] == pytest.approx(expected, rel=1e-14)
    assert sorted({r["depth"] for r in numbers["large"]}) == [1, 2, 3, 4]
    assert [r["m"] for r in numbers["two_layers"]][-1] == 1.0
    last = numbers["two_layers"][-1]
    assert last["upper"] - last["lower"] < 1e-10  # one slope only


def test_claims_on_layers_can_fail(runs):
    def wrong(numbers):
        numbers["small"][0]["true"] = numbers["small"][0]["upper"] + 1e-9

    def crude(numbers):
        numbers["two_layers"][1]["norms"] = numbers["two_layers"][1]["upper"] - 1e-3

    def wide(numbers):
        numbers["large"][3]["lower"] -= 1.0

    def growing(numbers):
        for row in numbers["large"]:
            row["lower"], row["upper"], row["norms"] = (
                row["lower"] + 2, row["upper"] + 2, row["norms"] + 2,
            )  # fmt: skip

    for k, change in enumerate((wrong, crude, wide, growing)):
        assert _broken(runs, "multilayer", change) == ([k], 4)


# --- along the depth ------------------------------------------------------------------------------


def test_depths_are_bounded_and_the_integral_is_the_trapezoidal_one(runs, common):
    module, numbers = runs("time_dependent")
    field = module.make_field(numbers["n"], len(numbers["t"]) - 1, np.random.default_rng(1))
    for k in (0, 5, 11):
        true = common.brute_force([field.W[k]], module.M)
        assert numbers["true"][k] == pytest.approx(true, abs=1e-9)
        assert numbers["lower"][k] - 1e-12 <= true <= numbers["upper"][k]
    integral = np.trapezoid(numbers["upper"], numbers["t"])  # what linearity and convexity allow
    assert np.log(numbers["growth_upper"][-1]) == pytest.approx(integral, abs=1e-12)
    assert numbers["growth_lower"][-1] <= numbers["growth_upper"][-1] <= numbers["norms"][-1]
    np.testing.assert_allclose(field.W[0], field.W[-1], atol=1e-12)


def test_warm_searches_start_where_the_last_one_ended(runs):
    module, numbers = runs("time_dependent")
    A = module.make_field(6, 4, np.random.default_rng(3)).W
    work = module._cold_and_warm(A, *module.WAYS["flow"])
    assert work["warm"]["n_eig"][0] == work["cold"]["n_eig"][0]
    d = snode.max_log_norm(A[0], (module.M, 1.0), certify=False, method="flow").d
    again = snode.max_log_norm(A[1], (module.M, 1.0), certify=False, method="flow", d0=d)
    assert work["warm"]["n_eig"][1] == again.n_eig
    assert work["warm"]["lower"][1] == again.lower
    for name in module.WAYS:
        for how in ("cold", "warm"):
            assert (module.losses(numbers, name, how) > -1e-12).all()


def test_claims_along_the_depth_can_fail(runs):
    def outside(numbers):
        numbers["lower"][3] = numbers["true"][3] + 1e-6

    def parts(numbers):
        numbers["worst"][7] = numbers["growth_upper"][7] * 1.001

    def other(numbers):
        numbers["growth_bound"] = numbers["growth_bound"] * 1.01

    def costly(numbers):
        numbers["work"]["flow"]["warm"]["n_eig"][0] += 10_000

    for k, change in ((0, outside), (1, parts), (2, other), (4, costly)):
        assert _broken(runs, "time_dependent", change) == ([k], 5)


# --- trajectories ---------------------------------------------------------------------------------


def test_changes_make_the_matrix_contractive_by_brute_force(runs, common):
    module, numbers = runs("trajectories")
    matrices, tau, least = module.changed(module.PLANE)
    for name in module.NAMES[1:]:
        assert common.brute_force([matrices[name]], module.M) <= module.C + 1e-9
    np.testing.assert_allclose(matrices["shift"], module.PLANE - tau * np.eye(2), atol=1e-12)
    sizes = {name: np.linalg.norm(B - module.PLANE) for name, B in matrices.items()}
    assert least <= sizes["perturbation"] <= sizes["shift"]
    for name, found in numbers["cases"][0]["fields"].items():
        assert found["size"] == pytest.approx(sizes[name], abs=1e-12)
        assert found["worst"][0] == pytest.approx(1, abs=1e-12)
        bound = np.exp(found["upper"] * np.asarray(numbers["t"]))
        np.testing.assert_allclose(found["bound"], bound, rtol=1e-6)


def test_fields_have_the_slopes_that_were_assumed(runs):
    module, _ = runs("trajectories")
    field = module.make_field(module.PLANE, module.BIAS)
    assert field.activation.slope_interval == (module.M, 1.0)
    a = np.linspace(-30, 30, 10_001)
    slope = field.activation.slope(a)
    assert slope.min() >= module.M
    assert slope.max() <= 1
    x = np.array([[0.3], [-0.7]])
    expected = field.activation(module.PLANE @ x + module.BIAS[:, None])
    np.testing.assert_allclose(field(1.0, x), expected, rtol=1e-15)


def test_claims_on_trajectories_can_fail(runs):
    def fields(numbers, name):
        return [case["fields"][name] for case in numbers["cases"]]

    def parts(numbers):
        fields(numbers, "original")[0]["worst"][50] = 1e9

    def contractive(numbers):
        fields(numbers, "original")[1]["lower"] = -0.01

    def not_enough(numbers):
        fields(numbers, "shift")[0]["upper"] = -0.09

    def slow(numbers):
        found = fields(numbers, "shift")[0]
        found["worst"][-1] = np.exp(-0.05 * numbers["t"][-1])
        found["bound"][-1] = 1.0

    def large(numbers):
        fields(numbers, "perturbation")[0]["size"] = 100.0

    def refuted(numbers):
        numbers["cases"][0]["least"] = 100.0

    changes = (parts, contractive, not_enough, slow, large, refuted)
    for k, change in enumerate(changes):
        assert _broken(runs, "trajectories", change) == ([k], 6)


# --- exact against local --------------------------------------------------------------------------


def test_truth_and_shares_are_counted(runs, common):
    module, numbers = runs("exact_vs_local")
    problems = numbers["problems"]
    first = np.random.default_rng(1)
    A = common.gaussian(4, first, 0.0)
    best = max(_value(d, A) for d in product((module.M, 1.0), repeat=4))
    assert problems[0]["true"] == pytest.approx(best, abs=1e-14)
    found = sum(p["missing"]["flow"] <= 1e-9 for p in problems if p["n"] == 5)
    assert module.shares(numbers, "flow", (5,)) == (found, 12)
    assert numbers["found"]["flow"][5] == (found, 12)
    assert module.shares(numbers, "exact") == (len(problems), len(problems))
    assert {p["shift"] for p in problems} == {0.0, 1.5}


def test_ten_starts_contain_the_one_start(runs):
    _, numbers = runs("exact_vs_local")
    for p in numbers["problems"]:
        assert p["missing"]["sign, 10 starts"] <= p["missing"]["sign, 1 start"] + 1e-12


def test_claims_on_local_methods_can_fail(runs):
    def above(numbers):
        numbers["problems"][0]["missing"]["flow"] = -1e-10

    def invalid(numbers):
        numbers["problems"][0]["above"]["default"] = -1e-10

    def unfinished(numbers):
        numbers["problems"][0]["missing"]["exact"] = 1e-6

    def perfect(numbers):
        for p in numbers["problems"]:
            p["missing"]["flow"] = 0.0

    def worse(numbers):
        for p in numbers["problems"]:
            p["missing"]["default"] = 0.1

    def loose(numbers):
        for p in numbers["problems"]:
            p["above"]["default"] = 0.03

    for k, change in ((0, above), (1, invalid), (2, unfinished), (5, perfect), (6, worse),
                      (7, loose)):  # fmt: skip
        assert _broken(runs, "exact_vs_local", change) == ([k], 8)
