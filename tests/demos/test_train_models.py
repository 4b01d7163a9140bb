import numpy as np
import pytest

import snode


def test_the_twenty_differ_as_table_2_says(demo):
    tm = demo("snode/train_models")
    assert len({kind.name for kind in tm.KINDS}) == 20
    for kind in tm.KINDS:
        cost = kind.objective
        assert (cost.ce > 0) == (kind.cost == "ce") == (cost.output > 0) == (cost.l2 == 0)
        assert (cost.decay > 0) == kind.training.endswith("-wd")
    methods = {t: o.get("method", "ncg") for t, o in tm.TRAININGS.items()}
    assert methods["sgd"] == methods["sgd-wd"] == "rmsprop"


def test_all_are_trained(zoo):
    assert len(zoo) == 20
    data = snode.datasets.load_mnist()
    x, y = np.ascontiguousarray(data.x_test[:, :300]), data.y_test[:300]
    for kind, _, field in zoo:
        assert field.activation.name == kind.activation
        assert snode.accuracy(field, x, y) > 0.2, kind.name  # chance is 0.1


def test_a_trained_network_is_read_and_a_stopped_training_goes_on(demo, tmp_path, monkeypatch):
    tm = demo("snode/train_models")
    monkeypatch.setitem(tm.LAYERS, "quick", 4)
    monkeypatch.setitem(tm.EPOCHS, "quick", 0.01)
    data = snode.datasets.load_mnist()
    kind = tm.Kind("l2", "tanh", "ncg-h1")
    whole = tm.train(kind, folder=tmp_path / "a", data=data).field

    train = snode.train
    stops = iter([True, False])

    def stopping(*args, **kwargs):
        stop = next(stops)
        kwargs["callback"] = lambda state: stop and state.batch == 3
        return train(*args, **kwargs)

    monkeypatch.setattr(snode, "train", stopping)
    assert tm.train(kind, folder=tmp_path / "b", data=data) is None
    files = [f.name for f in (tmp_path / "b/quick").iterdir()]
    assert files == ["tanh-l2-ncg-h1-seed1.checkpoint"]
    resumed = tm.train(kind, folder=tmp_path / "b", data=data)
    assert (resumed.field.W == whole.W).all()
    assert resumed.manifest["seed"] == 1

    monkeypatch.setattr(snode, "train", None)  # must not be needed again
    again = tm.train(kind, folder=tmp_path / "b", data=data).field
    assert (again.W == whole.W).all()


def test_a_stopped_training_ends_the_demo_in_words(demo, monkeypatch):
    tm = demo("snode/train_models")
    monkeypatch.setattr(tm, "train", lambda *args: None)
    with pytest.raises(SystemExit, match="goes on from here"):
        list(tm.models())
