"""Peak memory of NCG above its inputs: 3 arrays of (K, n, m) and 5 of (K, n, n)."""

import threading
import tracemalloc

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import snode


def _problem(K, n, m):
    rng = np.random.default_rng(0)
    field = snode.StandaloneField.random(n, 3.0, K, rng=rng, dtype="float32")
    return field, rng.standard_normal((n, m)).astype("float32"), rng.integers(0, 10, m)


@pytest.mark.parametrize("inner", ["l2", "h1"])
@pytest.mark.parametrize(("m", "rule"), [(40, "FR"), (1000, "FR"), (40, "PR+"), (1000, "PR+")])
def test_peak_memory_of_ncg(inner, m, rule):
    K, n = 150, 64
    field, x, y = _problem(K, n, m)
    snode.ncg(field, x[:, :40], y[:40], inner=inner, rule=rule, n_iter=2)  # compile
    tracemalloc.start()
    try:
        snode.ncg(field, x, y, inner=inner, rule=rule, n_iter=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # PR+ keeps one more gradient, and still fits
    assert peak <= 4 * (3 * K * n * m + 5 * K * n * n)


def test_blas_threads_are_given_back_also_after_concurrent_runs():
    before = [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
    field, x, y = _problem(20, 16, 200)
    runs = [
        threading.Thread(target=snode.ncg, args=(field, x, y), kwargs={"n_iter": 5 + 5 * i})
        for i in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"] == before
