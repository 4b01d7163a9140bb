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
        "lam[i + 1] + h * pull",
        "lam[i + 1] - h * pull",
        "ode/test_three_problems.py::test_dot_test",
    ),
    Mutation(
        "W instead of its transpose",
        "fields/layer.py",
        "self.W.T @ q",
        "self.W @ q",
        "fields/test_layer.py::test_vjp_is_the_transpose",
    ),
    Mutation(
        "the gradient pairs lam_i, not lam_{i+1}, with x_i",
        "ode/adjoint.py",
        "vjp(lam[i + 1], into=",
        "vjp(lam[i + 1]); linearizations[i].vjp(lam[i + 1] + h * pull, into=",
        "ode/test_three_problems.py::test_adjoint_is_the_printed_recursion_and_pairs_the_next_lam",
    ),
    Mutation(
        "forgotten sum over the samples",
        "fields/layer.py",
        "q.sum(axis=1)",
        "q[:, 0]",
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
        "1 - s * s",
        "1 - s",
        "fields/test_activations.py::test_slope_is_the_central_difference",
    ),
    Mutation(
        "forgotten factor h in the sensitivity",
        "ode/tangent.py",
        "float(t[i + 1] - t[i]) *",
        "1.0 *",
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
        "gg=pair(partials, self.g)",
        "gg=pair(self.g, self.g)",
        "training/test_ncg_quadratic.py::test_ends_in_n_steps",
    ),
    Mutation(
        "decay forgotten in the step length",
        "training/gradients.py",
        "xi_T, *decay)",
        "xi_T)",
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
        "a kernel of the hot path forgets the bias",
        "_kernels.py",
        "dwx[i, j] + db[i]",
        "dwx[i, j]",
        "training/test_kernels.py::test_tangent_step",
    ),
    Mutation(
        "the hot path forgets a transpose",
        "training/hotpath.py",
        "W[k].T, q[",
        "W[k], q[",
        "training/test_hotpath.py::test_every_quantity_of_one_iteration",
    ),
    Mutation(
        "the hot path pairs x_{i+1} with lam_{i+1}",
        "training/hotpath.py",
        "first.x[k].T",
        "first.x[k + 1].T",
        "training/test_hotpath.py::test_every_quantity_of_one_iteration",
    ),
    Mutation(
        "a resumed run draws other minibatches",
        "training/loop.py",
        "self.rng.bit_generator.state = ",
        "_ = ",
        "training/test_loop.py::test_the_generator_is_part_of_the_checkpoint",
    ),
]


def copy_to(folder):
    """Copy what the named tests need; the kernels stay compiled, the bytecode does not."""
    skip = shutil.ignore_patterns("data", "*.pyc")
    shutil.copytree(PACKAGE, folder / "snode", ignore=skip)
    for name in ("fields", "ode", "training"):
        shutil.copytree(TESTS / name, folder / "tests" / name, ignore=skip)
    shutil.copy(TESTS / "conftest.py", folder / "tests")
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
        folder, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{n}" for n in nodes)
    )


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
