"""Distribution tails in integer arithmetic: the same digits on every machine, whatever its maths library returns.

Fixed point: a number x is the integer x * 2^BITS. Python's integers do not overflow, and ``>>`` and ``//`` round down
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from functools import lru_cache
from math import isqrt

BITS = 256  # inside the series
ONE_BITS = 64  # of the results: a probability of 1 is 2^64
LEVEL_BITS = 16  # of the scales
DIGITS = 60  # of the decimal logarithm

Tail = Callable[[int], int]
UpperTail = Callable[[int, int], int]


def _exp_minus(x: int) -> int:
    """exp(-x) for fixed-point x >= 0: halve the argument until it is small, sum the series, square back."""
    halvings = max(0, x.bit_length() - BITS + 8)
    step = x >> halvings
    term = total = 1 << BITS
    k = 1
    while term:
        term = (term * step >> BITS) // k
        total += -term if k % 2 else term
        k += 1
    for _ in range(halvings):
        total = total * total >> BITS
    return total


@lru_cache(maxsize=1)
def _inverse_root_two_pi() -> int:
    """1 / sqrt(2 pi), with pi from Machin's formula 16 atan(1/5) - 4 atan(1/239)."""

    def atan_inverse(n: int) -> int:
        power = (1 << (BITS + 32)) // n
        total, k = 0, 0
        while power:
            total += (-power if k % 2 else power) // (2 * k + 1)
            power //= n * n
            k += 1
        return total

    pi = (16 * atan_inverse(5) - 4 * atan_inverse(239)) >> 32
    root = isqrt((2 * pi) << BITS)
    return (1 << 2 * BITS) // root


def gaussian_upper_tail(halves: int, level: int) -> int:
    """P(X > halves / 2) of a zero-mean Gaussian with standard deviation level * 2^-16, as an integer in units of 2^-64.

    Uses 1/2 - density(t) * (t + t^3/3 + t^5/(3*5) + ...), whose terms are all positive. ``halves`` is at least 0. Beyond 14
    standard deviations the tail is below the unit and 0 is returned.
    """
    t = (halves << (BITS + LEVEL_BITS - 1)) // level
    if t > 14 << BITS:
        return 0
    square = t * t >> BITS
    term = total = t
    k = 3
    while term:
        term = (term * square >> BITS) // k
        total += term
        k += 2
    density = _exp_minus(square >> 1) * _inverse_root_two_pi() >> BITS
    inside = density * total >> BITS
    return max(0, ((1 << (BITS - 1)) - inside) >> (BITS - ONE_BITS))


def laplace_upper_tail(halves: int, level: int) -> int:
    """P(X > halves / 2) of a zero-mean Laplace distribution with diversity level * 2^-16, in units of 2^-64: exp(-t) / 2."""
    t = (halves << (BITS + LEVEL_BITS - 1)) // level
    if t > 64 << BITS:
        return 0
    return _exp_minus(t) >> (BITS + 1 - ONE_BITS)


def geometric_levels(count: int, lowest: str, highest: str) -> list[int]:
    """round(2^16 * lowest * (highest / lowest)^(i / (count - 1))). `decimal` rounds exp and ln correctly, by specification."""
    context = Context(prec=DIGITS)
    low, high = Decimal(lowest), Decimal(highest)
    if count < 2 or not 0 < low < high:
        raise ValueError(f"{count} levels from {lowest} to {highest}: need two or more, rising from above 0")
    step = context.divide(context.ln(context.divide(high, low)), Decimal(count - 1))
    unit = context.multiply(low, Decimal(1 << LEVEL_BITS))
    half = Decimal("0.5")
    levels = [context.multiply(unit, context.exp(context.multiply(step, Decimal(i)))) for i in range(count)]
    return [int(context.add(level, half)) for level in levels]
