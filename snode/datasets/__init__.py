"""Data sets: MNIST, toy sets for lessons, and a user's own files.

All of them come with one column per sample, on the device chosen by `snode.use_backend`.
"""

from snode.datasets.base import Dataset, train_test_split
from snode.datasets.files import load_dataset
from snode.datasets.mnist import load_mnist
from snode.datasets.toys import annulus, broken_annulus, spirals, swiss_roll, two_moons

__all__ = [
    "Dataset",
    "annulus",
    "broken_annulus",
    "load_dataset",
    "load_mnist",
    "spirals",
    "swiss_roll",
    "train_test_split",
    "two_moons",
]
