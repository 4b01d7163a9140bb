"""Figures of data, fields, solutions, training runs and certificates.

Each function draws on the Axes it is given, or on new ones, and returns them. matplotlib is
imported inside of the functions; pyplot, with its global state, only where no Axes are given.
"""

from snode.plotting.canvas import COLOURS, figure_of
from snode.plotting.certificates import (
    plot_certified,
    plot_growth,
    plot_propagation,
    plot_success,
    plot_trajectory_gap,
)
from snode.plotting.flows import plot_phase_portrait, plot_solution, plot_vector_field
from snode.plotting.report import (
    plot_accuracy,
    plot_confusion,
    plot_cost,
    plot_digits,
    plot_history,
    plot_images,
    plot_weights,
)
from snode.plotting.samples import (
    animate_trajectories,
    plot_decision_regions,
    plot_trajectories,
)
from snode.plotting.training import (
    plot_adversarial,
    plot_classes,
    plot_depth,
    training_report,
)

__all__ = [
    "COLOURS",
    "animate_trajectories",
    "figure_of",
    "plot_accuracy",
    "plot_adversarial",
    "plot_certified",
    "plot_classes",
    "plot_confusion",
    "plot_cost",
    "plot_decision_regions",
    "plot_depth",
    "plot_digits",
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
    "training_report",
]
