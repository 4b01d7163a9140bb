"""``snode attack`` and ``snode sensitivity``: what perturbations do to a trained network."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import snode
from snode import plotting
from snode.cli.console import app, friendly, new_table, out
from snode.cli.output import result_prefix, write_results
from snode.cli.samples import class_count, first_samples, load_model


def _has_logits(loaded: Any) -> bool:
    """Whether the outputs of a model are logits: a read-out, or trained by cross entropy."""
    options = loaded.manifest.get("options", {})
    ce = options.get("ce", 0) if isinstance(options, dict) else 0
    return hasattr(loaded.field, "readout") or bool(ce)


@app.command()
@friendly
def attack(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    method: Annotated[str, typer.Option(help="sensitivity, deepfool, pgd, fgsm, cw.")] = "sensitivity",
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    eps: Annotated[float, typer.Option(help="Largest change of a component, for pgd and fgsm.")] = 0.1,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides random starts.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
) -> None:  # fmt: skip
    """Look for small perturbations that change the predictions: table, figure, npz."""
    attacks: dict[str, Callable[..., Any]] = {
        "sensitivity": functools.partial(snode.sensitivity_attack, rng=seed),
        "deepfool": snode.deepfool,
        "pgd": functools.partial(snode.pgd, eps=eps, rng=seed),
        "fgsm": functools.partial(snode.fgsm, eps=eps),
        "cw": snode.carlini_wagner,
    }
    if method not in attacks:
        raise ValueError(f"method must be one of {', '.join(attacks)}; got {method!r}")
    loaded, dataset = load_model(model, data)
    x, y = first_samples(dataset, n)
    if method == "sensitivity" and _has_logits(loaded):
        # a margin that multiplies makes no sense for outputs of any sign
        attacks[method] = functools.partial(attacks[method], margin_kind="additive", margin=0.025)
    is_encoded = dataset.image_shape is not None and loaded.encoding is not None
    box = (min(loaded.encoding), max(loaded.encoding)) if is_encoded else None
    started = time.perf_counter()
    result = attacks[method](
        loaded.field, x, y, box=box, n_classes=class_count(loaded.field, dataset)
    )
    attacked = int((~result.skipped).sum())
    fooled = result.success & ~result.skipped
    table = new_table(f"{method} attack on {model}, {len(y)} samples of {dataset.name}")
    table.add_row("misclassified to begin with", str(int(result.skipped.sum())))
    table.add_row("attacked", str(attacked))
    table.add_row("fooled", f"{int(fooled.sum())} ({100 * fooled.sum() / max(attacked, 1):.1f} %)")
    if fooled.any():
        for name, sizes in (("2", result.norm2), ("inf", result.norminf)):
            table.add_row(f"|delta|_{name} of the fooled, mean", f"{sizes[fooled].mean():.4g}")
            table.add_row(f"|delta|_{name} of the fooled, max", f"{sizes[fooled].max():.4g}")
    table.add_row("time", f"{time.perf_counter() - started:.1f} s")
    out.print(table)
    names = ("x_adv", "delta", "norm2", "norminf", "success", "label", "target", "y", "skipped")
    write_results(
        result_prefix(model, prefix, f"attack_{method}"),
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_success, result),
    )


@app.command()
@friendly
def sensitivity(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    noise: Annotated[float, typer.Option(help="Standard deviation of the perturbation of the inputs.")] = 0.01,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the perturbation.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
) -> None:  # fmt: skip
    """Follow a random perturbation of the inputs through the network: table, figure, npz."""
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise must be positive and finite; got {noise!r}")
    loaded, dataset = load_model(model, data)
    x, _ = first_samples(dataset, n)
    draw = np.random.default_rng(seed).standard_normal(x.shape) * noise
    result = snode.propagate(loaded.field, x, draw.astype(x.dtype))
    mean, std = result.mean, result.std
    table = new_table(f"{model}: noise of standard deviation {noise:g} on {x.shape[1]} samples")
    for label, name in (("predicted |xi(T)|", "predicted"), ("measured |delta(T)|", "measured"),
                        ("relative error at T", "relative_error")):  # fmt: skip
        table.add_row(label, f"{getattr(mean, name)[-1]:.4g} +- {getattr(std, name)[-1]:.2g}")
    table.add_row("growth |delta(T)| / |delta(0)|", f"{mean.measured[-1] / mean.measured[0]:.4g}")
    out.print(table)
    names = ("t", "predicted", "measured", "relative_error", "relative_vector_error")
    write_results(
        result_prefix(model, prefix, "sensitivity"),
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_propagation, result),
    )
