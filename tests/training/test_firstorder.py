"""First-order rules against the formulas of PyTorch, written out; and against PyTorch itself."""

import numpy as np
import pytest

import snode
from snode import FIRST_ORDER, Cost
from snode.training.firstorder import FirstOrderOptimizer

EPS = np.finfo(np.float64).eps
N_STEPS = 7


def gradients(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [
        {
            "W": rng.standard_normal((3, 2, 2)).astype(dtype),
            "b": rng.standard_normal(3).astype(dtype),
        }
        for _ in range(N_STEPS)
    ]


def torch_path(method, grads, lr):
    """PyTorch's documented algorithms with their default constants, one array at a time."""
    theta, first, second = (np.zeros_like(grads[0]) for _ in range(3))
    for t, g in enumerate(grads, start=1):
        if method == "sgd":
            theta = theta - lr * g
        elif method == "momentum":  # torch.optim.SGD(momentum=0.9)
            first = g if t == 1 else 0.9 * first + g
            theta = theta - lr * first
        elif method == "rmsprop":  # alpha = 0.99, eps = 1e-8
            second = 0.99 * second + (1 - 0.99) * g**2
            theta = theta - lr * g / (np.sqrt(second) + 1e-8)
        elif method == "adam":  # betas = (0.9, 0.999), eps = 1e-8
            first = 0.9 * first + (1 - 0.9) * g
            second = 0.999 * second + (1 - 0.999) * g**2
            mean, square = first / (1 - 0.9**t), second / (1 - 0.999**t)
            theta = theta - lr * mean / (np.sqrt(square) + 1e-8)
    return theta


def run(method, grads, lr, dtype=np.float64):
    theta = {k: np.zeros(v.shape, dtype) for k, v in grads[0].items()}
    optimizer = FirstOrderOptimizer(method, lr, theta)
    for g in grads:
        steps = optimizer.steps(g)
        theta = {k: theta[k] + steps[k] for k in theta}
    return theta, optimizer


def test_the_table():
    assert set(FIRST_ORDER) == {"sgd", "momentum", "rmsprop", "adam"}
    assert all(rule.learning_rate > 0 for rule in FIRST_ORDER.values())


@pytest.mark.parametrize("lr", [None, 0.03])
@pytest.mark.parametrize("method", FIRST_ORDER)
def test_formulas(method, lr):
    grads = gradients()
    theta, optimizer = run(method, grads, lr)
    rate = FIRST_ORDER[method].learning_rate if lr is None else lr
    for k in theta:
        expected = torch_path(method, [g[k] for g in grads], rate)
        assert theta[k] == pytest.approx(expected, rel=1e-12)
    assert optimizer.count == N_STEPS


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_float32_stays(method):
    theta, optimizer = run(method, gradients(np.float32), None, np.float32)
    exact, _ = run(method, gradients(), None)
    for k in theta:
        assert theta[k].dtype == np.float32
        assert all(slot.dtype == np.float32 for slot in optimizer.state[k].values())
        assert theta[k] == pytest.approx(exact[k], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_gradients_are_not_changed(method):
    grads = gradients()
    copies = [{k: v.copy() for k, v in g.items()} for g in grads]
    run(method, grads, None)
    for g, copy in zip(grads, copies, strict=True):
        assert all(np.array_equal(g[k], copy[k]) for k in g)


@pytest.mark.parametrize("method", ["rmsprop", "adam"])
def test_zero_gradients_do_not_divide_by_zero(method):
    zero = {"W": np.zeros((2, 2))}
    theta, _ = run(method, [zero] * 3, None)
    assert not theta["W"].any()


@pytest.mark.slow
@pytest.mark.parametrize("method", FIRST_ORDER)
def test_a_resnet_trained_in_pytorch_sees_the_same_numbers(make_field, method):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    field = make_field(3, 5)
    x, y, lr = rng.uniform(-1, 1, (3, 8)), np.arange(8) % 3, 0.05
    result = snode.train(
        field, (x, y), Cost(n_classes=3), method=method, learning_rate=lr, n_iter=6, epochs=1
    )

    W = torch.tensor(np.array(field.W), requires_grad=True)
    b = torch.tensor(np.array(field.b), requires_grad=True)
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=lr),
        "momentum": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=lr),
        "adam": lambda p: torch.optim.Adam(p, lr=lr),
    }
    optimizer = make[method]([W, b])
    target = torch.tensor(np.eye(3)[y].T)
    for _ in range(6):
        optimizer.zero_grad()
        state = torch.tensor(x)
        for k in range(5):
            state = state + field.T / 5 * torch.tanh(W[k] @ state + b[k][:, None])
        (0.5 * ((state - target) ** 2).sum() / 8).backward()
        optimizer.step()
    # rmsprop and adam divide by the root of tiny squares: rounding is amplified
    for ours, theirs in zip(result.field.parameters.values(), (W, b), strict=True):
        assert ours == pytest.approx(theirs.detach().numpy(), abs=1e-9)
