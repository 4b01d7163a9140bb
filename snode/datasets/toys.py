r"""Two-dimensional toy sets for lessons: seeded, balanced, of any size.

Each function returns ``(x, y)`` with `x` of shape ``(2, m)`` and labels `y` of shape ``(m,)``.
The classes take turns (sample j has label ``j % n_classes``), so the first columns of a set are
balanced too. Points are drawn at random along the curves or areas; ``noise`` then adds a normal
deviate of that standard deviation to both coordinates, and with ``noise=0`` every point lies on
its curve.

Which set is hard for what: the flow of an ODE in the plane is a homeomorphism of the plane and
cannot move the inside of `annulus` out of its ring, so no planar neural ODE separates it
linearly; `broken_annulus` leaves a way out; `spirals` and `swiss_roll` need long, winding flows.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.backend import Array, creator_namespace, own_error_state
from snode.datasets.encoding import check_float_dtype
from snode.seeds import as_generator

__all__ = ["annulus", "broken_annulus", "spirals", "swiss_roll", "two_moons"]

Floats = NDArray[np.float64]


@own_error_state
def two_moons(
    n_samples: int = 200, *, noise: float = 0.1, rng: Any = None, dtype: Any = "float64"
) -> tuple[Array, Array]:
    r"""Two interleaved half circles of radius 1.

    Class 0 is :math:`(\cos t, \sin t)` and class 1 is :math:`(1 - \cos t, 1/2 - \sin t)`,
    :math:`0 \le t \le \pi`.

    Parameters
    ----------
    n_samples : int, default 200
        Number of points, at least 2; the class sizes differ by at most 1.
    noise : float, default 0.1
        Standard deviation of the normal noise on both coordinates.
    rng : None, int or numpy.random.Generator
        Seed.
    dtype : {"float64", "float32"}
        Type of `x`.

    Returns
    -------
    x : (2, n_samples) array
        Points, one per column.
    y : (n_samples,) int64 array
        Labels 0 and 1.

    Raises
    ------
    ValueError
        If `n_samples`, `noise` or `dtype` is out of range.

    Examples
    --------
    >>> from snode.datasets import two_moons
    >>> x, y = two_moons(5, rng=0)
    >>> x.shape, y
    ((2, 5), array([0, 1, 0, 1, 0]))
    """
    y = _labels(n_samples, 2)
    rng = as_generator(rng)
    t = np.pi * rng.random(y.size)
    upper = np.stack([np.cos(t), np.sin(t)])
    lower = np.stack([1.0 - np.cos(t), 0.5 - np.sin(t)])
    return _finish(np.where(y == 0, upper, lower), y, noise, rng, dtype)


@own_error_state
def spirals(
    n_samples: int = 200,
    *,
    n_classes: int = 2,
    turns: float = 1.0,
    inner_radius: float = 0.1,
    noise: float = 0.02,
    rng: Any = None,
    dtype: Any = "float64",
) -> tuple[Array, Array]:
    r"""Archimedean spiral arms around the origin, one per class.

    Arm c is :math:`r (\cos\varphi, \sin\varphi)` with :math:`r = r_0 + (1 - r_0) s` and
    :math:`\varphi = 2\pi (\mathrm{turns}\, s + c / n_{classes})`, :math:`0 \le s \le 1`.

    Parameters
    ----------
    n_samples : int, default 200
        Number of points, at least `n_classes`; the class sizes differ by at most 1.
    n_classes : int, default 2
        Number of arms, at least 2.
    turns : float, default 1.0
        How often an arm winds around the origin, positive.
    inner_radius : float, default 0.1
        Radius r_0 where the arms start, between 0 and 1; the arms end at radius 1.
    noise : float, default 0.02
        Standard deviation of the normal noise on both coordinates.
    rng : None, int or numpy.random.Generator
        Seed.
    dtype : {"float64", "float32"}
        Type of `x`.

    Returns
    -------
    x : (2, n_samples) array
        Points, one per column.
    y : (n_samples,) int64 array
        Labels 0, ..., n_classes - 1.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> from snode.datasets import spirals
    >>> x, y = spirals(7, n_classes=3, turns=0.5, rng=0)
    >>> x.shape, y
    ((2, 7), array([0, 1, 2, 0, 1, 2, 0]))
    """
    _check_positive("turns", turns)
    if not 0.0 < inner_radius < 1.0:
        raise ValueError(f"inner_radius must be between 0 and 1; got {inner_radius!r}")
    y = _labels(n_samples, n_classes)
    rng = as_generator(rng)
    s = rng.random(y.size)
    radius = inner_radius + (1.0 - inner_radius) * s
    angle = 2.0 * np.pi * (turns * s + y / n_classes)
    return _finish(_polar(radius, angle), y, noise, rng, dtype)


@own_error_state
def annulus(
    n_samples: int = 200,
    *,
    disk_radius: float = 0.5,
    ring: tuple[float, float] = (1.0, 1.5),
    noise: float = 0.0,
    rng: Any = None,
    dtype: Any = "float64",
) -> tuple[Array, Array]:
    r"""A disk inside a ring: the set that no planar flow separates linearly.

    Class 0 is the disk :math:`|x| \le \rho`, class 1 the ring :math:`r_1 \le |x| \le r_2`, both
    filled uniformly by area. A well-known hard case of neural ODEs [1]_.

    Parameters
    ----------
    n_samples : int, default 200
        Number of points, at least 2; the class sizes differ by at most 1.
    disk_radius : float, default 0.5
        Radius rho of the disk.
    ring : (float, float), default (1.0, 1.5)
        Inner and outer radius of the ring; equal radii give a circle.
    noise : float, default 0.0
        Standard deviation of the normal noise on both coordinates.
    rng : None, int or numpy.random.Generator
        Seed.
    dtype : {"float64", "float32"}
        Type of `x`.

    Returns
    -------
    x : (2, n_samples) array
        Points, one per column.
    y : (n_samples,) int64 array
        Label 0 in the disk, 1 in the ring.

    Raises
    ------
    ValueError
        Unless ``0 < disk_radius < ring[0] <= ring[1]`` and the other options are in range.

    References
    ----------
    .. [1] E. Dupont, A. Doucet, Y. W. Teh, Augmented Neural ODEs, NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.datasets import annulus
    >>> x, y = annulus(100, rng=0)
    >>> bool(np.hypot(*x[:, y == 0]).max() <= 0.5), bool(np.hypot(*x[:, y == 1]).min() >= 1.0)
    (True, True)
    """
    y = _labels(n_samples, 2)
    rng = as_generator(rng)
    radius = _disk_and_ring(y, disk_radius, ring, rng)
    angle = 2.0 * np.pi * rng.random(y.size)
    return _finish(_polar(radius, angle), y, noise, rng, dtype)


@own_error_state
def broken_annulus(
    n_samples: int = 200,
    *,
    gap: float = math.pi / 2,
    gap_direction: float = 0.0,
    disk_radius: float = 0.5,
    ring: tuple[float, float] = (1.0, 1.5),
    noise: float = 0.0,
    rng: Any = None,
    dtype: Any = "float64",
) -> tuple[Array, Array]:
    """A disk inside a ring with a gap, through which a planar flow can carry the disk out.

    As `annulus`, but class 1 has no points within ``gap / 2`` of the direction `gap_direction`
    [1]_.

    Parameters
    ----------
    n_samples : int, default 200
        Number of points, at least 2; the class sizes differ by at most 1.
    gap : float, default pi/2
        Angle in radians that is cut out of the ring, between 0 and 2 pi.
    gap_direction : float, default 0.0
        Angle in radians of the middle of the gap; 0 is the positive x_1 axis.
    disk_radius : float, default 0.5
        Radius of the disk.
    ring : (float, float), default (1.0, 1.5)
        Inner and outer radius of the ring.
    noise : float, default 0.0
        Standard deviation of the normal noise on both coordinates.
    rng : None, int or numpy.random.Generator
        Seed.
    dtype : {"float64", "float32"}
        Type of `x`.

    Returns
    -------
    x : (2, n_samples) array
        Points, one per column.
    y : (n_samples,) int64 array
        Label 0 in the disk, 1 in the broken ring.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] S. Josias, W. Brink, Jacobian Norm Regularisation and Conditioning in Neural ODEs.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.datasets import broken_annulus
    >>> x, y = broken_annulus(100, gap=np.pi, rng=0)
    >>> bool(x[0, y == 1].max() <= 1e-12)  # the right half of the ring is missing
    True
    """
    if not 0.0 < gap < 2.0 * math.pi:
        raise ValueError(f"gap must be an angle between 0 and 2 pi; got {gap!r}")
    if not math.isfinite(gap_direction):
        raise ValueError(f"gap_direction must be a finite angle; got {gap_direction!r}")
    y = _labels(n_samples, 2)
    rng = as_generator(rng)
    radius = _disk_and_ring(y, disk_radius, ring, rng)
    cut = np.where(y == 1, gap, 0.0)
    angle = gap_direction + cut / 2 + (2.0 * np.pi - cut) * rng.random(y.size)
    return _finish(_polar(radius, angle), y, noise, rng, dtype)


@own_error_state
def swiss_roll(
    n_samples: int = 200,
    *,
    turns: float = 2.0,
    offset: float = 0.2,
    noise: float = 0.0,
    rng: Any = None,
    dtype: Any = "float64",
) -> tuple[Array, Array]:
    r"""Two rolled-up curves, one inside the windings of the other, as two classes.

    This is the planar classification task of Haber and Ruthotto [1]_, not the rolled sheet
    in three dimensions of manifold learning. Class 0 is
    :math:`s (\cos\varphi, \sin\varphi)`, class 1 is
    :math:`(s + \mathrm{offset}) (\cos\varphi, \sin\varphi)`, with
    :math:`\varphi = 2 \pi\, \mathrm{turns}\, s` and :math:`0 \le s \le 1`; the defaults are
    theirs. They space s evenly, here it is drawn uniformly.

    Parameters
    ----------
    n_samples : int, default 200
        Number of points, at least 2; the class sizes differ by at most 1.
    turns : float, default 2.0
        Number of windings, positive.
    offset : float, default 0.2
        Radial distance of class 1 from class 0; less than the distance ``1 / turns`` of two
        windings, where the curves would meet.
    noise : float, default 0.0
        Standard deviation of the normal noise on both coordinates.
    rng : None, int or numpy.random.Generator
        Seed.
    dtype : {"float64", "float32"}
        Type of `x`.

    Returns
    -------
    x : (2, n_samples) array
        Points, one per column.
    y : (n_samples,) int64 array
        Labels 0 and 1.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] E. Haber, L. Ruthotto, Stable architectures for deep neural networks, Inverse
       Problems 34 (2018) 014004.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.datasets import swiss_roll
    >>> x, y = swiss_roll(1000, rng=0)
    >>> np.hypot(*x[:, y == 0]).max().round(2), np.hypot(*x[:, y == 1]).min().round(2)
    (np.float64(1.0), np.float64(0.2))
    """
    _check_positive("turns", turns)
    if not 0.0 < offset < 1.0 / turns:
        raise ValueError(
            f"offset must be between 0 and 1/turns = {1.0 / turns:g}, where the two rolls meet; "
            f"got {offset!r}"
        )
    y = _labels(n_samples, 2)
    rng = as_generator(rng)
    s = rng.random(y.size)
    return _finish(_polar(s + offset * y, 2.0 * np.pi * turns * s), y, noise, rng, dtype)


def _labels(n_samples: Any, n_classes: Any) -> NDArray[np.int64]:
    classes = _integer("n_classes", n_classes, 2)
    m = _integer("n_samples", n_samples, classes)
    return np.arange(m, dtype=np.int64) % classes


def _integer(name: str, value: Any, least: int) -> int:
    try:
        result = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer; got {value!r}") from None
    if result < least:
        raise ValueError(f"{name} must be at least {least}; got {result}")
    return result


def _check_positive(name: str, value: float) -> None:
    if not (value > 0.0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite; got {value!r}")


def _polar(radius: Floats, angle: Floats) -> Floats:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)])


def _disk_and_ring(
    y: NDArray[np.int64], disk_radius: float, ring: tuple[float, float], rng: np.random.Generator
) -> Floats:
    inner, outer = ring
    if not 0.0 < disk_radius < inner <= outer < math.inf:
        raise ValueError(
            "need 0 < disk_radius < ring[0] <= ring[1]; "
            f"got disk_radius={disk_radius!r}, ring={ring!r}"
        )
    low, high = np.where(y == 0, 0.0, inner), np.where(y == 0, disk_radius, outer)
    # The area inside radius r grows with r^2: uniform in r^2 is uniform by area.
    radius = np.sqrt(low**2 + (high**2 - low**2) * rng.random(y.size))
    clipped: Floats = np.clip(radius, low, high)  # the root may round past the border
    return clipped


def _finish(
    x: Floats, y: NDArray[np.int64], noise: float, rng: np.random.Generator, dtype: Any
) -> tuple[Array, Array]:
    if not (noise >= 0.0 and math.isfinite(noise)):
        raise ValueError(f"noise must be a finite number >= 0; got {noise!r}")
    if noise > 0.0:
        x = x + noise * rng.standard_normal(x.shape)
    xp = creator_namespace()
    points = np.ascontiguousarray(x, dtype=check_float_dtype(dtype))
    return xp.asarray(points), xp.asarray(y)
