"""The 25 problems of DETEST, classes A to E: non-stiff, on t in [0, 20].

T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, *Comparing numerical methods for ordinary
differential equations*, SIAM J. Numer. Anal. 9 (1972), 603-637.
"""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

END = 20.0


@dataclass(frozen=True)
class Problem:
    """x' = f(t, x), x(0) = x0."""

    name: str
    f: object
    x0: tuple

    @cache  # noqa: B019 - the problems live as long as the tests
    def reference(self):
        """Return x(20), good to 1e-11 of its size: D5 amplifies an error some 100 times."""
        options = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-14}
        return solve_ivp(self.f, (0.0, END), self.x0, **options).y[:, -1]

    def error(self, x):
        """Return max_i |err_i| / (1 + |x_i|), the error in the weights of rtol = atol."""
        exact = self.reference()
        return float((np.abs(x - exact) / (1 + np.abs(exact))).max())


# --- A: one equation ------------------------------------------------------------------------------


def _a5(t, y):
    return (y - t) / (y + t)


# --- B: small systems -----------------------------------------------------------------------------


def _b1(t, y):
    return np.array([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])


def _b2(t, y):
    return np.array([-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]])


def _b3(t, y):
    return np.array([-y[0], y[0] - y[1] ** 2, y[1] ** 2])


def _b4(t, y):
    r = np.hypot(y[0], y[1])
    return np.array([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def _b5(t, y):
    return np.array([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


# --- C: moderate systems --------------------------------------------------------------------------


def _chain(rates, t, y):
    """y_i' = rates_{i-1} y_{i-1} - rates_i y_i; the last one only collects."""
    flow = rates * y[:-1]
    return np.append(-flow, 0.0) + np.insert(flow, 0, 0.0)


def _heat(t, y):
    rate = -2 * y
    rate[1:] += y[:-1]
    rate[:-1] += y[1:]
    return rate


def _unit(n):
    return (1.0, *[0.0] * (n - 1))


SUN, GRAVITY = 1.00000597682, 2.95912208286
PLANETS = np.array([0.000954786104043, 0.000285583733151, 0.0000437273164546,
                    0.0000517759138449, 0.00000277777777778])  # fmt: skip
POSITIONS = (
    (3.42947415189, 3.35386959711, 1.35494901715),
    (6.64145542550, 5.97156957878, 2.18231499728),
    (11.2630437207, 14.6952576794, 6.27960525067),
    (-30.1552268759, 1.65699966404, 1.43785752721),
    (-21.1238353380, 28.4465098142, 15.3882659679),
)
VELOCITIES = (
    (-0.557160570446, 0.505696783289, 0.230578543901),
    (-0.415570776342, 0.365682722812, 0.169143213293),
    (-0.325325669158, 0.189706021964, 0.0877265322780),
    (-0.0240476254170, -0.287659532608, -0.117219543175),
    (-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _five_bodies(t, y):
    """The outer planets about the sun."""
    x, v = y[:15].reshape(5, 3), y[15:]
    r3 = (x * x).sum(axis=1) ** 1.5
    apart = x[None] - x[:, None]  # [j, k] = x_k - x_j
    d3 = (apart * apart).sum(axis=2) ** 1.5 + np.eye(5)
    pull = np.einsum("k,jki->ji", PLANETS, apart / d3[:, :, None])
    indirect = (PLANETS / r3) @ x - (PLANETS / r3)[:, None] * x  # k != j
    own = (SUN + PLANETS)[:, None] * x / r3[:, None]
    return np.concatenate([v, (GRAVITY * (pull - indirect - own)).ravel()])


# --- D: orbits of eccentricity 0.1, 0.3, ..., 0.9 -------------------------------------------------


def _orbit(t, y):
    r3 = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return np.array([y[2], y[3], -y[0] / r3, -y[1] / r3])


def _perihelion(e):
    return (1 - e, 0.0, 0.0, ((1 + e) / (1 - e)) ** 0.5)


# --- E: equations of higher order -----------------------------------------------------------------


def _e1(t, y):
    return np.array([y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])


def _e2(t, y):
    return np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def _e3(t, y):
    return np.array([y[1], y[0] ** 3 / 6 - y[0] + 2 * np.sin(2.78535 * t)])


def _e4(t, y):
    return np.array([y[1], 0.032 - 0.4 * y[1] ** 2])


def _e5(t, y):
    return np.array([y[1], np.sqrt(1 + y[1] ** 2) / (25 - t)])


PROBLEMS = (
    Problem("A1", lambda t, y: -y, (1.0,)),
    Problem("A2", lambda t, y: -(y**3) / 2, (1.0,)),
    Problem("A3", lambda t, y: y * np.cos(t), (1.0,)),
    Problem("A4", lambda t, y: y / 4 * (1 - y / 20), (1.0,)),
    Problem("A5", _a5, (4.0,)),
    Problem("B1", _b1, (1.0, 3.0)),
    Problem("B2", _b2, (2.0, 0.0, 1.0)),
    Problem("B3", _b3, (1.0, 0.0, 0.0)),
    Problem("B4", _b4, (3.0, 0.0, 0.0)),
    Problem("B5", _b5, (0.0, 1.0, 1.0)),
    Problem("C1", partial(_chain, np.ones(9)), _unit(10)),
    Problem("C2", partial(_chain, np.arange(1.0, 10)), _unit(10)),
    Problem("C3", _heat, _unit(10)),
    Problem("C4", _heat, _unit(51)),
    Problem("C5", _five_bodies, tuple(np.ravel([POSITIONS, VELOCITIES]).tolist())),
    *[Problem(f"D{i + 1}", _orbit, _perihelion(0.1 + 0.2 * i)) for i in range(5)],
    # a Bessel function of order 1/2
    Problem("E1", _e1, (0.6713967071418030, 0.09540051444747446)),
    Problem("E2", _e2, (2.0, 0.0)),
    Problem("E3", _e3, (0.0, 0.0)),
    Problem("E4", _e4, (30.0, 0.0)),
    Problem("E5", _e5, (0.0, 0.0)),
)


def _e1_exact(t):
    s, c = t + 1, np.sqrt(2 / np.pi)
    return c * np.sin(s) / np.sqrt(s), c * (np.cos(s) / np.sqrt(s) - np.sin(s) / (2 * s**1.5))


def _kepler(e, t):
    """The orbit by Kepler's equation t = E - e sin E."""
    E = brentq(lambda E: E - e * np.sin(E) - t, t - 1, t + 1, xtol=1e-15, rtol=1e-15)
    minor, rate = np.sqrt(1 - e * e), 1 / (1 - e * np.cos(E))
    return np.cos(E) - e, minor * np.sin(E), -np.sin(E) * rate, minor * np.cos(E) * rate


CLOSED_FORMS = {
    "A1": lambda t: (np.exp(-t),),
    "A2": lambda t: (1 / np.sqrt(t + 1),),
    "A3": lambda t: (np.exp(np.sin(t)),),
    "A4": lambda t: (20 / (1 + 19 * np.exp(-t / 4)),),
    "E1": _e1_exact,
    **{f"D{i + 1}": partial(_kepler, 0.1 + 0.2 * i) for i in range(5)},
}
"""Solutions known in closed form."""
