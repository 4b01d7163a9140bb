"""Fields as classifiers of the Adversarial Robustness Toolbox: values, gradients, its attacks."""

import subprocess
import sys

import numpy as np
import pytest

import snode
from snode.analysis.attacks import deepfool, fgsm, pgd
from snode.fields.base import outputs

evasion = pytest.importorskip("art.attacks.evasion")
from snode.interop.art import SnodeClassifier  # noqa: E402

BOX = (0.0, 1.0)


def layered(n, K=5, *, dtype=np.float64, seed=0, activation="tanh", scale=1.5):
    rng = np.random.default_rng([seed, n])
    W = scale * rng.standard_normal((K, n, n)) / np.sqrt(n)
    b = 0.3 * rng.standard_normal((K, n))
    return snode.StandaloneField(W.astype(dtype), b.astype(dtype), 1.0, activation=activation)


def with_readout(n=9, C=4, *, dtype=np.float64, seed=0, **options):
    rng = np.random.default_rng([seed, 7])
    V, c = rng.standard_normal((C, n)), 0.1 * rng.standard_normal(C)
    body = layered(n, dtype=dtype, seed=seed, **options)
    # the mean logits of the middle of the box are made equal, so that every class occurs
    middle = np.full((n, 1), 0.5, dtype=dtype)
    c -= V @ snode.solve_direct(body, middle).x_T[:, 0]
    return snode.Classifier(body, V.astype(dtype), c.astype(dtype))


FIELDS = {  # field, n_classes
    "standalone": (layered(9), 3),
    "ten of twelve": (layered(12), None),
    "mlp": (snode.MLPField((9, 12, 9), rng=0), 4),
    "classifier": (with_readout(), None),
    "mlp classifier": (snode.Classifier.random(snode.MLPField((9, 12, 9), rng=0), 3, rng=1), None),
}
SOLVERS = {
    "euler": "euler",
    "rk4": "rk4",
    "checkpoints": snode.Solver("heun", checkpoints=2),
}


@pytest.fixture(params=FIELDS)
def case(request):
    return FIELDS[request.param]


def samples(n, m=7, *, seed=0, dtype=np.float64, shape=None):
    x = np.random.default_rng([seed, n, m]).uniform(0, 1, (m, n)).astype(np.float32)
    return x.astype(dtype).reshape(m, *(shape or (n,)))


def logits(field, x, C, solver="euler"):
    """Return the logits (m, C), sample by sample and without the wrapper."""
    solver = snode.ode.problems.as_solver(solver)
    z = [outputs(field, solver.solve(field, row.reshape(-1, 1), keep="last").x_T) for row in x]
    return np.concatenate(z, axis=1)[:C].T


def cross_entropy(z, y):
    z = z.astype(np.float64)
    return -(y * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))).sum(axis=1)


def differences(function, x, h=1e-5):
    """Return the derivatives of a function of the samples, (m, n, ...), by central differences."""
    columns = []
    for i in range(x.shape[1]):
        e = np.zeros_like(x)
        e[:, i] = h
        columns.append((function(x + e) - function(x - e)) / (2 * h))
    return np.stack(columns, axis=1)


WITHOUT_TORCH = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torch" else find_spec(name, *a)
import snode.interop.art
"""


def test_importing_it_without_torch_says_nothing():
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", WITHOUT_TORCH],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# --- values and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_are_central_differences(case, solver):
    (field, n_classes), solver = case, SOLVERS[solver]
    classifier = SnodeClassifier(field, n_classes=n_classes, solver=solver, block=3)
    C, x = classifier.nb_classes, samples(field.n)
    y = np.random.default_rng(1).integers(0, C, len(x))
    weights = np.random.default_rng(2).uniform(0, 1, (len(x), C))

    def check(gradient, difference):
        assert np.allclose(gradient, difference, rtol=1e-7, atol=1e-7)

    assert np.allclose(classifier.predict(x), logits(field, x, C, solver), rtol=1e-12, atol=1e-12)
    dz = differences(lambda x: logits(field, x, C, solver), x).swapaxes(1, 2)
    check(classifier.class_gradient(x), dz)
    check(classifier.class_gradient(x, label=1), dz[:, [1]])
    check(classifier.class_gradient(x, label=list(y)), dz[np.arange(len(x)), y][:, None])
    for target, given in ((np.eye(C)[y], y), (weights, weights)):
        loss = cross_entropy(logits(field, x, C, solver), target)
        assert np.allclose(classifier.compute_loss(x, given), loss, rtol=1e-9)
        check(
            classifier.loss_gradient(x, given),
            differences(lambda x, t=target: cross_entropy(logits(field, x, C, solver), t), x),
        )


def test_step_control():
    solver = snode.Solver("ode45", rtol=1e-9, atol=1e-11)
    field, x, y = snode.MLPField((4, 6, 4), rng=0), samples(4, m=3), np.array([0, 2, 1])
    classifier = SnodeClassifier(field, n_classes=3, solver=solver, block=2)

    def loss(x):
        return cross_entropy(logits(field, x, 3, solver), np.eye(3)[y])

    assert np.allclose(classifier.predict(x), logits(field, x, 3, solver), rtol=1e-7)
    # other steps for each sample and for x + e: what is left is 1e-9 / h, besides h**2
    assert np.allclose(classifier.loss_gradient(x, y), differences(loss, x, h=1e-3), atol=1e-5)


def test_reductions():
    classifier = SnodeClassifier(with_readout())
    x, y = samples(9), np.array([0, 1, 2, 3, 0, 1, 2])
    losses = classifier.compute_loss(x, y)
    assert losses.shape == (7,)
    assert np.isclose(classifier.compute_loss(x, y, reduction="sum"), losses.sum())
    assert np.isclose(classifier.compute_loss(x, y, reduction="mean"), losses.sum() / 7)
    # so ART's own call, with the labels one-hot and as a column
    for same in (np.eye(4)[y], y[:, None]):
        assert np.array_equal(classifier.compute_loss(x=x, y=same), losses)


def test_a_network_that_is_sure_still_has_a_gradient():
    # z = x; in float32 the probability of class 0 is 1
    field = snode.StandaloneField(np.zeros((1, 2, 2), "f4"), np.zeros((1, 2), "f4"), T=1.0)
    classifier = SnodeClassifier(field, n_classes=2)
    x = np.array([[40, 0]], "f4")
    gradient = classifier.loss_gradient(x, np.array([0]))
    assert np.allclose(gradient, np.exp(-40.0) * np.array([[-1, 1]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_do_not_matter_and_the_dtype_is_that_of_the_field(dtype):
    field = with_readout(dtype=dtype)
    whole, parts = SnodeClassifier(field), SnodeClassifier(field, block=2)
    x, y = samples(9), np.array([0, 1, 2, 3, 0, 1, 2])
    for call in (
        lambda c: c.predict(x),
        lambda c: c.class_gradient(x),
        lambda c: c.class_gradient(x, y),
        lambda c: c.loss_gradient(x, y),
        lambda c: c.compute_loss(x, y),
    ):
        one, other = call(whole), call(parts)
        assert one.dtype == other.dtype == dtype
        assert np.allclose(one, other, rtol=0, atol=50 * np.finfo(dtype).eps)
    # ART's attacks work in float32 whatever the dtype of the field is
    assert np.array_equal(whole.predict(x.astype(np.float32)), whole.predict(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_are_those_of_arts_pytorch_classifier(dtype, tolerance, reduction):
    torch = pytest.importorskip("torch")
    from art.estimators.classification import PyTorchClassifier

    field = with_readout(dtype=dtype)
    W, b, V, c = (torch.from_numpy(a.copy()) for a in field.parameters.values())
    assert V.shape == (4, 9)

    class ResidualNetwork(torch.nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            for k in range(len(W)):
                x = x + 0.2 * torch.tanh(x @ W[k].T + b[k])
            return x @ V.T + c

    ours = SnodeClassifier(field, input_shape=(1, 3, 3))
    theirs = PyTorchClassifier(
        ResidualNetwork(),
        torch.nn.CrossEntropyLoss(reduction=reduction),
        (1, 3, 3),
        4,
        preprocessing=None,
        device_type="cpu",
    )
    x = samples(9, dtype=dtype, shape=(1, 3, 3))
    label = np.array([0, 1, 2, 3, 0, 1, 2])
    y = np.eye(4, dtype=dtype)[label]
    soft = np.random.default_rng(0).dirichlet(np.ones(4), 7).astype(dtype)

    def same(one, other, tolerance=tolerance):
        assert one.shape == other.shape
        assert np.allclose(one, other, rtol=tolerance, atol=tolerance)

    # ART's predictions are float32
    same(ours.predict(x), theirs.predict(x), 1e-5)
    # ours is the gradient of the sum, theirs that of whatever the user asked PyTorch for
    scale = 7 if reduction == "mean" else 1
    for target in (y, soft):
        same(ours.loss_gradient(x, target), scale * theirs.loss_gradient(x, target))
        same(ours.compute_loss(x, target), theirs.compute_loss(x, target))
    same(ours.class_gradient(x), theirs.class_gradient(x))
    same(ours.class_gradient(x, label=2), theirs.class_gradient(x, label=2))
    same(ours.class_gradient(x, label=label), theirs.class_gradient(x, label=label))


def test_a_field_on_a_device(cp):
    field = layered(9)
    there = snode.StandaloneField(
        *(cp.asarray(np.array(a)) for a in field.parameters.values()), 1.0, activation="tanh"
    )
    x, y = samples(9), np.array([0, 1, 2, 2, 0, 1, 2])
    one, other = (SnodeClassifier(f, n_classes=3, block=4) for f in (field, there))
    for call in (
        lambda c: c.predict(x),
        lambda c: c.class_gradient(x),
        lambda c: c.loss_gradient(x, y),
        lambda c: c.compute_loss(x, y),
    ):
        assert type(call(other)) is np.ndarray
        assert np.allclose(call(one), call(other), rtol=1e-12, atol=1e-12)


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12,), (3, 4), (1, 3, 4), (3, 4, 1), (3, 2, 2)])
def test_samples_of_any_shape(shape):
    field = layered(12)
    flat = SnodeClassifier(field, n_classes=3)
    classifier = SnodeClassifier(field, n_classes=3, input_shape=shape)
    assert flat.input_shape == (12,)
    assert classifier.input_shape == shape
    x, y = samples(12, m=5), np.array([0, 1, 2, 1, 0])
    images = x.reshape(5, *shape)
    assert np.array_equal(classifier.predict(images), flat.predict(x))
    gradient = classifier.loss_gradient(images, y)
    assert gradient.shape == images.shape
    assert np.array_equal(gradient.reshape(5, 12), flat.loss_gradient(x, y))
    gradients = classifier.class_gradient(images)
    assert gradients.shape == (5, 3, *shape)
    assert np.array_equal(gradients.reshape(5, 3, 12), flat.class_gradient(x))
    assert classifier.class_gradient(images, label=2).shape == (5, 1, *shape)
    # the order of the axes counts, not that of the memory; lists and integers are numbers too
    assert np.array_equal(classifier.predict(np.asfortranarray(images)), flat.predict(x))
    assert np.array_equal(flat.predict(np.ones((1, 12), int)), flat.predict([[1.0] * 12]))


def test_predictions_are_those_of_snode(case):
    field, n_classes = case
    classifier = SnodeClassifier(field, n_classes=n_classes)
    x = samples(field.n, m=30)
    label = snode.predict(field, x.T.copy(), n_classes=n_classes)
    assert np.array_equal(classifier.predict(x).argmax(axis=1), label)


def test_preprocessing():
    field = with_readout()
    plain = SnodeClassifier(field, input_shape=(1, 3, 3))
    classifier = SnodeClassifier(field, input_shape=(1, 3, 3), preprocessing=(1.0, 2.0))
    x = samples(9, shape=(1, 3, 3), dtype=np.float32)
    y, inside = np.array([0, 1, 2, 3, 0, 1, 2]), (x - 1) / 2
    assert np.allclose(classifier.predict(x), plain.predict(inside), atol=1e-6)
    assert np.allclose(classifier.compute_loss(x, y), plain.compute_loss(inside, y), atol=1e-6)
    assert np.allclose(
        classifier.loss_gradient(x, y), plain.loss_gradient(inside, y) / 2, atol=1e-6
    )
    assert np.allclose(classifier.class_gradient(x), plain.class_gradient(inside) / 2, atol=1e-6)
    assert classifier.class_gradient(x).dtype == np.float64


# --- ART's attacks and ours -----------------------------------------------------------------------


def attacked(field, m=25, n_classes=None):
    """Return samples in the box as rows, and the predicted classes, so that all are attacked."""
    x = samples(field.n, m=m, seed=5, dtype=field.parameters["W"].dtype)
    x[0, :2] = BOX  # some at the edge of the box
    y = snode.predict(field, x.T.copy(), n_classes=n_classes)
    assert len(np.unique(y)) > 1
    return x, y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.17), ("2", 0.37)])
def test_fgsm_is_fgsm(norm, eps, dtype):
    field = with_readout(dtype=dtype)
    x, y = attacked(field)
    classifier = SnodeClassifier(field, clip_values=BOX, input_shape=(1, 3, 3), block=10)
    ours = fgsm(field, x.T.copy(), y, eps=eps, norm=norm, box=BOX).x_adv.T
    attack = evasion.FastGradientMethod(classifier, norm=float(norm), eps=eps)
    theirs = attack.generate(x.reshape(-1, 1, 3, 3), y)
    assert theirs.shape == (25, 1, 3, 3)
    assert (ours == 0).any()  # the box is felt
    assert np.allclose(theirs.reshape(25, 9), ours, rtol=0, atol=1e-6)  # ART works in float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_pgd_is_pgd(norm, aimed, dtype):
    field = with_readout(dtype=dtype)
    x, y = attacked(field)
    # in the 2-norm ART cuts off at the box before it projects, we after: not the same point where
    # both are felt
    box, eps, step = (BOX, 0.1, 0.03) if norm == "inf" else ((-3.0, 4.0), 0.4, 0.13)
    target = (y + 1) % 4 if aimed else None
    found = pgd(
        field, x.T.copy(), y, eps=eps, step=step, norm=norm, n_iter=9, target=target, box=box,
        random_start=False, keep_best=False,
    )  # fmt: skip
    size = found.norminf if norm == "inf" else found.norm2
    assert (size > 0.999 * eps).mean() > 0.5  # the ball is felt
    classifier = SnodeClassifier(field, clip_values=box)
    options = {"norm": float(norm), "eps": eps, "eps_step": step, "max_iter": 9, "verbose": False}
    attack = evasion.ProjectedGradientDescentNumpy(classifier, targeted=aimed, **options)
    theirs = attack.generate(x, target if aimed else y)
    # ART's projection divides by the norm plus 1e-7, in each of 9 steps
    assert np.allclose(theirs, found.x_adv.T, rtol=0, atol=1e-6 if norm == "inf" else 1e-5)
    if norm == "inf":
        iterated = evasion.BasicIterativeMethod(
            classifier, eps=eps, eps_step=step, max_iter=9, targeted=aimed, verbose=False
        )
        assert np.array_equal(iterated.generate(x, target if aimed else y), theirs)


def linear_case(m=20):
    """Return a linear classifier, samples, classes, and the distances to another class."""
    field = with_readout(activation="identity", scale=0.4, seed=3)
    x, y = attacked(field, m)
    z = snode.interop.art.SnodeClassifier(field)
    rows, values = z.class_gradient(x), z.predict(x)
    k = np.arange(m)
    gap = values[k, y][:, None] - values
    size = np.linalg.norm(rows - rows[k, y][:, None], axis=2)
    size[k, y] = 1
    distance = gap / size
    distance[k, y] = np.inf
    return field, x, y, distance.min(axis=1)


def fools(field, x, y):
    dtype = field.parameters["W"].dtype
    return snode.predict(field, np.ascontiguousarray(x.reshape(len(x), -1).T, dtype)) != y


def test_deepfool_on_a_linear_network():
    field, x, y, distance = linear_case()
    ours = deepfool(field, x.T.copy(), y, box=(-np.inf, np.inf), overshoot=0.02)
    classifier = SnodeClassifier(field)  # with a box ART scales the step by its width
    attack = evasion.DeepFool(classifier, epsilon=0.02, batch_size=7, verbose=False)
    theirs = attack.generate(x)
    assert ours.success.all()
    assert fools(field, theirs, y).all()
    assert np.allclose(ours.norm2, 1.02 * distance, rtol=1e-6)
    # float32, and 1e-7 added to each squared norm of a gradient
    assert np.allclose(np.linalg.norm(theirs - x, axis=1), 1.02 * distance, rtol=1e-4)


@pytest.mark.parametrize("nb_grads", [10, 2])
def test_deepfool_is_deepfool(nb_grads):
    field = with_readout()
    x, y = attacked(field)
    ours = deepfool(field, x.T.copy(), y, box=BOX, overshoot=0.02)
    classifier = SnodeClassifier(field, clip_values=BOX, input_shape=(1, 3, 3))
    attack = evasion.DeepFool(
        classifier, epsilon=0.02, nb_grads=nb_grads, batch_size=25, verbose=False
    )
    theirs = attack.generate(x.reshape(-1, 1, 3, 3))
    assert fools(field, theirs, y).mean() >= 0.9
    assert ours.success.mean() >= 0.9
    both = fools(field, theirs, y) & ours.success
    ratio = np.linalg.norm(theirs.reshape(25, 9) - x, axis=1)[both] / ours.norm2[both]
    # the overshoot of 2 % is put on every step here, on their sum there; at the edge of the box the
    # next step may aim at another class
    assert abs(np.median(ratio) - 1) < 0.02
    assert (abs(ratio - 1) < 0.1).mean() > 0.8


def test_carlini_wagner_comes_near_the_known_distance():
    field, x, y, distance = linear_case()
    classifier = SnodeClassifier(field, clip_values=(-3.0, 4.0))
    attack = evasion.CarliniL2Method(
        classifier, max_iter=20, binary_search_steps=8, initial_const=1.0, learning_rate=0.05,
        batch_size=20, verbose=False,
    )  # fmt: skip
    found = attack.generate(x, y)
    assert fools(field, found, y).all()
    size = np.linalg.norm(found - x, axis=1)
    assert (size >= distance * (1 - 1e-5)).all()  # nothing nearer fools
    assert np.median(size / distance) < 1.1


ATTACKS = {
    "random starts": lambda c: evasion.ProjectedGradientDescent(
        c, eps=0.2, eps_step=0.05, max_iter=5, num_random_init=2, verbose=False
    ),
    "smallest fgsm": lambda c: evasion.FastGradientMethod(c, eps=1.0, eps_step=0.1, minimal=True),
    "momentum": lambda c: evasion.MomentumIterativeMethod(
        c, eps=0.2, eps_step=0.05, max_iter=5, verbose=False
    ),
    "auto-pgd": lambda c: evasion.AutoProjectedGradientDescent(
        c, eps=0.2, eps_step=0.05, max_iter=5, nb_random_init=1, verbose=False
    ),
    "elastic net": lambda c: evasion.ElasticNet(
        c, max_iter=10, binary_search_steps=3, initial_const=10.0, batch_size=25, verbose=False
    ),
    "hop-skip-jump": lambda c: evasion.HopSkipJump(
        c, max_iter=2, max_eval=60, init_eval=10, verbose=False
    ),
    "square": lambda c: evasion.SquareAttack(c, eps=0.3, max_iter=20, verbose=False),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_arts_attacks_run_on_images(name):
    np.random.seed(0)  # noqa: NPY002  (what ART draws from)
    field = with_readout(n=64)
    x, y = attacked(field)
    classifier = SnodeClassifier(field, clip_values=BOX, input_shape=(1, 8, 8))
    found = ATTACKS[name](classifier).generate(x.reshape(-1, 1, 8, 8), y)
    assert found.shape == (25, 1, 8, 8)
    assert found.min() >= 0
    assert found.max() <= 1
    fooled = fools(field, found, y)
    assert np.array_equal(fooled, classifier.predict(found).argmax(axis=1) != y)
    assert fooled.mean() > 0.5


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 1}, "n_classes must be at least 2; got 1"),
        ({"n_classes": 10}, "n_classes must be in 1..9"),
        ({}, "n_classes must be in 1..9; got 10"),  # without a read-out the default is 10
        ({"n_classes": 3, "input_shape": (3, 4)}, "input_shape must have 9 entries"),
        ({"n_classes": 3, "input_shape": (-3, -3)}, "input_shape must have 9 entries"),
        ({"n_classes": 3, "input_shape": 9}, "input_shape must be a tuple"),
        ({"n_classes": 3, "clip_values": (1, 0)}, "clip_values must be .* low < high"),
        ({"n_classes": 3, "clip_values": (0, np.nan)}, "clip_values must be .* low < high"),
        ({"n_classes": 3, "clip_values": 1}, r"clip_values must be \(low, high\); got 1"),
        ({"n_classes": 3, "clip_values": "ab"}, "clip_values must be"),
        ({"n_classes": 3, "block": 0}, "block must be a positive integer"),
        ({"n_classes": 3, "solver": "euler2"}, "method must be one of"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SnodeClassifier(layered(9), **options)


def test_not_a_field():
    with pytest.raises(
        TypeError, match="field must follow the vector-field contract; got function"
    ):
        SnodeClassifier(lambda t, x: -x, n_classes=3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(9), r"x must have shape \(m, ...\) with 9 entries a sample; got \(9,\)"),
        (np.ones((9, 5)), r"with 9 entries a sample; got \(9, 5\)"),
        (np.ones((0, 9)), r"got \(0, 9\)"),
        (np.full((1, 3, 3), np.nan), "x must be finite; component 0 of sample 0 is nan"),
        (np.full((2, 9), "a"), "x must be real numbers"),
        (np.full((2, 9), 1j), "x must be real numbers"),
    ],
)
def test_wrong_samples(x, message):
    classifier = SnodeClassifier(layered(9), n_classes=3)
    y = np.zeros(len(x), int)
    for call in (
        classifier.predict,
        classifier.class_gradient,
        lambda x: classifier.loss_gradient(x, y),
        lambda x: classifier.compute_loss(x, y),
    ):
        with pytest.raises(ValueError, match=message):
            call(x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1, 3]), r"y must hold labels 0..2; got labels 0..3"),
        (np.array([0, 1]), r"y must be integer labels of shape \(3,\)"),
        (np.array([0.0, 1.0, 2.0]), "y must be integer labels"),
        (np.eye(4)[:3], r"weights of the classes \(3, 3\); got float64 \(3, 4\)"),
        (-np.eye(3), "y must be finite and >= 0"),
        (np.full((3, 3), np.nan), "y must be finite and >= 0"),
        (None, "y must be labels"),
    ],
)
def test_wrong_labels(y, message):
    classifier, x = SnodeClassifier(layered(9), n_classes=3), samples(9, m=3)
    with pytest.raises(ValueError, match=message):
        classifier.loss_gradient(x, y)
    with pytest.raises(ValueError, match=message):
        classifier.compute_loss(x, y)


@pytest.mark.parametrize("label", [3, -1, [0, 1], [0, 1, 3], 1.0, [0.0, 1.0, 2.0]])
def test_wrong_class_gradients(label):
    classifier, x = SnodeClassifier(layered(9), n_classes=3), samples(9, m=3)
    with pytest.raises(ValueError, match="label must"):
        classifier.class_gradient(x, label=label)


def test_what_the_wrapper_cannot_do():
    classifier, x = SnodeClassifier(layered(9), n_classes=3), samples(9)
    with pytest.raises(NotImplementedError, match=r"train the field with snode\.train"):
        classifier.fit(x, np.zeros(7, int))
    with pytest.raises(NotImplementedError, match=r"snode\.solve_direct"):
        classifier.get_activations(x, 0, 10)
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum'"):
        classifier.compute_loss(x, np.zeros(7, int), reduction="max")
    with pytest.raises(snode.IntegrationError):
        SnodeClassifier(layered(9, activation="identity", scale=1e80), n_classes=3).predict(x)
