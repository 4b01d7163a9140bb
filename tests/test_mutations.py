"""Planted mistakes: each one, put into a copy of the package, is caught by a named test.

If a mutation no longer applies because the code was rewritten, plant the same mistake in the new
code: the point is the mistake, not the text.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import snode

pytestmark = pytest.mark.slow

PACKAGE = Path(snode.__file__).parent
TESTS = Path(__file__).parent


class Mutation(NamedTuple):
    mistake: str
    file: str
    old: str  # occurs exactly once; short, so that formatting does not matter
    new: str
    caught_by: str


MUTATIONS = [
    Mutation(
        "wrong sign in the adjoint recursion",
        "ode/adjoint.py",
        "ones.dot(flat)",
        "(2 * pulls[s] - pulls.sum(axis=0))",
        "ode/test_three_problems.py::test_dot_test",
    ),
    Mutation(
        "W instead of its transpose",
        "fields/layer.py",
        "product(self.W.T, q)",
        "product(self.W, q)",
        "fields/test_layer.py::test_vjp_is_the_transpose",
    ),
    Mutation(
        "the gradient pairs lam_i, not lam_{i+1}, with x_i",
        "ode/adjoint.py",
        "vjp(g, partials)",
        "vjp(g); lins[i].vjp(g + scaled[i, -1] * pulls[i], partials)",
        "ode/test_three_problems.py::test_adjoint_is_the_printed_recursion_and_pairs_the_next_lam",
    ),
    Mutation(
        "forgotten sum over the samples",
        "partials.py",
        "_together(q).sum(axis=1)",
        "_together(q)[:, 0]",
        "training/test_gradient.py::test_every_entry_by_central_differences",
    ),
    Mutation(
        "forgotten division by the number of samples",
        "training/costs.py",
        "(cost.l2 / self.m) *",
        "cost.l2 *",
        "training/test_costs.py::test_terminal_is_the_derivative",
    ),
    Mutation(
        "slope of tanh is 1 - s instead of 1 - s^2",
        "fields/activations.py",
        "slope = s * s",
        "slope = s + 0",
        "fields/test_activations.py::test_slope_is_the_central_difference",
    ),
    Mutation(
        "forgotten factor h in the sensitivity",
        "ode/tangent.py",
        "(h * b).dot",
        "b.dot",
        "ode/test_three_problems.py::test_sensitivity_is_the_printed_recursion",
    ),
    Mutation(
        "sign of the off-diagonals of the H1 matrix",
        "fields/depth.py",
        "off[:-1] -= stiffness",
        "off[:-1] += stiffness",
        "fields/test_depth.py::test_gram_equals_brute_force",
    ),
    Mutation(
        "Fletcher-Reeves with the plain norm of the Sobolev gradient",
        "training/gradients.py",
        "pair_number(partials, g),",
        "pair_number(g, g),",
        "training/test_ncg_quadratic.py::test_ends_in_n_steps",
    ),
    Mutation(
        "decay forgotten in the step length",
        "training/gradients.py",
        "(z, dz, *decay)",
        "(z, dz)",
        "training/test_ncg.py::test_step_is_the_root_of_phi",
    ),
    Mutation(
        "sign of the one-hot vector in the cross entropy",
        "training/costs.py",
        "xp.arange(z.shape[1])] -= 1",
        "xp.arange(z.shape[1])] += 1",
        "training/test_costs.py::test_phi_is_the_derivative_of_the_cost_of_the_linearised_state",
    ),
    Mutation(
        "Fletcher-Reeves upside down",
        "training/ncg.py",
        "return c.gg / c.gg_old",
        "return c.gg_old / c.gg",
        "training/test_ncg.py::test_rules_and_directions",
    ),
    Mutation(
        "the last iterate is returned, not the best",
        "training/ncg.py",
        "is_best=new < self.best",
        "is_best=True",
        "training/test_ncg.py::test_a_free_step_may_raise_the_cost_and_the_best_is_kept",
    ),
    Mutation(
        "a step that raises the cost after a cap is accepted",
        "training/ncg.py",
        "while must_fall and not new < self.cost",
        "while must_fall and not math.isfinite(new)",
        "training/test_ncg.py::test_a_capped_step_must_lower_the_cost",
    ),
    Mutation(
        "the coefficients of the stages are not transposed",
        "ode/adjoint.py",
        "a[:s, :s].T",
        "a[:s, :s]",
        "ode/test_derivatives.py::test_each_part_alone",
    ),
    Mutation(
        "the tangent of a stage does not see the earlier stages",
        "ode/tangent.py",
        "xi + ha[i, :i].dot(flat[:i]).reshape(xi.shape)",
        "xi",
        "ode/test_derivatives.py::test_solution_and_tangent_are_those_of_the_textbook",
    ),
    Mutation(
        "the end time derivative forgets the nodes c",
        "ode/tangent.py",
        "numbers.c[i] * lin",
        "lin",
        "ode/test_end_time.py::test_complex_step_of_the_last_step",
    ),
    Mutation(
        "the time derivative of a layer forgets the bias",
        "fields/layer.py",
        "W_t @ self.x + b_t[:, None]",
        "W_t @ self.x",
        "ode/test_end_time.py::test_layer_time_derivative",
    ),
    Mutation(
        "the first step after a checkpoint is left out",
        "ode/replay.py",
        "range(b - 1, a - 1, -1)",
        "range(b - 1, a, -1)",
        "ode/test_checkpoints.py::test_independent_columns",
    ),
    Mutation(
        "a step is made again on the wrong side of a jump",
        "ode/replay.py",
        "stages.step(self.steps.t, i, x, self.steps.jumps)",
        "stages.step(self.steps.t, i, x, ())",
        "ode/test_end_time.py::test_the_way_it_was_stored_does_not_matter",
    ),
    Mutation(
        "a checkpoint is one step late",
        "ode/fixed.py",
        "store.offer(i + 1, x)",
        "store.offer(i, x)",
        "ode/test_checkpoints.py::test_backwards_in_time",
    ),
    Mutation(
        "one checkpoint more than asked for",
        "ode/fixed.py",
        "len(self.kept) > self._most()",
        "len(self.kept) > self._most() + 1",
        "ode/test_checkpoints.py::test_states_are_kept_evenly_and_no_more_than_asked_for",
    ),
    Mutation(
        "sign of the continuous parameter gradient",
        "ode/continuous.py",
        "times(h * float(weight))",
        "times(-h * float(weight))",
        "ode/test_continuous.py::test_independent_columns",
    ),
    Mutation(
        "the continuous adjoint steps over the jumps",
        "ode/continuous.py",
        "jumps=tuple(steps.jumps), t_eval=steps.t[::-1]",
        "t_eval=steps.t[::-1]",
        "ode/test_continuous.py::test_jumps_are_never_stepped_over",
    ),
    Mutation(
        "the weights of a multilayer field are not transposed",
        "fields/mlp.py",
        "product(weights[i].T, q)",
        "product(weights[i], q)",
        "fields/test_mlp.py::test_check_passes",
    ),
    Mutation(
        "the column of t is forgotten in the transpose",
        "fields/mlp.py",
        'into.times(self.t).total("W1", q, at=(slice(None), n))',
        "pass",
        "fields/test_mlp.py::test_vjp_is_the_transpose",
    ),
    Mutation(
        "a factor of the partial derivatives is forgotten",
        "partials.py",
        "weight=self.weight * float(weight)",
        "weight=self.weight",
        "test_partials.py::test_times_multiplies",
    ),
    Mutation(
        "the partial derivatives do not see the weights of a row",
        "partials.py",
        "factor = self.weight * float(w)",
        "factor = self.weight",
        "test_partials.py::test_rows",
    ),
    Mutation(
        "the time derivative is not carried through the later layers",
        "fields/mlp.py",
        "slope * (W @ dx)",
        "W @ dx",
        "fields/test_mlp.py::test_time_derivative",
    ),
    Mutation(
        "the read-out of the base instead of the trial",
        "training/gradients.py",
        "z = outputs(self.trial, self.sol.x_T)\n        return",
        "z = outputs(self.base, self.sol.x_T)\n        return",
        "training/test_readout.py::test_phi_sees_the_trial_read_out_and_not_the_base",
    ),
    Mutation(
        "the line model forgets that the read-out changes",
        "training/gradients.py",
        "xi_T, direction)",
        "xi_T, {})",
        "training/test_readout.py::test_phi_at_zero_is_the_derivative_along_the_direction",
    ),
    Mutation(
        "the derivatives of the read-out are lost",
        "training/gradients.py",
        "partials[name] += partial",
        "pass",
        "training/test_readout.py::test_every_entry_by_central_differences",
    ),
    Mutation(
        "a kernel of the hot path forgets the bias",
        "_kernels.py",
        "(u[j] + bias[j])",
        "u[j]",
        "training/test_kernels.py::test_tangent_step",
    ),
    Mutation(
        "the hot path forgets a transpose",
        "training/hotpath.py",
        "np.copyto(W, field.W.transpose(0, 2, 1))",
        "np.copyto(W, field.W)",
        "training/test_hotpath.py::test_every_quantity_of_one_iteration",
    ),
    Mutation(
        "the hot path pairs x_{i+1} with lam_{i+1}",
        "_kernels.py",
        "x[k][:m], q[k - k0][:m]",
        "x[k + 1][:m], q[k - k0][:m]",
        "training/test_hotpath.py::test_every_quantity_of_one_iteration",
    ),
    Mutation(
        "a block of samples overwrites the gradient of the blocks before it",
        "training/hotpath.py",
        "scalar(j > 0)",
        "scalar(0)",
        "training/test_hotpath.py::test_blocks_of_samples_change_rounding_only",
    ),
    Mutation(
        "the direction is made of the gradient of a refused step",
        "training/hotpath.py",
        "if self._is_raw and not self.keep_gradient:",
        "if False:",
        "training/test_hotpath.py::test_the_gradient_of_a_refused_step_does_not_remain",
    ),
    Mutation(
        "the mean of a part of the samples is over the part only",
        "training/costs.py",
        "other = copy(self)",
        "other = copy(self); other.m = columns.stop - columns.start",
        "training/test_costs.py::test_parts_add_up",
    ),
    Mutation(
        "a resumed run draws other minibatches",
        "training/loop.py",
        'self.rng = generator_from_text(header["rng"], self.rng)',
        "pass",
        "training/test_loop.py::test_the_generator_is_part_of_the_checkpoint",
    ),
    Mutation(
        "sign of the gradient of the logarithmic norm in the slopes",
        "analysis/slope_problem.py",
        "tuple(a * b for",
        "tuple(-a * b for",
        "analysis/test_lognorm.py::test_gradient_in_the_slopes_by_central_differences",
    ),
    Mutation(
        "the layers are multiplied in the wrong order",
        "analysis/slope_problem.py",
        "J = dj[:, None] * (A @ J)",
        "J = J @ (dj[:, None] * A)",
        "analysis/test_lognorm.py::test_all_vertices_of_several_layers",
    ),
    Mutation(
        "A L A^T instead of A^T L A",
        "analysis/slope_forms.py",
        "U.T @ (L[:, None] * U)",
        "U @ (L[:, None] * U.T)",
        "analysis/test_lognorm.py::test_the_certificate_holds_in_exact_arithmetic",
    ),
    Mutation(
        "r^2 / 16 L instead of r^2 / 4 L",
        "analysis/slope_forms.py",
        "M[self.free, self.free] += self.r**2 / (4 * L)",
        "M[self.free, self.free] += self.r**2 / (16 * L)",
        "analysis/test_lognorm.py::test_the_certificate_holds_in_exact_arithmetic",
    ),
    Mutation(
        "the computed eigenvalue instead of the verified bound",
        "analysis/slope_forms.py",
        "math.nextafter(mu + 1.01 * slack + TINY, math.inf)",
        "value",
        "analysis/test_lognorm.py::test_the_eigenvalue_bound_covers_every_error_it_is_told",
    ),
    Mutation(
        "the bound is not verified by a factorisation",
        "analysis/slope_forms.py",
        "np.linalg.cholesky(S)",
        "pass",
        "analysis/test_lognorm.py::test_the_certificate_does_not_rely_on_the_eigenvalue_solver",
    ),
    Mutation(
        "the Cholesky test without its margin",
        "analysis/slope_forms.py",
        "-= 1.01 * shift",
        "-= 0.0",
        "analysis/test_lognorm.py::test_semidefinite_means_that_every_error_is_covered",
    ),
    Mutation(
        "r is not enlarged by the rounding of the slopes",
        "analysis/slope_forms.py",
        "0.5 * (hi - lo) + 2 * EPS * (np.abs(lo) + np.abs(hi))",
        "0.5 * (hi - lo)",
        "analysis/test_lognorm.py::test_middle_and_radius_contain_the_slopes_exactly",
    ),
    Mutation(
        "the lower bound forgets its rounding error",
        "analysis/slope_search.py",
        "float((value - slack) / length - ",
        "float((value + 0 * slack) / length - 0 * ",
        "analysis/test_lognorm.py::test_the_lower_bound_holds_in_exact_arithmetic",
    ),
    Mutation(
        "the upper bound is scaled back with rounding down",
        "analysis/lognorm.py",
        "unscale(upper, e, up=True)",
        "unscale(upper, e, up=False)",
        "analysis/test_lognorm.py::test_scaling_back_rounds_outward",
    ),
    Mutation(
        "branch and bound looks at one half of every box",
        "analysis/slope_exact.py",
        "for end in (node.lo[i], node.hi[i])",
        "for end in (node.hi[i],)",
        "analysis/test_lognorm.py::test_all_vertices_of_200_random_matrices",
    ),
    Mutation(
        "branch and bound forgets the boxes that it puts aside",
        "analysis/slope_exact.py",
        "closed = max(closed, child.bound.upper)",
        "pass",
        "analysis/test_lognorm.py::test_boxes_that_are_put_aside_keep_their_bound",
    ),
    Mutation(
        "branch and bound forgets the boxes that are left when it is stopped",
        "analysis/slope_exact.py",
        "Exact(max(-heap[0][0], closed, found.lower), found",
        "Exact(max(closed, found.lower), found",
        "analysis/test_lognorm.py::test_branch_and_bound_stopped_early_still_encloses",
    ),
    Mutation(
        "the upper growth factor is rounded down",
        "analysis/lognorm_path.py",
        "exact * (1 + 4 * EPS) if up",
        "exact * (1 - 4 * EPS) if up",
        "analysis/test_lognorm.py::test_growth_factors_are_rounded_outward",
    ),
    Mutation(
        "Newton's method steps too far",
        "analysis/slope_roots.py",
        'x, kind = left.x + step, "Newton"',
        'x, kind = left.x + 1.5 * step, "Newton"',
        "analysis/test_contractivity.py::test_newton_from_the_left_is_monotone",
    ),
    Mutation(
        "the slope of f in m forgets half of the multipliers' part",
        "analysis/slope_roots.py",
        "weight * r / (4 * bound",
        "weight * r / (8 * bound",
        "analysis/test_contractivity.py::test_known_example",
    ),
    Mutation(
        "the slope in the shift forgets the slopes of the activation",
        "analysis/slope_roots.py",
        "(found.d * found.z**2)",
        "(found.z**2)",
        "analysis/test_contractivity.py::test_shift",
    ),
    Mutation(
        "the transpose of the cut D z z^T",
        "analysis/perturbation.py",
        "-(dz * mu[:, None]).T @ z",
        "-z.T @ (dz * mu[:, None])",
        "analysis/test_contractivity.py::test_lower_bound_against_another_solver",
    ),
    Mutation(
        "Euler's factor forgets the cross term",
        "analysis/growth_rates.py",
        "((1 + a)[:, None] * p)",
        "p",
        "analysis/test_growth.py::test_constant_cells_against_all_vertices",
    ),
    Mutation(
        "the left node instead of the mean of the control points",
        "analysis/growth_rates.py",
        "return [[first], [last]]",
        "return [[first]]",
        "analysis/test_growth.py::test_between_the_nodes_against_fine_quadrature",
    ),
    Mutation(
        "the factor of growth is rounded down",
        "analysis/growth.py",
        "np.exp(self.log_factor) * (1 + 4 * EPS)",
        "np.exp(self.log_factor) * (1 - 4 * EPS)",
        "analysis/test_growth.py::test_factors_are_rounded_up",
    ),
    Mutation(
        "the square root of 2 is forgotten in the radius",
        "analysis/growth.py",
        "np.linalg.norm(V[:, None] - V, axis=2) * (1 + 4 * EPS)",
        "np.linalg.norm(V[:, None] - 0 * V, axis=2)",
        "analysis/test_growth.py::test_radius_without_a_readout_is_the_margin_over_root_two",
    ),
    Mutation(
        "the slope of leaky tanh has no square",
        "fields/activations.py",
        "alpha + (1 - alpha) * (1 - xp.tanh(a) ** 2)",
        "alpha + (1 - alpha) * (1 - xp.tanh(a))",
        "fields/test_activations.py::test_slope_is_the_central_difference",
    ),
    Mutation(
        "NumPy's asarray on a device array",
        "training/costs.py",
        "lam = xp.zeros_like(x_T)",
        "lam = 0 * np.asarray(x_T)",
        "test_device.py::test_every_public_function_follows_its_array[stand-in-gradient]",
    ),
    Mutation(
        "every iteration waits twice for the device",
        "training/device.py",
        "cost = self.cost_number()",
        "cost = float(self.cost_number())",
        "test_device.py::test_targets_need_one_copy_of_a_few_numbers",
    ),
    Mutation(
        "the direction that was looked ahead is taken whatever was decided",
        "training/device.py",
        "not math.isclose(beta, ahead.beta, rel_tol=1e-9)",
        "math.isnan(beta)",
        "test_device.py::test_directions_that_do_not_descend_are_reset_as_on_the_generic_path",
    ),
    Mutation(
        "on a device the gradient pairs x_{i+1} with lam_{i+1}",
        "training/device.py",
        "self.x[start:stop], gW",
        "self.x[start + 1 : stop + 1], gW",
        "test_device.py::test_sweeps_equal_the_generic_solver",
    ),
    Mutation(
        "the number that the device multiplies with widens float32",
        "training/gradients.py",
        "beta.astype(g.dtype) * self.d",
        "beta * self.d",
        "test_device.py::test_in_single_precision[stand-in-ncg]",
    ),
]


def copy_to(folder):
    """Copy what the named tests need; the kernels stay compiled, the bytecode does not."""
    skip = shutil.ignore_patterns("data", "*.pyc")
    shutil.copytree(PACKAGE, folder / "snode", ignore=skip)
    for name in ("analysis", "fields", "ode", "training"):
        shutil.copytree(TESTS / name, folder / "tests" / name, ignore=skip)
    for name in (
        "conftest.py", "fakecupy.py", "transposes.py", "test_device.py",
        "test_partials.py",
    ):  # fmt: skip
        shutil.copy(TESTS / name, folder / "tests")
    shutil.copy(TESTS.parent / "setup.cfg", folder)


def run_python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


def run_tests(folder, nodes):
    return run_python(
        folder, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not gpu",
        *(f"tests/{n}" for n in nodes),
    )  # fmt: skip


def test_there_are_ten_and_more():
    assert len(MUTATIONS) >= 10
    assert len({m.mistake for m in MUTATIONS}) == len(MUTATIONS)


def test_without_a_mistake_the_named_tests_pass(tmp_path):
    copy_to(tmp_path)
    where = run_python(tmp_path, "-c", "import snode; print(snode.__file__)").stdout.strip()
    assert Path(where).parent == tmp_path / "snode"  # the copy is what is tested
    run = run_tests(tmp_path, sorted({m.caught_by for m in MUTATIONS}))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.mistake)
def test_mistake_is_caught(mutation, tmp_path):
    copy_to(tmp_path)
    file = tmp_path / "snode" / mutation.file
    source = file.read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, f"{mutation.old!r} must stand once in {mutation.file}"
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    run = run_tests(tmp_path, [mutation.caught_by])
    # 1: a test failed; 2 and more: pytest could not even collect it
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed" in run.stdout
    assert "error" not in run.stdout.splitlines()[-1]
