"""Standalone neural ODEs: networks that are differential equations."""

from __future__ import annotations

# ruff: isort: off
from snode import _early  # before all that takes time

# ruff: isort: on
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from snode import datasets
from snode.analysis.attacks import (
    AttackResult,
    carlini_wagner,
    deepfool,
    fgsm,
    pgd,
    sensitivity_attack,
    success_curve,
)
from snode.analysis.robustness import NoiseAccuracy, accuracy_under_attack, accuracy_under_noise
from snode.analysis.sensitivity import (
    Propagation,
    Uncertainty,
    input_jacobian,
    output_uncertainty,
    propagate,
    saliency,
)
from snode.backend import get_backend, use_backend
from snode.checks import CheckReport, check, dot_test, observed_order, taylor_test
from snode.fields.activations import (
    Activation,
    activation_names,
    get_activation,
    register_activation,
)
from snode.fields.base import VectorField
from snode.fields.classifier import Classifier
from snode.fields.function import FunctionField
from snode.fields.layer import StandaloneField
from snode.fields.mlp import MLPField
from snode.io import Model, load, save
from snode.matlab import export_mat, import_mat
from snode.ode.control import OdeState
from snode.ode.events import Event
from snode.ode.fixed import euler, heun, rk4
from snode.ode.ivp import ode23, ode45
from snode.ode.options import ABSENT, OdeOptions, odeset
from snode.ode.problems import (
    Solver,
    end_time_derivative,
    solve_adjoint,
    solve_direct,
    solve_sensitivity,
)
from snode.ode.tableaus import TABLEAUS, ButcherTableau
from snode.partials import Partials
from snode.predict import accuracy, confusion, predict
from snode.results import (
    AdjointSolution,
    IntegrationError,
    ModelFormatError,
    NcgHistory,
    NcgResult,
    OdeSolution,
    Status,
    TrainingWarning,
    TrainResult,
)
from snode.training.costs import Cost
from snode.training.firstorder import FIRST_ORDER
from snode.training.gradients import gradient
from snode.training.innerproducts import H1, L2, Euclidean
from snode.training.loop import TrainState, train
from snode.training.ncg import CG_RULES, CgRule, CgTerms, NcgState, NonFiniteCostError, ncg
from snode.training.sweep import SweepResult, SweepRow, sweep

if TYPE_CHECKING:
    from snode.analysis.contractivity import contracting_shift, contractivity_interval
    from snode.analysis.growth import certified_radius, growth_bound, trajectory_gap
    from snode.analysis.lognorm import LogNormResult, log_norm, max_log_norm
    from snode.analysis.perturbation import minimal_perturbation
    from snode.plotting import (
        animate_trajectories,
        plot_accuracy,
        plot_certified,
        plot_confusion,
        plot_decision_regions,
        plot_growth,
        plot_history,
        plot_images,
        plot_phase_portrait,
        plot_propagation,
        plot_solution,
        plot_success,
        plot_trajectories,
        plot_trajectory_gap,
        plot_vector_field,
        plot_weights,
    )

_early.imported()

try:
    __version__ = version("snode")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

__all__ = [
    "CG_RULES",
    "FIRST_ORDER",
    "H1",
    "L2",
    "TABLEAUS",
    "Activation",
    "AdjointSolution",
    "AttackResult",
    "ButcherTableau",
    "CgRule",
    "CgTerms",
    "CheckReport",
    "Classifier",
    "Cost",
    "Euclidean",
    "Event",
    "FunctionField",
    "IntegrationError",
    "LogNormResult",
    "MLPField",
    "Model",
    "ModelFormatError",
    "NcgHistory",
    "NcgResult",
    "NcgState",
    "NoiseAccuracy",
    "NonFiniteCostError",
    "OdeOptions",
    "OdeSolution",
    "OdeState",
    "Partials",
    "Propagation",
    "Solver",
    "StandaloneField",
    "Status",
    "SweepResult",
    "SweepRow",
    "TrainResult",
    "TrainState",
    "TrainingWarning",
    "Uncertainty",
    "VectorField",
    "__version__",
    "accuracy",
    "accuracy_under_attack",
    "accuracy_under_noise",
    "activation_names",
    "animate_trajectories",
    "carlini_wagner",
    "certified_radius",
    "check",
    "confusion",
    "contracting_shift",
    "contractivity_interval",
    "datasets",
    "deepfool",
    "dot_test",
    "end_time_derivative",
    "euler",
    "export_mat",
    "fgsm",
    "get_activation",
    "get_backend",
    "gradient",
    "growth_bound",
    "heun",
    "import_mat",
    "input_jacobian",
    "load",
    "log_norm",
    "max_log_norm",
    "minimal_perturbation",
    "ncg",
    "observed_order",
    "ode23",
    "ode45",
    "odeset",
    "output_uncertainty",
    "pgd",
    "plot_accuracy",
    "plot_certified",
    "plot_confusion",
    "plot_decision_regions",
    "plot_growth",
    "plot_history",
    "plot_images",
    "plot_phase_portrait",
    "plot_propagation",
    "plot_solution",
    "plot_success",
    "plot_trajectories",
    "plot_trajectory_gap",
    "plot_vector_field",
    "plot_weights",
    "predict",
    "propagate",
    "register_activation",
    "rk4",
    "saliency",
    "save",
    "sensitivity_attack",
    "solve_adjoint",
    "solve_direct",
    "solve_sensitivity",
    "success_curve",
    "sweep",
    "taylor_test",
    "train",
    "trajectory_gap",
    "use_backend",
]

_ON_DEMAND = {
    "LogNormResult": "lognorm",
    "certified_radius": "growth",
    "contracting_shift": "contractivity",
    "contractivity_interval": "contractivity",
    "growth_bound": "growth",
    "log_norm": "lognorm",
    "max_log_norm": "lognorm",
    "minimal_perturbation": "perturbation",
    "trajectory_gap": "growth",
}
"""Names whose module needs SciPy's linear algebra: imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(f"snode.analysis.{_ON_DEMAND[name]}"), name)
    if name in __all__ and name.startswith(("plot_", "animate_")):
        return getattr(import_module("snode.plotting"), name)
    hint = f": {ABSENT[name]}" if name in ABSENT else ""
    raise AttributeError(f"module 'snode' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
