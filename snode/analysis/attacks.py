"""Adversarial attacks: small perturbations of the inputs that change the predicted class.

All attacks work on many samples at once, obey the box and their norm bound exactly in the dtype of
the inputs, and tell from the returned array whether they succeeded.
"""

from snode.analysis.attack_result import AttackResult, success_curve
from snode.analysis.distance_attack import carlini_wagner
from snode.analysis.gradient_attacks import fgsm, pgd
from snode.analysis.linear_attacks import deepfool, sensitivity_attack

__all__ = [
    "AttackResult", "carlini_wagner", "deepfool", "fgsm", "pgd", "sensitivity_attack",
    "success_curve",
]  # fmt: skip
