"""``snode certify``: what no perturbation can do to a trained network."""

from __future__ import annotations

import decimal
import functools
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

import snode
from snode import plotting
from snode.backend import to_host
from snode.cli.console import app, friendly, new_table, out, print_json, seconds
from snode.cli.options import check_seed, read_numbers
from snode.cli.output import result_prefix, stoppable, write_results
from snode.cli.samples import (
    class_count,
    first_samples,
    input_unit,
    load_model,
    need_classes,
    shown_path,
)
from snode.fields.layer import StandaloneField
from snode.progress import Callback, tell
from snode.results import Status

KINDS = {"euler": "euler", "ode45": "flow"}
KIND_NAMES = {"flow": "flow", "euler": "explicit Euler"}
BOUNDS = ("certificate", "norms")
VERDICTS = {
    "EVERY": "any",
    "NONE": "none: the log norm of A is positive",
    "UNDECIDED": "undecided: the log norm of A is 0 to rounding",
}


@app.command()
@friendly
def certify(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    solver: Annotated[str, typer.Option(help="Whose predictions: euler, as the network computes, or ode45, the exact flow.")] = "euler",
    method: Annotated[str, typer.Option(help="certificate, or norms: much faster, in general much coarser.")] = "certificate",
    radii: Annotated[str, typer.Option(help="Sizes |delta|_2 at which to print the certified accuracy, e.g. 0.01,0.1; default: five below the largest radius.")] = "",
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the local search, which says how tight a bound is.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Bound what any perturbation can do: growth, contractivity, certified radii."""
    check_seed(seed)
    for name, value, known in (("solver", solver, KINDS), ("method", method, BOUNDS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    sizes = read_numbers("radii", radii)
    if not all(math.isfinite(size) and size >= 0 for size in sizes):
        raise ValueError(f"radii must be finite and >= 0; got {radii!r}")
    target = result_prefix(model, prefix, "certify")
    loaded, dataset = load_model(model, data)
    need_classes(dataset, "a certificate")
    x, y = first_samples(dataset, n)
    field = loaded.field
    layers = _bounded_layers(field)
    growth = {}
    with stoppable("certify", as_json) as callback:
        for kind in KIND_NAMES:
            growth[kind] = snode.growth_bound(
                field, kind=kind, method=method, rng=seed, callback=callback
            )
        layer = None
        if _is_one_matrix(layers) and not tell(
            callback, 0, None, "bounding the layer, the same at every depth"
        ):
            layer = _layer_numbers(layers, seed, callback)
        tell(callback, 0, None, f"predicting {len(y)} samples")
        found = snode.certified_radius(
            field, x, y, n_classes=class_count(field, dataset), solver=_accurate(solver, x.dtype),
            growth=growth[KINDS[solver]],
        )  # fmt: skip
    stopped = any(bound.status is Status.STOPPED for bound in growth.values())
    numbers = {
        "solver": solver,
        "method": method,
        "stopped": stopped,
        "growth": {kind: _growth_numbers(bound) for kind, bound in growth.items()},
        "layer": layer,
        **_radius_numbers(found, sizes),
        "seconds": round(seconds(), 3),
    }
    if as_json:
        print_json(numbers)
    else:
        _show_certificate(f"{shown_path(model)}, {len(y)} samples of {dataset.name}", numbers)
        sentence = _certificate_sentence(numbers, input_unit(dataset))
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)
        if stopped:
            out.print("stopped: the layers that were left are bounded by norms; all bounds hold")
    write_results(
        target,
        _certificate_arrays(found, growth),
        functools.partial(plotting.plot_growth, [growth["flow"], growth["euler"]]),
        functools.partial(plotting.plot_certified, found),
        quiet=as_json,
    )


def _bounded_layers(field: Any) -> Any:
    """Return the layers of a field, whose slopes must be bounded."""
    from snode.analysis.growth_rates import Layers

    layers = Layers.of(field)
    for i, (low, high) in enumerate(layers.slopes):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"the activation of layer {i + 1} has slopes in [{low:g}, {high:g}]: without a "
                "finite interval there is no bound"
            )
    return layers


def _accurate(solver: str, dtype: Any) -> Any:
    if solver == "euler":
        return solver
    rtol = 1e-5 if dtype == np.float32 else 1e-9
    return snode.Solver("ode45", rtol=rtol, atol=0.1 * rtol)


def _growth_numbers(bound: Any) -> dict[str, Any]:
    widths = np.diff(bound.ends)
    numbers = {
        "factor": bound.factor[-1],
        "log_factor": bound.log_factor[-1],
        "rate": [bound.upper.min(), bound.upper.max()],
    }
    if not np.isnan(bound.lower).any():
        numbers |= {
            "log_factor_found": float(widths @ bound.lower),
            "rate_found": [bound.lower.min(), bound.lower.max()],
            "rate_gap": (bound.upper - bound.lower).max(),
        }
    return numbers


def _is_one_matrix(layers: Any) -> bool:
    if not isinstance(layers.field, StandaloneField):
        return len(layers.slopes) == 1
    W = to_host(layers.field.W)
    return bool((W[:1] == W).all())


def _layer_numbers(layers: Any, seed: int, callback: Callback | None) -> dict[str, Any]:
    """Bounds for x' = sigma(Ax + b)."""
    A, slopes = layers.at(float(layers.grid[0]))[0], layers.slopes[0]
    f = snode.max_log_norm(A, slopes, rng=seed, callback=callback)
    interval = snode.contractivity_interval(A, rng=seed, callback=callback)
    numbers: dict[str, Any] = {
        "slopes": slopes,
        "log_norm": {"lower": f.lower, "upper": f.upper, "gap": f.gap},
        "interval": {"status": interval.status.name, "m": interval.m, "lower": interval.lower},
        "shift": None,
    }  # fmt: skip
    if slopes[0] > 0:
        shift = snode.contracting_shift(A, slopes, rng=seed, callback=callback)
        numbers["shift"] = {"tau": shift.tau, "lower": shift.lower}
    return numbers


def _radius_numbers(found: Any, sizes: tuple[float, ...]) -> dict[str, Any]:
    certified = found.radius[found.radius > 0]
    sizes = sizes or _ladder(certified)
    return {
        "samples": len(found.y),
        "correct": int((found.label == found.y).sum()),
        "certified": len(certified),
        "median_radius": np.median(certified) if len(certified) else 0.0,
        "largest_radius": certified.max(initial=0.0),
        "certified_accuracy": {f"{size:.12g}": float(found.accuracy(size)) for size in sizes},
    }


def _certificate_sentence(numbers: dict[str, Any], unit: str) -> str:
    """Return what the certificate says, in one sentence."""
    count, samples = numbers["certified"], numbers["samples"]
    if not count:
        return f"No change, however small, is proved harmless for any of the {samples} samples."
    radius = _outward(numbers["median_radius"], up=False)
    return (
        f"{count} of {samples} samples keep their class, as solved by {numbers['solver']}, whatever "
        f"change is made to them, if it is small enough: for half of these proved up to a size of "
        f"{radius} (2-norm, {unit}). Larger changes may be harmless, too; that is not known."
    )


def _ladder(radii: Any, count: int = 5) -> tuple[float, ...]:
    """Return the largest numbers 1, 2 or 5 times a power of ten below the largest radius."""
    radii = radii[np.isfinite(radii)]
    if not len(radii) or radii.max() < 1e-300:
        return ()
    top = math.floor(math.log10(radii.max()))
    steps = [float(f"{digit}e{k}") for k in range(top - count, top + 1) for digit in (1, 2, 5)]
    return tuple(step for step in steps if step < radii.max())[-count:]


def _certificate_arrays(found: Any, growth: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: getattr(found, name) for name in ("radius", "margin", "label", "y")}
    for kind, bound in growth.items():
        for name in ("t", "log_factor", "ends", "upper", "lower"):
            arrays[f"{kind}_{name}"] = getattr(bound, name)
    return arrays


def _show_certificate(title: str, numbers: dict[str, Any]) -> None:
    table = new_table(title)
    for kind, name in KIND_NAMES.items():
        _growth_rows(table, name, numbers["growth"][kind])
    table.add_section()
    if numbers["layer"] is not None:
        _layer_rows(table, numbers["layer"])
        table.add_section()
    samples, correct = numbers["samples"], numbers["correct"]
    table.add_row(f"correct, {numbers['solver']}", f"{correct} of {samples}")
    table.add_row("certified", f"{numbers['certified']} of {samples}")
    for name in ("median", "largest"):
        table.add_row(f"certified radius, {name}", _outward(numbers[f"{name}_radius"], up=False))
    for size, score in numbers["certified_accuracy"].items():
        table.add_row(f"certified accuracy, |delta|_2 <= {size}", f"{100 * score:.2f} %")
    table.add_row("time", f"{numbers['seconds']:.1f} s")
    out.print(table)


def _growth_rows(table: Table, name: str, numbers: dict[str, Any]) -> None:
    low, high = (_outward(rate, up=True) for rate in numbers["rate"])
    table.add_row(f"growth over the depth, {name}", f"at most {_factor(numbers['log_factor'])}")
    table.add_row("  rate, upper bound", f"{low} .. {high}")
    if "rate_found" in numbers:
        low, high = (_outward(rate, up=False) for rate in numbers["rate_found"])
        gap = _outward(numbers["rate_gap"], up=True, digits=2)
        table.add_row("  rate, slopes found", f"{low} .. {high}, gap {gap}")


def _layer_rows(table: Table, numbers: dict[str, Any]) -> None:
    f, interval, shift = numbers["log_norm"], numbers["interval"], numbers["shift"]
    low, high = numbers["slopes"]
    bounds = f"{_outward(f['lower'], up=False)} .. {_outward(f['upper'], up=True)}"
    gap = _outward(f["gap"], up=True, digits=2)
    table.add_row(escape(f"log norm, slopes in [{low:g}, {high:g}]"), f"{bounds}, gap {gap}")
    if interval["status"] == "FOUND":
        text = _least(interval["m"], interval["lower"])
    else:
        text = VERDICTS[interval["status"]]
    table.add_row(r"contractive for slopes in \[m, 1], m", text)
    if shift is None:
        table.add_row("contractive after a shift by", "none: the smallest slope is not positive")
    else:
        text = _least(shift["tau"], shift["lower"]) if shift["tau"] else "0"
        table.add_row("contractive after a shift by", text)


def _least(value: float, lower: float) -> str:
    return f"{_outward(value, up=True)}, not below {_outward(lower, up=False)}"


def _outward(value: float, *, up: bool, digits: int = 4) -> str:
    """Round a bound to the side on which it holds."""
    side = decimal.ROUND_CEILING if up else decimal.ROUND_FLOOR
    rounded = decimal.Context(prec=digits, rounding=side).create_decimal_from_float(float(value))
    return f"{float(rounded):.{digits}g}"


def _factor(log_factor: float) -> str:
    power = log_factor / math.log(10)
    if abs(power) > 6:
        return f"10^{_outward(power, up=True)}"
    return _outward(math.exp(log_factor), up=True)
