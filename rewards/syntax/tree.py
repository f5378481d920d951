"""Walk trees and rewrite them; say which symbols, functions and operations occur in them."""

from collections.abc import Callable, Iterator
from functools import lru_cache

from rewards.syntax.nodes import Node

ZERO: Node = ("n", 0, 1)


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and every node below it."""
    # With a stack of its own: recursive generators cost a call per level for every node.
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        for child in top[1:]:
            if not isinstance(child, tuple):
                continue
            if child and isinstance(child[0], str):
                if child[0] in TAGS:  # else the operators of a relation: ("=", "<")
                    stack.append(child)
            else:
                # a matrix has its rows as bare tuples of nodes: a tag makes them nodes too
                stack.extend(c if isinstance(c[0], str) else ("tuple", "", c) for c in child if c)


TAGS = frozenset(
    "n d s c + * / ^ - pm mp f unit tuple set list rel cup cap setminus matrix field text ratio "
    "time such ... big based mod".split()
)


def rebuild(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return the node with change applied to each scalar part below it, then to itself."""
    tag = node[0]
    if tag in ("+", "*"):
        node = (tag, tuple(rebuild(child, change) for child in node[1]))
    elif tag in ("/", "^"):
        node = (tag, rebuild(node[1], change), rebuild(node[2], change))
    elif tag in ("-", "pm", "mp"):
        node = (tag, rebuild(node[1], change))
    elif tag == "unit":
        node = (tag, rebuild(node[1], change), node[2])
    elif tag == "f":
        node = (tag, node[1], tuple(rebuild(child, change) for child in node[2]))
    return change(node)


@lru_cache(maxsize=8192)  # one judgement asks for the same trees many times
def symbols(node: Node) -> frozenset[str]:
    """Return the names of the symbols of the tree."""
    return frozenset(part[1] for part in walk(node) if part[0] == "s")


@lru_cache(maxsize=8192)
def calls(node: Node) -> frozenset[str]:
    """Return the names of the unknown functions that the tree calls, as f in f(x)."""
    return frozenset(part[1] for part in walk(node) if part[0] == "f" and part[1][0] == "@")


@lru_cache(maxsize=8192)
def features(node: Node) -> frozenset[str]:
    """Return the tags, function names and constants of the tree, each as one word."""
    found = set()
    for part in walk(node):
        found.add(part[0])
        if part[0] in ("f", "c", "big"):
            found.add(f"{part[0]}:{part[1]}")
        if part[0] == "f" and part[1] in ("log", "lg") and len(part[2]) == 1:
            found.add("bare log")
    return frozenset(found)


def choose_sign(node: Node, sign: int) -> Node:
    """Return the tree with every plus-minus replaced by the sign, every minus-plus by the other."""

    def change(part: Node) -> Node:
        if part[0] not in ("pm", "mp"):
            return part
        return part[1] if (sign > 0) == (part[0] == "pm") else ("-", part[1])

    return rebuild(node, change)


def read_log(node: Node, base: str) -> Node:
    """Return the tree with every logarithm without a base read as natural or decimal."""

    def change(part: Node) -> Node:
        if part[0] == "f" and part[1] in ("log", "lg") and len(part[2]) == 1:
            return ("f", "ln", part[2]) if base == "e" else ("f", "log", (*part[2], ("n", 10, 1)))
        return part

    return rebuild(node, change)


def rename(node: Node) -> Node:
    """Return the tree with every symbol replaced by a fresh one: the same function elsewhere."""
    return rebuild(node, lambda part: ("s", part[1] + "~") if part[0] == "s" else part)


def minus(left: Node, right: Node) -> Node:
    """Return left - right."""
    return left if right == ZERO else ("+", (left, ("-", right)))
