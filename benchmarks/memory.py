"""Full batch: peak memory and time of `snode.ncg` on 60,000 samples, and a training run on them.

Three measurements, random data and weights, n = 196, K = 150, float32:

- memory: the peak of the resident set during a call, above what was resident just before it with
  data and start loaded and the kernels compiled, in a fresh process; for all samples, and for a
  batch whose whole trajectory is stored. And what tracemalloc counts, at a smaller batch.
- time: per sample and iteration, all samples against the stored batch, iterations of both in turns;
- equality: the result with samples in blocks against that without, at a batch that fits.

With --train N, instead: N iterations of NCG on the 60,000 images of MNIST, all in every iteration,
with the test accuracy every few iterations. The model and a JSON file are written after each
iteration, a figure at the end. Started again with the same options it goes on from the last model,
the first direction then being that of steepest descent; the JSON says where.

Run: python benchmarks/memory.py
     python benchmarks/memory.py --train 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import make_parser, parse, print_machine, print_table, report
from ncg_iteration import DEPTH, N_STATE, T, peak_memory, snode_iterations

import snode
from snode.runs import environment, now, write_json

RESET = Path("/proc/self/clear_refs")
IN_BETWEEN = 3
"""Iterations of the stored batch after each one of all samples."""


class Samples:
    """m random samples and a random start: what `snode.ncg` needs, nothing more."""

    def __init__(self, m: int, n: int, K: int, dtype: str = "float32") -> None:
        rng = np.random.default_rng(0)
        self.field = snode.StandaloneField.random(n, T, K, activation="tanh", rng=rng, dtype=dtype)
        self.W, self.K = self.field.W, K
        self.x = -rng.random((n, m), dtype=np.dtype(dtype).type)
        self.cost = snode.Cost(n_classes=min(10, n))
        self.labels = rng.integers(0, self.cost.n_classes, m)

    def ncg(self, **options: Any) -> Any:
        return snode.ncg(self.field, self.x, self.labels, self.cost, **options)


# --- memory ---------------------------------------------------------------------------------------


def resident(key: str) -> float:
    """Return VmRSS or VmHWM (the peak) of this process in MB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024e-6 * int(line.split()[1]) for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1e-6 if sys.platform == "darwin" else 1024e-6)


def child(spec: dict[str, Any]) -> None:
    """In a fresh process: load, compile, call; print the numbers as JSON."""
    s = Samples(spec["m"], spec["n"], spec["K"])
    snode.ncg(s.field, s.x[:, :64].copy(), s.labels[:64], s.cost, n_iter=1)
    # Linux: the peak starts again from here, whatever was compiled before
    if RESET.exists():
        RESET.write_text("5")
    before = resident("VmRSS")
    start = time.perf_counter()
    s.ncg(n_iter=spec["n_iter"], threads=spec["threads"], block_size=spec["block_size"])
    seconds = time.perf_counter() - start
    found = {"before_mb": before, "above_mb": resident("VmHWM") - before, "seconds": seconds}
    print(json.dumps(found))


def peak(m: int, block_size: int | None, args: argparse.Namespace) -> dict[str, float]:
    """Return the peak of a call above what was resident before, measured in a fresh process."""
    spec = {
        "m": m, "n": args.width, "K": args.depth, "block_size": block_size,
        "n_iter": args.iterations, "threads": args.threads,
    }  # fmt: skip
    command = [sys.executable, __file__, "--child", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measurement with {m} samples failed: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the peaks of all samples and of the stored batch."""
    found: dict[str, Any] = {
        name: {"samples": m, **peak(m, block_size, args)}
        for name, m, block_size in (
            ("stored", args.stored, args.stored), ("all", args.samples, args.block_size),
        )
    }  # fmt: skip
    print_table(
        ["peak above what was resident before", "samples", "MB", "before, MB", "trajectory, MB"],
        [
            [
                name, str(row["samples"]), f"{row['above_mb']:.0f}", f"{row['before_mb']:.0f}",
                f"{1e-6 * (2 * args.depth + 1) * args.width * 4 * row['samples']:.0f}",
            ]
            for name, row in found.items()
        ],
    )  # fmt: skip
    return found


def measure_allocations(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return what tracemalloc counts for a smaller batch, in blocks and not."""
    m = min(2 * args.stored, args.samples)
    sizes = {"stored": m, "blocks": max(1, m // 8)}
    s = Samples(m, args.width, args.depth)
    found: dict[str, Any] = {"samples": m}
    for name, size in sizes.items():
        found[name] = peak_memory(s, "l2", threads=args.threads, block_size=size)["peak"]
        what = "all stored" if name == "stored" else f"blocks of {size}"
        print(f"  tracemalloc, {m} samples, {what}: {found[name]:.0f} MB above the inputs")
    return found


# --- time and equality ----------------------------------------------------------------------------


def measure_time(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return microseconds per sample and iteration, both measured in turns."""
    whole = Samples(args.samples, args.width, args.depth)
    part = Samples(args.stored, args.width, args.depth)
    stream = snode_iterations(part, "l2", args.threads, block_size=args.stored)
    times: dict[str, list[float]] = {"all": [], "stored": []}
    start = 0.0

    def callback(_: Any) -> None:
        nonlocal start
        if start:  # the first iteration warms up
            times["all"].append(time.perf_counter() - start)
        next(stream)
        times["stored"] += [next(stream) for _ in range(IN_BETWEEN)]
        start = time.perf_counter()

    whole.ncg(
        n_iter=args.repeats + 1, threads=args.threads, callback=callback, block_size=args.block_size
    )
    each = {
        "all": 1e6 * float(np.median(times["all"])) / args.samples,
        "stored": 1e6 * float(np.median(times["stored"])) / args.stored,
    }
    ratio = each["all"] / each["stored"]
    print(f"  microseconds per sample and iteration: {args.samples} samples {each['all']:.1f}, "
          f"{args.stored} stored {each['stored']:.1f}, ratio {ratio:.3f}")  # fmt: skip
    return {"us_per_sample_and_iteration": each, "ratio": ratio}


def measure_equality(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return how much the results with and without blocks differ."""
    size = max(1, args.stored // 7)
    found: dict[str, Any] = {"samples": args.stored, "block_size": size, "n_iter": 3}
    for dtype in ("float32", "float64"):
        s = Samples(args.stored, args.width, args.depth, dtype)
        whole, blocked = (
            s.ncg(n_iter=3, threads=args.threads, block_size=b) for b in (args.stored, size)
        )
        moved = np.abs(whole.field.W - s.field.W).max()
        found[dtype] = {
            "W": float(np.abs(blocked.field.W - whole.field.W).max() / moved),
            "cost": abs(blocked.fun - whole.fun) / whole.fun,
        }
        print(f"  {args.stored} samples in blocks of {size}, {dtype}, 3 iterations: largest "
              f"difference of W {found[dtype]['W']:.1e} of the largest change, of the cost "
              f"{found[dtype]['cost']:.1e}")  # fmt: skip
    return found


# --- a training run -------------------------------------------------------------------------------

FIXED = ("images", "depth", "activation", "inner", "seed")
"""Options that a run that goes on must have again."""


class Curve:
    """The rows of a run, one an iteration, and the files it is written to."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.json, self.model, self.figure = (
            folder / name for name in ("curve.json", "model.safetensors", "curve.png")
        )
        self.content: dict[str, Any] = {
            "environment": environment(), "options": options, "restarts": [], "rows": [],
        }  # fmt: skip

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows

    def go_on(self) -> Any:
        """Take up what an earlier run wrote and return its field; None if there is none."""
        if not (self.model.exists() and self.json.exists()):
            return None
        old = json.loads(self.json.read_text(encoding="utf-8"))
        mine = self.content["options"]
        for name in FIXED:
            if old["options"][name] != mine[name]:
                raise SystemExit(
                    f"{self.json} is a run with --{name} {old['options'][name]}, not {mine[name]}; "
                    "take another --out"
                )
        model = snode.load(self.model)
        done = model.manifest["iteration"]
        self.content = old | {"options": mine}
        self.content["rows"] = [row for row in old["rows"] if row["iteration"] <= done]
        if done:
            self.content["restarts"].append(done)
        return model.field

    def add(self, row: dict[str, Any], field: Any) -> None:
        """Add a row and write; the model, which is written first, says which row it belongs to."""
        self.rows.append(row)
        snode.save(self.model, field, manifest={"iteration": row["iteration"]})
        write_json(self.json, self.content | {"date": now()})

    def draw(self) -> None:
        """Draw cost and test accuracy against iterations."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        iterations = [row["iteration"] for row in self.rows]
        (cost,) = axes.semilogy(iterations, [row["cost"] for row in self.rows], "C0")
        axes.set(xlabel="iterations of NCG, all images in each", ylabel="cost")
        tested = [row for row in self.rows if row["test_accuracy"] is not None]
        percent = [100 * row["test_accuracy"] for row in tested]
        right = axes.twinx()
        (accuracy,) = right.plot([row["iteration"] for row in tested], percent, "C1o--")
        right.set(ylabel="test accuracy, %", ylim=(0, 100))
        axes.legend([cost, accuracy], ["cost (left)", "test accuracy (right)"], loc="center right")
        figure.savefig(self.figure, dpi=150)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Run NCG on all images; return the last row."""
    data = snode.datasets.load_mnist()
    x, y = np.ascontiguousarray(data.x_train[:, : args.images]), data.y_train[: args.images]
    options = {name: getattr(args, name) for name in (*FIXED, "block_size", "threads")}
    curve = Curve(args.out, options)
    field = curve.go_on()
    if field is None:
        field = snode.StandaloneField.random(
            len(x), T, args.depth, activation=args.activation, rng=args.seed, dtype="float32"
        )

    def accuracy(field: Any) -> float:
        return float(snode.accuracy(field, data.x_test, data.y_test))

    if not curve.rows:
        x_T = snode.solve_direct(field, x, keep="last").x_T
        row = {"iteration": 0, "seconds": 0.0, "cost": snode.Cost().value(field, x_T, y)}
        curve.add({**row, "step": None, "test_accuracy": accuracy(field)}, field)
    done, spent = curve.rows[-1]["iteration"], curve.rows[-1]["seconds"]
    if done >= args.train:
        curve.draw()
        print(f"{curve.json} has {done} iterations already")
        return curve.rows[-1]
    print(f"{x.shape[1]} images, {field!r}; from iteration {done} to {args.train}")
    snode.ncg(field, np.ascontiguousarray(x[:, :64]), y[:64], n_iter=1)  # compile first
    start = time.perf_counter()

    def callback(state: Any) -> None:
        nonlocal spent, start
        spent += time.perf_counter() - start
        iteration = done + state.nit
        tested = iteration % args.every == 0 or iteration == args.train
        row = {"iteration": iteration, "seconds": spent, "cost": state.cost, "step": state.step}
        row["test_accuracy"] = accuracy(state.field) if tested else None
        curve.add(row, state.field)
        shown = f", test accuracy {100 * row['test_accuracy']:.2f} %" if tested else ""
        print(f"  {iteration:4d} {spent:8.1f} s   cost {state.cost:.5f}{shown}", flush=True)
        start = time.perf_counter()

    result = snode.ncg(
        field, x, y, snode.Cost(), inner=args.inner, n_iter=args.train - done, threads=args.threads,
        callback=callback, block_size=args.block_size,
    )  # fmt: skip
    curve.content["message"] = result.message
    write_json(curve.json, curve.content | {"date": now()})
    curve.draw()
    print(f"{result.message}; {curve.json}, {curve.figure}")
    return curve.rows[-1]


# --- command line ---------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "memory": measure_memory,
    "allocations": measure_allocations,
    "time": measure_time,
    "equality": measure_equality,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 3)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--stored", type=int, default=2000, help="samples of the stored batch")
    parser.add_argument("--width", type=int, default=N_STATE)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--block-size", type=int, help="of all samples; default that of snode.ncg")
    parser.add_argument("--iterations", type=int, default=2, help="of the runs for memory")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--train", type=int, metavar="N", help="only a training run of N iterations"
    )
    parser.add_argument("--images", type=int, default=60_000, help="of the training run")
    parser.add_argument("--activation", default="relu", help="of the training run")
    parser.add_argument("--inner", default="l2", choices=("l2", "h1"), help="of the training run")
    parser.add_argument("--seed", type=int, default=1, help="of the training run")
    parser.add_argument("--every", type=int, default=5, help="iterations between two tests")
    parser.add_argument("--out", type=Path, default=Path("runs/full_batch"), help="its folder")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parse(
        parser, argv, samples=200, stored=100, width=4, depth=5, iterations=1, repeats=1, images=100
    )
    if args.child:
        return child(args.child)
    print_machine(())
    if args.train:
        report(args, {"train": train(args)})
        return None
    print(f"n = {args.width}, K = {args.depth}, float32; {args.samples} samples in blocks, "
          f"{args.stored} with the whole trajectory stored")  # fmt: skip
    report(args, {name: part(args) for name, part in PARTS.items()})
    return None


if __name__ == "__main__":
    main()
