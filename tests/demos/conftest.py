"""Networks small enough to train all twenty of them in the tests."""

import importlib
import sys
from pathlib import Path

import pytest

import snode

DEMOS = Path(__file__).parent.parent.parent / "demos"


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


@pytest.fixture(scope="session")
def zoo(demo, tmp_path_factory):
    """(kind, seed, field) of all twenty: 8 layers, a few minibatches."""
    train_models = demo("snode/train_models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_models, "N_LAYERS", 8)
        patch.setitem(train_models.EPOCHS, "quick", 0.015)
        folder = tmp_path_factory.mktemp("models")
        return list(train_models.models(folder=folder, data=snode.datasets.load_mnist()))
