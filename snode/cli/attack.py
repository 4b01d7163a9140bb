"""``snode attack`` and ``snode sensitivity``: what perturbations do to a trained network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import snode
from snode import plotting
from snode.backend import to_host
from snode.cli.console import app, err, friendly, new_table, out, print_json, seconds
from snode.cli.options import check_seed
from snode.cli.output import result_prefix, stoppable, write_results
from snode.cli.samples import (
    class_count,
    first_samples,
    input_unit,
    load_model,
    need_classes,
    shown_path,
)
from snode.progress import bar, tell
from snode.results import Status


def has_logits(loaded: Any, *, read_out_alone: bool = True) -> bool:
    """Whether the outputs of a model are logits: trained by cross entropy, or a read-out."""
    options = loaded.manifest.get("options", {})
    ce = options.get("ce", 0) if isinstance(options, dict) else 0
    return bool(ce) or (read_out_alone and hasattr(loaded.field, "readout"))


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Look for small perturbations that change the predictions: table, figure, npz."""
    check_seed(seed)
    attacks: dict[str, Callable[..., Any]] = {
        "sensitivity": functools.partial(snode.sensitivity_attack, rng=seed),
        "deepfool": snode.deepfool,
        "pgd": functools.partial(snode.pgd, eps=eps, rng=seed),
        "fgsm": functools.partial(snode.fgsm, eps=eps),
        "cw": snode.carlini_wagner,
    }
    if method not in attacks:
        raise ValueError(f"method must be one of {', '.join(attacks)}; got {method!r}")
    prefix = result_prefix(model, prefix, f"attack_{method}")
    loaded, dataset = load_model(model, data)
    need_classes(dataset, "an attack")
    x, y = first_samples(dataset, n)
    if method == "sensitivity" and has_logits(loaded):
        # a margin that multiplies makes no sense for outputs of any sign
        attacks[method] = functools.partial(attacks[method], margin_kind="additive", margin=0.025)
    box = _box(loaded, dataset)
    with stoppable("", as_json) as callback:
        result = attacks[method](
            loaded.field, x, y, box=box, n_classes=class_count(loaded.field, dataset),
            callback=callback,
        )  # fmt: skip
    numbers = _attack_numbers(result) | {"seconds": round(seconds(), 3)}
    if as_json:
        print_json({"method": method} | numbers)
    else:
        title = f"{method} attack on {shown_path(model)}, {len(y)} samples of {dataset.name}"
        _show_attack(title, numbers)
        _say(_attack_sentence(method, result, dataset, eps))
    names = ("x_adv", "delta", "norm2", "norminf", "success", "label", "target", "y", "skipped")
    write_results(
        prefix,
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_success, result),
        *_adversarial_images(result, x, dataset),
        quiet=as_json,
    )


def _box(model: Any, dataset: Any) -> tuple[float, float] | None:
    """Return the range of the inputs, if they are pixels."""
    if dataset.image_shape is None or model.encoding is None:
        return None
    box = min(model.encoding), max(model.encoding)
    if model.standardisation is None:
        return box
    mean, scale = (to_host(v) for v in model.standardisation)
    if (mean != mean[0]).any() or (scale != scale[0]).any():
        return None  # another range for each pixel
    return float((box[0] - mean[0]) / scale[0]), float((box[1] - mean[0]) / scale[0])


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _attack_sentence(method: str, result: Any, dataset: Any, eps: float) -> str:
    """Return what the attack says about the network, in one sentence."""
    attacked, count = ~result.skipped, len(result.skipped)
    fooled = result.success & attacked
    size = f"changes of at most {eps:g} in each feature" if method in ("pgd", "fgsm") else "changes"
    if not attacked.any():
        return f"No sample was attacked: all {count} are misclassified, or were not reached."
    if not fooled.any():
        return (
            f"None of the {attacked.sum()} samples that are classified correctly was fooled by "
            f"{size}; that is no proof that none can be (see certify)."
        )
    left = 100 * (attacked.sum() - fooled.sum()) / count
    median = float(np.median(result.norm2[fooled]))
    return (
        f"{fooled.sum()} of {attacked.sum()} correctly classified samples were fooled by {size}, "
        f"half of them by a change of size {median:.3g} or less (2-norm, {input_unit(dataset)}); "
        f"under this attack the accuracy is {left:.1f} % instead of "
        f"{100 * attacked.sum() / count:.1f} %."
    )


def _adversarial_images(result: Any, x: Any, dataset: Any) -> list[Callable[[Any], Any]]:
    """Return how to draw the first samples that were fooled, if the data are images."""
    if dataset.image_shape is None or not (result.success & ~result.skipped).any():
        return []
    return [functools.partial(plotting.plot_adversarial, result, x, dataset)]


def _attack_numbers(result: Any) -> dict[str, Any]:
    fooled = result.success & ~result.skipped
    numbers: dict[str, Any] = {
        "samples": len(result.y),
        "stopped": result.status is Status.STOPPED,
        "misclassified": int((result.skipped & result.success).sum()),
        "not_reached": int((result.skipped & ~result.success).sum()),
        "attacked": int((~result.skipped).sum()),
        "fooled": int(fooled.sum()),
    }
    for name, sizes in (("norm2", result.norm2), ("norminf", result.norminf)):
        numbers[name] = None
        if fooled.any():
            numbers[name] = {"mean": sizes[fooled].mean(), "max": sizes[fooled].max()}
    return numbers


def _show_attack(title: str, numbers: dict[str, Any]) -> None:
    table = new_table(title)
    table.add_row("misclassified to begin with", str(numbers["misclassified"]))
    if numbers["stopped"]:
        table.add_row("not reached: stopped", str(numbers["not_reached"]))
    attacked, fooled = numbers["attacked"], numbers["fooled"]
    table.add_row("attacked", str(attacked))
    table.add_row("fooled", f"{fooled} ({100 * fooled / max(attacked, 1):.1f} %)")
    for name, label in (("norm2", "2"), ("norminf", "inf")):
        for which, size in (numbers[name] or {}).items():
            table.add_row(f"|delta|_{label} of the fooled, {which}", f"{size:.4g}")
    table.add_row("run time", f"{numbers['seconds']:.1f} s")
    out.print(table)


@app.command()
@friendly
def sensitivity(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    noise: Annotated[float, typer.Option(help="Standard deviation of the perturbation of the inputs (standardised ones, if the model standardises).")] = 0.01,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the perturbation.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Follow a random perturbation of the inputs through the network: table, figure, npz."""
    check_seed(seed)
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise must be positive and finite; got {noise!r}")
    prefix = result_prefix(model, prefix, "sensitivity")
    loaded, dataset = load_model(model, data)
    x, _ = first_samples(dataset, n)
    draw = np.random.default_rng(seed).standard_normal(x.shape) * noise
    with bar(console=err, quiet=as_json) as callback:
        tell(callback, 0, None, f"following {x.shape[1]} samples")
        result = snode.propagate(loaded.field, x, draw.astype(x.dtype))
    mean, std = result.mean, result.std
    numbers: dict[str, Any] = {"samples": x.shape[1], "noise": noise}
    for name in ("predicted", "measured", "relative_error"):
        numbers[name] = {"mean": getattr(mean, name)[-1], "std": getattr(std, name)[-1]}
    numbers["growth"] = mean.measured[-1] / mean.measured[0]
    numbers["seconds"] = round(seconds(), 3)
    if as_json:
        print_json(numbers)
    else:
        _show_propagation(
            f"{shown_path(model)}: noise of standard deviation {noise:g} ({input_unit(dataset)}) "
            f"on {x.shape[1]} samples",
            numbers,
        )
    names = ("t", "predicted", "measured", "relative_error", "relative_vector_error")
    write_results(
        prefix,
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_propagation, result),
        quiet=as_json,
    )


def _show_propagation(title: str, numbers: dict[str, Any]) -> None:
    table = new_table(title)
    for label, name in (("predicted |xi(T)|", "predicted"), ("measured |delta(T)|", "measured"),
                        ("relative error at T", "relative_error")):  # fmt: skip
        table.add_row(label, f"{numbers[name]['mean']:.4g} +- {numbers[name]['std']:.2g}")
    table.add_row("growth |delta(T)| / |delta(0)|", f"{numbers['growth']:.4g}")
    out.print(table)
