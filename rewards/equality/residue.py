"""Compute values of trees in finite fields, where equal expressions agree and others hardly do.

Every modulus P = 2Q + 1 is a safe prime, so the squares of the field form a group of prime order Q
in which every rational power exists: bases are reduced mod P, exponents mod Q, and roots obey the
laws of roots of positive numbers. A symbol, pi, e, i and a function of an argument get a fixed
pseudo-random square. Agreement therefore proves equality up to the branch of a root, which a float
value settles; disagreement proves nothing when functions or roots occur.
"""

from fractions import Fraction
from functools import lru_cache
from zlib import crc32

from rewards.equality.exact import NotExact, TooLarge, Undefined, exact
from rewards.syntax.nodes import Node

MODULI = (
    1983459126452385599,
    1486710155404559039,
    1571893760772363719,
    2245117832522306279,
    1616074448808193079,
    2220801506397094199,
    2113567225428347639,
    1543807237425137999,
)
MAX_FACTORIAL = 3_000


class NoRoot(NotExact):
    """The base of a root is no square for this modulus; another modulus may serve."""


def agree(a: Node, b: Node) -> bool | None:
    """Say whether two trees agree in two of the fields; None when too few fields hold both."""
    matches = 0
    for modulus in MODULI:
        left = _value(a, modulus)
        if left is None:
            continue
        right = _value(b, modulus)
        if right is None:
            continue
        if left != right:
            return False
        matches += 1
        if matches == 2:  # different trees agree by chance once in 10**36
            return True
    return None


@lru_cache(maxsize=16384)
def _value(node: Node, modulus: int) -> int | None:
    try:
        return residue(node, modulus, modulus)
    except NoRoot:
        return None


def residue(node: Node, modulus: int, key: int) -> int:
    """Return the tree's value mod modulus; raises NotExact. key names the outer modulus."""
    tag = node[0]
    if tag == "n":
        return node[1] * _inverse(node[2], modulus) % modulus if node[2] != 1 else node[1] % modulus
    if tag == "s":
        return _random(node[1], modulus, 0)
    if tag == "+":
        return sum(residue(term, modulus, key) for term in node[1]) % modulus
    if tag == "*":
        value = 1
        for factor in node[1]:
            value = value * residue(factor, modulus, key) % modulus
        return value
    if tag == "/":
        top, bottom = (residue(part, modulus, key) for part in node[1:])
        return top * _inverse(bottom, modulus) % modulus
    if tag == "-":
        return -residue(node[1], modulus, key) % modulus
    if tag == "^":
        return _power(residue(node[1], modulus, key), node[1], node[2], modulus, key)
    if tag == "d":
        return node[1] * _inverse(10 ** node[2], modulus) % modulus
    if tag == "c":
        if node[1] == "inf":
            raise NotExact
        return _random(node[1], modulus, 1)
    if tag == "unit":
        return residue(node[1], modulus, key)
    if tag == "f":
        return _call(node, modulus, key)
    raise NotExact


def _inverse(value: int, modulus: int) -> int:
    if value % modulus == 0:
        raise Undefined
    return pow(value, -1, modulus)


def _random(name: str, modulus: int, value: int) -> int:
    seed = (
        # multipliers of splitmix64 and xxHash: neighbouring names and values end far apart
        crc32(name.encode()) * 0x9E3779B97F4A7C15 + value * 0xC2B2AE3D27D4EB4F + modulus
    ) % modulus
    return pow(seed or 3, 10, modulus)  # an even power: a square, with every root


def _power(base: int, base_node: Node, exponent: Node, modulus: int, key: int) -> int:
    try:
        power = exact(exponent)
    except TooLarge:
        raise
    except NotExact:
        if base_node[0] == "-" or (base_node[0] == "n" and base_node[1] < 0):
            raise  # (-1)^k: the sign would be lost among the squares
        if modulus != key:
            return _oracle("^", (base_node, exponent), modulus, key)
        # Exponents live in the field of the group's order, so that x^a x^b = x^(a+b) there too.
        return _square_power(base, residue(exponent, (modulus - 1) // 2, key), modulus)
    if power.denominator == 1:
        if base == 0 and power <= 0:
            raise Undefined
        # exponents count modulo P - 1, by Fermat
        return pow(base, power.numerator % (modulus - 1), modulus) if base else 0
    return _rational_power(base, power, modulus, key)


def _rational_power(base: int, power: Fraction, modulus: int, key: int) -> int:
    if modulus != key:
        raise NotExact
    order = (modulus - 1) // 2
    return _square_power(
        base, power.numerator * _inverse(power.denominator, order) % order, modulus
    )


def _square_power(base: int, power: int, modulus: int) -> int:
    if base == 0:
        raise NotExact
    if pow(base, (modulus - 1) // 2, modulus) != 1:
        raise NoRoot
    return pow(base, power, modulus)


def _oracle(name: str, args: tuple[Node, ...], modulus: int, key: int) -> int:
    value = 0
    for arg in args:
        value = (value * 1_000_003 + residue(arg, modulus, key) + 1) % modulus
    return _random(name, modulus, value)


def _call(node: Node, modulus: int, key: int) -> int:
    name, args = node[1], node[2]
    if name == "root":
        return _root(args, modulus, key)
    if name == "exp":
        return _power(_random("e", modulus, 1), ("c", "e"), args[0], modulus, key)
    if name in ("ln", "log", "lg"):
        top = _logarithm("ln" if len(args) == 2 else name, args[0], modulus, key)
        if len(args) == 1:
            return top
        return top * _inverse(_logarithm("ln", args[1], modulus, key), modulus) % modulus
    if name in ("!", "!!", "binom"):
        counted = _count(name, args, modulus, key)
        if counted is not None:
            return counted
    return _oracle(name, args, modulus, key)


def _root(args: tuple[Node, ...], modulus: int, key: int) -> int:
    degree = exact(args[1])
    base = residue(args[0], modulus, key)
    if degree == 0:
        raise Undefined
    if base == 0:
        return 0
    sign = 1
    # P = 3 (mod 4): of x and -x just one is a square, and an odd root keeps the sign
    if degree.denominator == 1 and degree % 2 and pow(base, (modulus - 1) // 2, modulus) != 1:
        base, sign = -base % modulus, -1
    return sign * _rational_power(base, 1 / degree, modulus, key) % modulus


def _logarithm(name: str, node: Node, modulus: int, key: int) -> int:
    if node == ("c", "e") and name == "ln":
        return 1
    try:
        value = exact(node)
    except TooLarge:
        raise
    except NotExact:
        return _oracle(name, (node,), modulus, key)
    if value <= 0:
        raise NotExact
    total = 0
    for side, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, times in _factors(side):  # so that log 12 = 2 log 2 + log 3
            total += sign * times * _random(name, modulus, prime)
    return total % modulus


@lru_cache(maxsize=1024)
def _factors(value: int) -> tuple[tuple[int, int], ...]:
    """Return the prime factors of value with multiplicity; what stays past 2000 counts as prime."""
    found, prime = [], 2
    while prime * prime <= value and prime < 2000:
        times = 0
        while value % prime == 0:
            value, times = value // prime, times + 1
        if times:
            found.append((prime, times))
        prime += 1 if prime == 2 else 2
    return (*found, (value, 1)) if value > 1 else tuple(found)


def _count(name: str, args: tuple[Node, ...], modulus: int, key: int) -> int | None:
    try:
        last = exact(args[-1])
    except NotExact:
        return None
    if last.denominator != 1 or last < 0:
        raise NotExact
    # fewer for binomials: each of their factors takes an inverse
    if last > MAX_FACTORIAL or (name == "binom" and last > 200):
        raise TooLarge
    # a product of factors, since the top may hold symbols
    if name == "binom":
        top = residue(args[0], modulus, key)
        value = 1
        for k in range(int(last)):
            value = value * (top - k) % modulus * pow(k + 1, -1, modulus) % modulus
        return value
    value = 1
    for k in range(int(last), 0, -1 if name == "!" else -2):
        value = value * k % modulus
    return value
