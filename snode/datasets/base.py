"""`Dataset`, what every loader returns, and `train_test_split`, which makes one from arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, own_error_state, plain, to_host
from snode.copying import Portable
from snode.datasets.classnames import match_names
from snode.datasets.encoding import AS_IS, check_encoding, decode
from snode.datasets.featurenames import checked_feature_names, feature_order
from snode.seeds import as_generator

__all__ = ["Dataset", "train_test_split"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Portable):
    """Training and test data, one column per sample.

    Parameters
    ----------
    x_train : (n, m) float array
        Features; column j is sample j.
    y_train : (m,) integer array, or (k, m) float array
        Class labels 0, ..., n_classes - 1, or the targets of a regression.
    x_test, y_test : arrays or None
        The same for the test set, (n, m_test) and (m_test,) or (k, m_test). Both or neither.
    n_classes : int, default 0
        Number of classes. 0 means: largest label + 1 (and stays 0 for float targets).
    encoding : (float, float), default (0.0, 1.0)
        Value of the background and value of the ink in `x_train`; see `decode`.
    name : str, default ""
        What the data is called in messages and plots.
    image_shape : (int, int) or None
        Height and width if a column is an image stored row by row.
    classes : (n_classes,) NumPy array or None
        ``classes[label]`` is the label as the file spelled it.
    is_pixels : bool, default False
        Whether the features were 8-bit pixels in the file.
    standardisation : (mean, scale), two (n,) float arrays, or None
        If the features are ``(original - mean) / scale``; see `standardised`.
    feature_names : sequence of n different texts, or None
        Names of the rows of `x_train`, kept as a tuple; see `with_feature_names`.

    Raises
    ------
    ValueError
        If shapes, counts or labels do not fit together, or a value is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.datasets import Dataset
    >>> Dataset(np.zeros((2, 3)), np.array([0, 1, 1]), name="tiny")
    Dataset('tiny': 2 features, 3 training + 0 test samples, 2 classes, float64)
    """

    x_train: Array
    y_train: Array
    x_test: Array | None = None
    y_test: Array | None = None
    n_classes: int = 0
    encoding: tuple[float, float] = AS_IS
    name: str = ""
    image_shape: tuple[int, int] | None = None
    classes: np.ndarray[Any, Any] | None = None
    standardisation: tuple[Array, Array] | None = None
    is_pixels: bool = False
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", check_encoding(self.encoding))
        for name in ("x_train", "y_train", "x_test", "y_test"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        _check_pair(self.x_train, self.y_train, "train")
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("x_test and y_test must both be given, or neither")
        if self.x_test is not None:
            _check_pair(self.x_test, self.y_test, "test")
            _check_test_fits(self.x_train, self.y_train, self.x_test, self.y_test)
        object.__setattr__(self, "n_classes", _checked_n_classes(self))
        _check_descriptions(self)
        if self.feature_names is not None:
            names = checked_feature_names(self.feature_names, self.x_train.shape[0])
            object.__setattr__(self, "feature_names", names)

    def __repr__(self) -> str:
        n, m = self.x_train.shape
        m_test = 0 if self.x_test is None else self.x_test.shape[1]
        kind = f"{self.n_classes} classes" if self.n_classes else f"{len(self.y_train)} targets"
        return (
            f"Dataset({self.name!r}: {n} features, {m} training + {m_test} test samples, "
            f"{kind}, {self.x_train.dtype})"
        )

    def decode(self, x: Array) -> Array:
        """Return pixel intensities in [0, 1] (0 background, 1 ink) of encoded values.

        Parameters
        ----------
        x : array of any shape
            Values in the encoding of this data set, e.g. some columns of `x_train`.

        Returns
        -------
        array
            ``(x - lo) / (hi - lo)`` with ``(lo, hi) = encoding``; same shape and float dtype.
            Standardised features, (n,) or (n, m), become the original ones first.

        Examples
        --------
        >>> import numpy as np
        >>> from snode.datasets import Dataset
        >>> data = Dataset(np.array([[0.0, -1.0]]), np.array([0, 1]), encoding=(0.0, -1.0))
        >>> data.decode(data.x_train)
        array([[0., 1.]])
        """
        if self.standardisation is not None:
            mean, scale = (v if x.ndim == 1 else v[:, None] for v in self.standardisation)
            x = x * scale + mean
        return decode(x, self.encoding)

    def standardised(
        self, standardisation: tuple[Array, Array] | None = None, *, common: bool = False
    ) -> Dataset:
        """Return the same data with features of mean 0 and standard deviation 1.

        Mean and deviation are those of the training samples, for the test samples, too.

        Parameters
        ----------
        standardisation : (mean, scale), two (n,) arrays, optional
            Numbers of other data instead, e.g. `Model.standardisation`.
        common : bool, default False
            One mean and one deviation for all features, as fits the pixels of an image.

        Returns
        -------
        Dataset
            Its `standardisation` is the (mean, scale) that was used. The scale of a feature that
            is constant is 1.

        Raises
        ------
        ValueError
            If the data are standardised already, or the numbers do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from snode.datasets import Dataset
        >>> data = Dataset(np.array([[1.0, 3.0], [500.0, 100.0]]), np.array([0, 1])).standardised()
        >>> data.x_train
        array([[-1.,  1.],
               [ 1., -1.]])
        >>> data.standardisation
        (array([  2., 300.]), array([  1., 200.]))
        """
        if self.standardisation is not None:
            raise ValueError(f"data set {self.name!r} is standardised already")
        x_train, xp = self.x_train, array_namespace(self.x_train)
        numbers = _mean_and_scale(x_train, common) if standardisation is None else standardisation
        mean, scale = (xp.asarray(v, dtype=x_train.dtype) for v in numbers)
        _check_standardisation((mean, scale), x_train)

        def moved(x: Array | None) -> Array | None:
            return None if x is None else (x - mean[:, None]) / scale[:, None]

        return dataclasses.replace(
            self, x_train=moved(x_train), x_test=moved(self.x_test), standardisation=(mean, scale)
        )

    def with_classes(self, classes: Any) -> Dataset:
        """Return the same data with labels that number these classes, matched by name.

        Parameters
        ----------
        classes : sequence of str or numbers
            Names in the order of their numbers, e.g. `Model.classes`. Names are compared as they
            are written: 1, 1.0 and "1" are the same class.

        Raises
        ------
        ValueError
            If a class of these data is not among them, or the data have no classes.

        Examples
        --------
        >>> import numpy as np
        >>> from snode.datasets import Dataset
        >>> data = Dataset(np.zeros((2, 3)), np.array([0, 1, 1]), classes=np.array(["dog", "owl"]))
        >>> data.with_classes(["cat", "dog", "owl"]).y_train
        array([1, 2, 2])
        """
        if not self.n_classes:
            raise ValueError(f"data set {self.name!r} has float targets, no classes")
        parts = [y for y in (self.y_train, self.y_test) if y is not None]
        used = np.unique(np.concatenate([to_host(y) for y in parts]))
        own = np.arange(self.n_classes) if self.classes is None else to_host(self.classes)
        what = f"data set {self.name!r}: labels"
        table = np.zeros(self.n_classes, np.int64)
        table[used] = match_names(own[used].tolist(), list(classes), what)
        table = array_namespace(self.y_train).asarray(table)
        return dataclasses.replace(
            self, y_train=table[self.y_train],
            y_test=None if self.y_test is None else table[self.y_test],
            n_classes=len(classes), classes=np.asarray(classes),
        )  # fmt: skip

    def with_feature_names(self, feature_names: Any) -> Dataset:
        """Return the same data with these features in this order, matched by name.

        Parameters
        ----------
        feature_names : sequence of str
            E.g. `Model.feature_names`. Data without names get these ones as they are, and so do
            data whose names only count the columns (0, 1, 2, ... as pandas writes them).

        Raises
        ------
        ValueError
            If one of these names is missing in the data, or the data have another one.

        Examples
        --------
        >>> import numpy as np
        >>> from snode.datasets import Dataset
        >>> x, y = np.array([[1.0, 2.0], [7.0, 8.0]]), np.array([0, 1])
        >>> data = Dataset(x, y, feature_names=["width", "length"])
        >>> data.with_feature_names(["length", "width"]).x_train
        array([[7., 8.],
               [1., 2.]])
        """
        names = tuple(feature_names)
        order = feature_order(self.feature_names, names, f"data set {self.name!r}")
        if order is None:
            return dataclasses.replace(self, feature_names=names)
        rows = array_namespace(self.x_train).asarray(order)
        numbers = self.standardisation
        return dataclasses.replace(
            self, x_train=self.x_train[rows],
            x_test=None if self.x_test is None else self.x_test[rows],
            standardisation=None if numbers is None else (numbers[0][rows], numbers[1][rows]),
            feature_names=names,
        )  # fmt: skip

    def split(
        self, test_fraction: float = 0.25, *, rng: Any = None, stratified: bool = False
    ) -> Dataset:
        """Return the same data with a random part of the training samples as its test set.

        Parameters
        ----------
        test_fraction : float, default 0.25
            Part of the samples that goes to the test set, strictly between 0 and 1.
        rng : None, int or numpy.random.Generator
            Seed of the random choice.
        stratified : bool, default False
            Take the part of each class, as nearly as whole samples allow; each class keeps at
            least one training sample.

        Raises
        ------
        ValueError
            If there is a test set already, or one of the two parts would be empty.

        Examples
        --------
        >>> import numpy as np
        >>> from snode.datasets import Dataset
        >>> Dataset(np.zeros((2, 8)), np.arange(8) % 2).split(0.25, rng=0)
        Dataset('': 2 features, 6 training + 2 test samples, 2 classes, float64)
        """
        if self.x_test is not None:
            raise ValueError(f"data set {self.name!r} has a test set already")
        if self.standardisation is not None:
            raise ValueError(f"data set {self.name!r}: split first, then standardise")
        if stratified and not self.n_classes:
            raise ValueError("stratified needs classes; these data have float targets")
        parts = _split_columns(self.x_train, self.y_train, test_fraction, rng, stratified)
        names = ("x_train", "y_train", "x_test", "y_test")
        return dataclasses.replace(self, **dict(zip(names, parts, strict=True)))


@own_error_state
def train_test_split(
    x: Array,
    y: Array,
    *,
    test_fraction: float = 0.25,
    rng: Any = None,
    name: str = "",
    stratified: bool = False,
) -> Dataset:
    """Split samples at random into a training and a test set.

    Parameters
    ----------
    x : (n, m) float array
        One column per sample.
    y : (m,) integer array or (k, m) float array
        Labels 0, ..., C-1, or targets.
    test_fraction : float, default 0.25
        Part of the samples that goes to the test set, strictly between 0 and 1.
    rng : None, int or numpy.random.Generator
        Seed of the random choice.
    name : str, default ""
        Name of the data set.
    stratified : bool, default False
        As for `Dataset.split`.

    Returns
    -------
    Dataset
        With ``round(test_fraction * m)`` test samples.

    Raises
    ------
    ValueError
        If the shapes do not fit, or one of the two parts would be empty.

    Examples
    --------
    >>> from snode.datasets import train_test_split, two_moons
    >>> x, y = two_moons(100, rng=0)
    >>> train_test_split(x, y, test_fraction=0.2, rng=1, name="moons")
    Dataset('moons': 2 features, 80 training + 20 test samples, 2 classes, float64)
    """
    return Dataset(x, y, name=name).split(test_fraction, rng=rng, stratified=stratified)


def _split_columns(
    x: Array, y: Array, test_fraction: float, rng: Any, stratified: bool
) -> tuple[Array, Array, Array, Array]:
    m = x.shape[1]
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must be between 0 and 1; got {test_fraction!r}")
    m_test = round(test_fraction * m)
    if not 0 < m_test < m:
        raise ValueError(
            f"test_fraction={test_fraction} of {m} samples gives {m_test} test and "
            f"{m - m_test} training samples; both must be at least 1"
        )
    xp = array_namespace(x, y)
    order = as_generator(rng).permutation(m)
    if stratified:
        order = _classes_in_turn(order, to_host(y), m_test)
    test, train = xp.asarray(order[:m_test]), xp.asarray(order[m_test:])
    # take, not x[:, index]: the latter returns Fortran-ordered arrays.
    return (
        xp.take(x, train, axis=1),
        xp.take(y, train, axis=-1),
        xp.take(x, test, axis=1),
        xp.take(y, test, axis=-1),
    )


def _classes_in_turn(
    order: np.ndarray[Any, Any], y: np.ndarray[Any, Any], m_test: int
) -> np.ndarray[Any, Any]:
    """Return the samples with those of the test set in front, the share of each class."""
    _, label, sizes = np.unique(y, return_inverse=True, return_counts=True)
    share = m_test * sizes / len(y)
    counts = np.minimum(np.floor(share).astype(np.int64), sizes - 1)
    while counts.sum() < m_test:
        # a class that would be empty in the training set is left alone
        lacking = np.where(counts < sizes - 1, share - counts, -np.inf)
        if not np.isfinite(lacking).any():
            raise ValueError(
                f"a test set of {m_test} of {len(y)} samples leaves one of the {len(sizes)} "
                "classes without a training sample; take a smaller test_fraction"
            )
        counts[np.argmax(lacking)] += 1
    chosen = [order[label[order] == c][: counts[c]] for c in range(len(sizes))]
    test = np.concatenate(chosen)
    is_test = np.zeros(len(y), bool)
    is_test[test] = True
    return np.concatenate([order[is_test[order]], order[~is_test[order]]])


def _mean_and_scale(x: Array, common: bool) -> tuple[Array, Array]:
    xp = array_namespace(x)
    axis = None if common else 1
    # in double precision: the mean of many float32 numbers loses digits
    mean = x.mean(axis=axis, dtype=np.float64)
    scale = x.std(axis=axis, dtype=np.float64)
    # what is left of a constant feature by rounding is no scale
    rounding = np.finfo(x.dtype).eps * xp.abs(mean)
    scale = xp.where(scale > rounding, scale, 1.0)
    return tuple(xp.broadcast_to(v, x.shape[:1]) for v in (mean, scale))


def _check_standardisation(standardisation: Any, x_train: Array) -> None:
    if not isinstance(standardisation, tuple) or len(standardisation) != 2:
        raise ValueError(f"standardisation must be (mean, scale); got {standardisation!r}")
    n = x_train.shape[0]
    for name, value in zip(("mean", "scale"), standardisation, strict=True):
        if getattr(value, "shape", None) != (n,):
            raise ValueError(
                f"the {name} of the standardisation must have shape ({n},), one number for each "
                f"feature; got {getattr(value, 'shape', type(value))}"
            )
        if not bool(array_namespace(value).isfinite(value).all()):
            raise ValueError(f"the {name} of the standardisation must be finite")
    if not bool((standardisation[1] > 0).all()):
        raise ValueError("the scale of the standardisation must be positive")


def _check_pair(x: Array, y: Array, part: str) -> None:
    for letter, value in (("x", x), ("y", y)):
        if not is_array(value):
            name = f"{letter}_{part}"
            raise ValueError(
                f"{name} must be an array; got {type(value).__name__} (use numpy.asarray({name}))"
            )
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind != "f":
        raise ValueError(
            f"x_{part} must be a non-empty float array of shape (n, m), one column per sample; "
            f"got {x.dtype} of shape {x.shape}{_x_hint(x, part)}"
        )
    integer = y.dtype.kind in "iu"
    if y.ndim != (1 if integer else 2) or not (integer or y.dtype.kind == "f"):
        raise ValueError(
            f"y_{part} must be integer labels of shape (m,) or float targets of shape (k, m); "
            f"got {y.dtype} of shape {y.shape}{_y_hint(y, part)}"
        )
    m = x.shape[1]
    if y.shape[-1] != m:
        hint = ""
        if y.shape[-1] == x.shape[0]:
            hint = f"; did you mean x_{part}.T?"
        elif y.shape[0] == m:
            hint = f"; did you mean y_{part}.T?"
        raise ValueError(
            f"x_{part} has {m} columns (samples) but y_{part} has {y.shape[-1]} entries{hint}"
        )
    _check_finite(x, f"x_{part}")
    if not integer:
        _check_finite(y, f"y_{part}")


def _x_hint(x: Array, part: str) -> str:
    if x.ndim == 3 and 0 not in x.shape:
        return f"; images (m, h, w) become columns by x_{part}.reshape(len(x_{part}), -1).T"
    if x.ndim == 2 and x.dtype.kind in "biu":
        return f"; use x_{part}.astype(float)"
    return f"; use x_{part}[None] for one feature" if x.ndim == 1 and x.size else ""


def _y_hint(y: Array, part: str) -> str:
    if y.dtype.kind in "biu" and y.ndim == 2 and 1 in y.shape:
        return f"; use y_{part}.ravel()"
    if y.dtype.kind in "bf" and y.ndim == 1:
        return f"; labels are y_{part}.astype(int), targets y_{part}[None]"
    return ""


def _check_finite(values: Array, name: str) -> None:
    xp = array_namespace(values)
    if bool(xp.isfinite(values.min())) and bool(xp.isfinite(values.max())):  # no array is made
        return
    bad = to_host(~xp.isfinite(values))
    row, column = (int(index[0]) for index in np.nonzero(bad))
    raise ValueError(
        f"{name} must be finite; it has {int(bad.sum())} NaN or infinite values, the first in row "
        f"{row}, column {column}"
    )


def _check_test_fits(x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> None:
    n, n_test = x_train.shape[0], x_test.shape[0]
    if n != n_test:
        raise ValueError(f"x_test must have {n} rows (features) like x_train; got {n_test}")
    if x_test.dtype != x_train.dtype:
        raise ValueError(
            f"x_train and x_test must have one dtype; got {x_train.dtype} and {x_test.dtype}"
        )
    same_kind = (y_train.dtype.kind == "f") == (y_test.dtype.kind == "f")
    if not same_kind or y_train.shape[:-1] != y_test.shape[:-1]:
        raise ValueError(
            f"y_train and y_test must be of one kind; got {y_train.dtype} {y_train.shape} and "
            f"{y_test.dtype} {y_test.shape}"
        )


def _checked_n_classes(data: Dataset) -> int:
    if data.y_train.dtype.kind == "f":
        if data.n_classes:
            raise ValueError(f"float targets have no classes; got n_classes={data.n_classes}")
        return 0
    labels = [data.y_train] if data.y_test is None else [data.y_train, data.y_test]
    low = min(int(y.min().item()) for y in labels)
    high = max(int(y.max().item()) for y in labels)
    n_classes = data.n_classes or high + 1
    if low < 0 or high >= n_classes:
        raise ValueError(f"labels must be integers 0, ..., {n_classes - 1}; found {low} to {high}")
    return n_classes


def _check_descriptions(data: Dataset) -> None:
    n = data.x_train.shape[0]
    if data.image_shape is not None and int(np.prod(data.image_shape)) != n:
        raise ValueError(f"image_shape={data.image_shape} does not have {n} pixels")
    if data.classes is not None and to_host(data.classes).shape != (data.n_classes,):
        raise ValueError(f"classes must have {data.n_classes} entries; got {data.classes!r}")
    if data.standardisation is not None:
        _check_standardisation(data.standardisation, data.x_train)
