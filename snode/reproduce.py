"""Every figure and table of the papers by name, and one function that makes it again.

The computations are the scripts of ``demos/``, which an installed package carries with it. A script
offers ``run(quick=, rng=)``, ``plot(numbers)`` and, where a paper makes claims,
``claims(numbers)``; ``recorded(numbers)`` says which numbers are worth keeping. One that needs the
trained networks of paper 001 has their selection in ``ZOO`` and gets them as the first argument of
``run``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snode import runs
from snode.progress import Callback, check_callback, tell

__all__ = ["ITEMS", "PAPERS", "Item", "Reproduction", "find", "recorded", "reproduce"]

PAPERS = {
    "001": "Jaroudi et al., Standalone Neural ODEs with Sensitivity Analysis",
    "003": "Guglielmi et al., On the contractivity of neural differential equations",
    "lessons": "numerical analysis: orders, stability, step control, adjoints",
}
"""Papers (and the lessons) in the order of the list."""


@dataclass(frozen=True)
class Item:
    """A figure or table of a paper.

    Attributes
    ----------
    paper, name : str
        As on the command line: ``001``, ``fig05``.
    title : str
        One line.
    script : str
        File of ``demos/``, without suffix.
    quick, full : str
        Time on two cores; where networks of paper 001 are needed, with their training.
    figure : str
        Which figure of the script, if it draws several.
    record : str
        Recorded run in ``demos/results/``, without suffix; "" if there is none.
    """

    paper: str
    name: str
    title: str
    script: str
    quick: str
    full: str
    figure: str = ""
    record: str = ""


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What `reproduce` made.

    Attributes
    ----------
    item : Item
    quick : bool
    seed : int
    seconds : float
        Wall-clock time, training of networks included.
    claims : list of (str, bool, str)
        What the paper says, whether these numbers agree, and the numbers.
    figure, record : Path
        The picture and the numbers.
    """

    item: Item
    quick: bool
    seed: int
    seconds: float
    claims: list[tuple[str, bool, str]]
    figure: Path
    record: Path


def _items() -> Iterator[Item]:
    two_solvers = "snode/fig02_table01_euler_vs_ode45"
    solvers = {"script": two_solvers, "record": two_solvers[6:], "quick": "25 s", "full": "3 h"}
    yield Item("001", "fig02", "training with Euler and with ODE45, accuracies", **solvers)
    yield Item("001", "table01", "trained with one solver, used with the other", **solvers)
    accuracy = "snode/table02_fig03_accuracy_and_noise"
    twenty = {"quick": "90 s", "full": "1.5 h"}
    twelve = {"quick": "90 s", "full": "2.5 h"}
    accuracies = {"script": accuracy, "record": accuracy[6:], **twenty}
    yield Item("001", "table02", "test and training accuracy of the twenty networks", **accuracies)
    yield Item("001", "fig03", "accuracy under Gaussian noise", **accuracies)
    for name, title in (
        ("fig04", "noise through networks trained with squared distance"),
        ("fig07", "noise through networks trained by SGD with cross entropy"),
        ("fig08", "noise through networks trained by NCG with cross entropy"),
        ("fig09", "error of the predicted noise, cross entropy"),
        ("fig10", "error of the predicted noise, squared distance"),
    ):
        yield Item("001", name, title, "snode/fig04_07_08_09_10_propagation", figure=name,
                   record="propagation", **twenty)  # fmt: skip
    attacks = "snode/fig05_fig12_table03_attacks"
    attacked = {"script": attacks, "record": attacks[6:], **twelve}
    yield Item("001", "fig05", "share of fooled images, a part of figure 12", **attacked)
    yield Item("001", "fig06", "weights through depth", "snode/fig06_weights_in_depth",
               record="fig06_weights_in_depth", **twenty)  # fmt: skip
    yield Item("001", "fig11", "digits with noise", "snode/fig11_noise_examples", quick="15 s",
               full="15 min", record="fig11_noise_examples")  # fmt: skip
    yield Item("001", "fig12", "share of fooled images against the perturbation", **attacked)
    yield Item("001", "table03", "who can be fooled, and how large it must be", **attacked)
    images = "snode/fig13_14_15_adversarial_images"
    for name, title, figure in (
        ("fig13", "one image that fools three networks", "fig13_adversarial"),
        ("fig14", "adversarial images of an SGD network", "fig14_adversarial_sgd"),
        ("fig15", "adversarial images of a Sobolev network", "fig15_adversarial_h1"),
    ):
        yield Item("001", name, title, images, "25 s", "20 min", figure, images[6:])
    yield Item("001", "digits", "digits on their way through a network (not in the paper)",
               "snode/digits_through_depth", "15 s", "1 min")  # fmt: skip
    for name, title, quick, full in (
        ("inner_flow", "the gradient system for the slopes, and where it ends", "5 s", "10 s"),
        ("outer_newton", "the smallest slope for which a matrix is contractive", "10 s", "15 s"),
        ("exact_vs_local", "how often local methods miss the maximum", "10 s", "10 min"),
        ("multilayer", "bounds for several layers", "5 s", "10 s"),
        ("time_dependent", "bounds along depth, warm starts, growth", "5 s", "15 s"),
        ("trajectories", "pairs of trajectories under the bound", "10 s", "20 s"),
        ("mnist", "a network for MNIST made contractive", "60 s", "2 h"),
    ):
        yield Item("003", name, title, f"contractivity/{name}", quick, full,
                   record=f"contractivity_{name}")  # fmt: skip
    for name, title in (
        ("order_of_convergence", "how fast the error falls with the step"),
        ("stability_regions", "how long a step may be"),
        ("step_control_van_der_pol", "step control at work"),
        ("adjoint_by_hand_one_neuron", "the three problems by hand"),
        ("dissipative_adjoint", "why the state is not integrated backwards"),
    ):
        yield Item("lessons", name, title, f"lessons/{name}", "5 s", "10 s")


ITEMS = tuple(_items())
"""Every figure and table, in the order of the papers."""


def find(paper: str, name: str) -> Item:
    """Return an item; ``fig5`` is ``fig05``, and ``table2`` is ``table02``.

    Raises
    ------
    ValueError
        If there is none of this name; names those that there are.
    """
    if paper not in PAPERS:
        raise ValueError(f"paper must be one of {', '.join(PAPERS)}; got {paper!r}")
    wanted = _plain_name(name)
    names = []
    for item in ITEMS:
        if item.paper == paper:
            if _plain_name(item.name) == wanted:
                return item
            names.append(item.name)
    raise ValueError(f"item must be one of {', '.join(names)} of {paper}; got {name!r}")


def _plain_name(name: str) -> str:
    name = name.lower().replace("figure", "fig").replace("-", "_").replace(" ", "")
    for kind in ("fig", "table"):
        if name.startswith(kind) and name[len(kind) :].strip("_.").isdigit():
            return f"{kind}{int(name[len(kind) :].strip('_.'))}"
    return name


def demos_folder() -> Path:
    """Return the folder of the scripts: in the installed package, or beside it in the sources.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_demos", package.parent / "demos"):
        if (folder / "snode").is_dir():
            return folder
    raise FileNotFoundError("the demos are not installed with this snode; install it again")


def recorded(item: Item) -> dict[str, Any] | None:
    """Return the recorded run of an item, or None."""
    file = demos_folder() / "results" / f"{item.record}.json"
    if not item.record or not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def reproduce(
    paper: str,
    name: str,
    *,
    quick: bool = True,
    seed: int = 1,
    out: str | Path = "reproduced",
    models: str | Path | None = None,
    callback: Callback | None = None,
) -> Reproduction:
    """Make a figure or table of a paper again.

    Parameters
    ----------
    paper, name : str
        Such as ``"001", "fig05"``; see `ITEMS`.
    quick : bool, optional
        Under two minutes on two cores, too small to judge claims; False is the recorded size.
    seed : int, optional
        Of the networks and of everything random.
    out : path, optional
        Folder; the files are ``<out>/<paper>/<name>.png`` and ``.json``.
    models : path, optional
        Folder of the trained networks of paper 001, default ``<out>/models``. One that is there is
        not trained again, one whose training was interrupted goes on.
    callback : callable, optional
        Called with a `snode.progress.Progress` between pieces of work; see `snode.progress.bar`.

    Returns
    -------
    Reproduction

    Raises
    ------
    ValueError
        If there is no such item.
    KeyboardInterrupt
        If the training of a network was stopped by Ctrl-C; the same call goes on from there.
    """
    item = find(paper, name)
    folder = Path(out) / item.paper
    folder.mkdir(parents=True, exist_ok=True)
    check_callback(callback)
    report = functools.partial(tell, callback)
    started = time.perf_counter()
    with _importable(demos_folder() / Path(item.script).parent):
        script = importlib.import_module(Path(item.script).name)
        size = "quick" if quick else "full"
        zoo = Path(models) if models is not None else Path(out) / "models"
        numbers = _run(script, size, seed, zoo, report)
        report(1, 1, "drawing")
        found = [_claim(c) for c in getattr(script, "claims", lambda _: [])(numbers)]
        figure = _figure(script, item, numbers)
        keep = getattr(script, "recorded", lambda n: n)(numbers)
    target = folder / item.name
    figure.savefig(f"{target}.png", dpi=110)
    seconds = round(time.perf_counter() - started, 1)
    made = Reproduction(
        item, quick, seed, seconds, found, Path(f"{target}.png"), Path(f"{target}.json")
    )
    runs.write_json(made.record, _summary(made, keep))
    return made


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the scripts of a folder import each other, as they do when they are run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _run(script: Any, size: str, seed: int, models: Path, report: Callable[..., Any]) -> Any:
    takes = inspect.signature(script.run).parameters
    given: dict[str, Any] = {"quick": size == "quick", "rng": seed}
    for name, value in (("callback", report), ("cache", models / size)):
        if name in takes:
            given[name] = value
    if not hasattr(script, "ZOO"):
        return script.run(**given)
    train_models = importlib.import_module("train_models")
    zoo = list(
        train_models.models(size, seeds=(seed,), folder=models, callback=report, **script.ZOO)
    )
    report(0, 1, "measuring")
    return script.run(zoo, **given)


def _claim(claim: Any) -> tuple[str, bool, str]:
    text, agrees, *measured = claim
    return str(text), bool(agrees), str(measured[0]) if measured else ""


def _figure(script: Any, item: Item, numbers: Any) -> Any:
    if item.figure and "which" in inspect.signature(script.plot).parameters:
        return script.plot(numbers, item.figure)
    drawn = script.plot(numbers)
    return drawn[item.figure] if isinstance(drawn, Mapping) else drawn


def _summary(made: Reproduction, numbers: Any) -> dict[str, Any]:
    return {
        "paper": made.item.paper,
        "item": made.item.name,
        "title": made.item.title,
        "size": "quick" if made.quick else "full",
        "seed": made.seed,
        "seconds": made.seconds,
        "claims": [{"claim": t, "agrees": a, "measured": m} for t, a, m in made.claims],
        "numbers": _jsonable(numbers),
        "environment": runs.environment(),
        "finished": runs.now(),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, np.generic | str | int | float | bool) or value is None:
        return value
    return str(value)
