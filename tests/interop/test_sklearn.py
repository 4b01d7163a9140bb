"""Estimators: scikit-learn's own checks, equality with snode.train, searches, pickles."""

import pickle

import numpy as np
import pytest

import snode

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from snode.sklearn import SnodeClassifier, SnodeRegressor


@parametrize_with_checks([SnodeClassifier(), SnodeRegressor()])
def test_what_scikit_learn_expects(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def moons():
    return make_moons(200, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def fitted(moons):
    return SnodeClassifier(n_iter=40, random_state=0).fit(*moons)


def test_rows_are_the_columns_of_snode(fitted, moons):
    X, y = moons
    x = np.ascontiguousarray(((X - fitted.mean_) / fitted.scale_).T)
    np.testing.assert_array_equal(snode.predict(fitted.field_, x), fitted.predict(X))
    assert fitted.score(X, y) == snode.accuracy(fitted.field_, x, y) > 0.95


def test_the_features_are_standardised_by_what_fit_saw(moons):
    X, y = moons
    options = {"n_iter": 15, "random_state": 0}
    plain = SnodeClassifier(**options).fit(X, y)
    np.testing.assert_allclose(plain.mean_, X.mean(axis=0))
    np.testing.assert_allclose(plain.scale_, X.std(axis=0))
    far = SnodeClassifier(**options).fit(1e3 * X - 5e4, y)
    np.testing.assert_allclose(far.predict_proba(1e3 * X - 5e4), plain.predict_proba(X), atol=1e-6)
    raw = SnodeClassifier(**options, standardise=False).fit(X, y)
    assert (raw.mean_ == 0).all()
    assert (raw.scale_ == 1).all()


def test_a_constant_feature_does_no_harm(moons):
    X, y = moons
    X = np.column_stack([X, np.full(len(X), 0.1)])
    assert SnodeClassifier(n_iter=40, random_state=0).fit(X, y).score(X, y) > 0.95


def test_probabilities_are_the_softmax_of_the_outputs():
    X, y = load_iris(return_X_y=True)
    est = SnodeClassifier(n_iter=20, random_state=0).fit(X, y)
    z = est.decision_function(X)
    assert z.shape == (150, 3)
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(est.predict_proba(X), expected, rtol=1e-12)
    np.testing.assert_allclose(est.predict_log_proba(X), np.log(expected), atol=1e-12)
    np.testing.assert_array_equal(est.predict(X), z.argmax(axis=1))


def test_two_classes_have_one_decision_and_their_names(moons):
    X, y = moons
    names = np.array(["low", "high"])[y]
    est = SnodeClassifier(n_iter=15, random_state=0).fit(X, names)
    assert est.classes_.tolist() == ["high", "low"]
    d = est.decision_function(X)
    np.testing.assert_array_equal(est.predict(X) == "low", d > 0)
    np.testing.assert_allclose(est.predict_proba(X)[:, 1], 1 / (1 + np.exp(-d)), rtol=1e-12)


def test_one_class_is_refused(moons):
    with pytest.raises(ValueError, match="two classes; got one class"):
        SnodeClassifier().fit(moons[0], np.zeros(200, int))


@pytest.mark.parametrize(
    "bad", [{"depth": 0}, {"n_layers": 1.5}, {"activation": "nope"}, {"decay": -1}, {"n_iter": 0}]
)
def test_a_bad_parameter_is_named(bad, moons):
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        SnodeClassifier(**bad).fit(*moons)


def test_before_fit_it_says_so(moons):
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(SnodeClassifier(), method)(moons[0])


def test_the_same_seed_gives_the_same_numbers_and_pickles_keep_them(fitted, moons):
    X, y = moons
    again = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(again.decision_function(X), fitted.decision_function(X))
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.decision_function(X), fitted.decision_function(X))


def test_pipeline_search_and_processes(moons):
    pipe = make_pipeline(StandardScaler(), SnodeClassifier(n_iter=10, random_state=0))
    grid = {"snodeclassifier__depth": [0.5, 3.0]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2).fit(*moons)
    assert search.best_params_["snodeclassifier__depth"] in (0.5, 3.0)
    assert search.best_score_ > 0.7


def test_breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    assert cross_val_score(SnodeClassifier(n_iter=30, random_state=0), X, y, cv=3).mean() > 0.94


def test_regression_of_one_and_of_several_targets():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 2))
    Y = np.column_stack([np.sin(3 * X[:, 0]), X[:, 0] * X[:, 1]])
    est = SnodeRegressor(n_iter=60, random_state=0).fit(X, Y)
    assert est.predict(X).shape == (300, 2)
    assert est.score(X, Y) > 0.8  # 0 is the mean
    far = SnodeRegressor(n_iter=60, random_state=0).fit(X, 1e3 * Y + 50)
    np.testing.assert_allclose(far.predict(X), 1e3 * est.predict(X) + 50, rtol=1e-6, atol=1e-3)
    one = SnodeRegressor(n_iter=5, random_state=0).fit(X, Y[:, 1])
    assert one.predict(X).shape == (300,)


def test_float32_stays_float32(moons):
    X, y = moons
    est = SnodeClassifier(n_iter=10, random_state=0).fit(X.astype(np.float32), y)
    assert est.field_.dtype == np.float32
    assert est.predict_proba(X.astype(np.float32)).dtype == np.float32
