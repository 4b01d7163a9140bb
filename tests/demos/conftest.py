"""Networks small enough to train all twenty of them in the tests."""

from pathlib import Path

import pytest

import snode


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark all tests of this folder slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def zoo(demo, tmp_path_factory):
    """(kind, seed, field) of all twenty: 8 layers, a few minibatches."""
    train_models = demo("snode/train_models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_models.LAYERS, "quick", 8)
        patch.setitem(train_models.EPOCHS, "quick", 0.015)
        folder = tmp_path_factory.mktemp("models")
        return list(train_models.models(folder=folder, data=snode.datasets.load_mnist()))
