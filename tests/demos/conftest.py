"""Networks small enough to train all twenty of them in the tests."""

import pytest

import snode


@pytest.fixture(scope="session")
def zoo(demo, tmp_path_factory):
    """(kind, seed, field) of all twenty: 8 layers, a few minibatches."""
    train_models = demo("snode/train_models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_models.LAYERS, "quick", 8)
        patch.setitem(train_models.EPOCHS, "quick", 0.015)
        folder = tmp_path_factory.mktemp("models")
        return list(train_models.models(folder=folder, data=snode.datasets.load_mnist()))
