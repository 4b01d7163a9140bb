"""Standalone neural ODEs: networks that are differential equations."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from snode import datasets
from snode.analysis.robustness import accuracy_under_noise
from snode.backend import get_backend, use_backend
from snode.checks import CheckReport, check, dot_test, taylor_test
from snode.fields.activations import (
    Activation,
    activation_names,
    get_activation,
    register_activation,
)
from snode.fields.base import VectorField
from snode.fields.layer import StandaloneField
from snode.io import Model, load, save
from snode.matlab import export_mat, import_mat
from snode.ode.fixed import euler
from snode.ode.problems import solve_adjoint, solve_direct, solve_sensitivity
from snode.predict import accuracy, confusion, predict
from snode.results import (
    AdjointSolution,
    IntegrationError,
    ModelFormatError,
    NcgHistory,
    NcgResult,
    OdeSolution,
    Status,
    TrainResult,
)
from snode.training.costs import Cost
from snode.training.firstorder import FIRST_ORDER
from snode.training.gradients import gradient
from snode.training.innerproducts import H1, L2, Euclidean
from snode.training.loop import TrainState, train
from snode.training.ncg import CG_RULES, CgRule, CgTerms, NcgState, NonFiniteCostError, ncg

try:
    __version__ = version("snode")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

__all__ = [
    "CG_RULES",
    "FIRST_ORDER",
    "H1",
    "L2",
    "Activation",
    "AdjointSolution",
    "CgRule",
    "CgTerms",
    "CheckReport",
    "Cost",
    "Euclidean",
    "IntegrationError",
    "Model",
    "ModelFormatError",
    "NcgHistory",
    "NcgResult",
    "NcgState",
    "NonFiniteCostError",
    "OdeSolution",
    "StandaloneField",
    "Status",
    "TrainResult",
    "TrainState",
    "VectorField",
    "__version__",
    "accuracy",
    "accuracy_under_noise",
    "activation_names",
    "check",
    "confusion",
    "datasets",
    "dot_test",
    "euler",
    "export_mat",
    "get_activation",
    "get_backend",
    "gradient",
    "import_mat",
    "load",
    "ncg",
    "predict",
    "register_activation",
    "save",
    "solve_adjoint",
    "solve_direct",
    "solve_sensitivity",
    "taylor_test",
    "train",
    "use_backend",
]
