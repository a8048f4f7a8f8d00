"""Calls of one trace as one training sequence, exactly as if each call were trained alone.

The calls of a trajectory share their contexts: the planner of a stage continues what the planner before it wrote,
and the executors of a stage branch off its plan. Laid out as a prefix tree every shared token is computed once; a
tree mask lets a token see its own ancestors only, and its position is its depth. So each completion is predicted
from the very tokens and positions the loop will send, and no execution sees its siblings. On Countdown this needs
about a third of the tokens that one sequence a call would need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100  # label of a token that is not trained
_EVEN = 1600  # tokens of a tree whose attention costs as much as all the rest of the model


@dataclass(frozen=True)
class Tree:
    """A prefix tree in depth-first order; all lists have one entry a token.

    `weights` are the loss weights (0: context), `positions` the depths and `last` the index at which the token's
    subtree ends, inclusive: token t sees token i if i <= t <= last[i]. A token with a weight directly follows its
    parent, so that the usual shift by one predicts it from the right place.
    """

    tokens: list[int]
    weights: list[float]
    positions: list[int]
    last: list[int]

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return sum(weight > 0 for weight in self.weights)

    @property
    def is_chain(self) -> bool:
        return all(end == len(self.tokens) - 1 for end in self.last)


@dataclass
class _Node:
    token: int
    weight: float
    kids: list[_Node]

    def kid(self, token: int) -> _Node:
        for kid in self.kids:
            if kid.token == token:
                return kid
        self.kids.append(_Node(token, 0.0, []))
        return self.kids[-1]


def lay_out(
    paths: Sequence[tuple[Sequence[int], Sequence[float]]], joined: Callable[[float, float], float] = max
) -> Tree:
    """Lay out (token ids, loss weights) of several calls as one tree; `joined` is the weight of a shared token."""
    root = _Node(-1, 0.0, [])
    for tokens, weights in paths:
        node = root
        for token, weight in zip(tokens, weights, strict=True):
            node = node.kid(token)
            node.weight = joined(node.weight, weight)
    return _in_order(root)


def grouped(
    paths: Sequence[tuple[Sequence[int], Sequence[float]]],
) -> list[list[tuple[Sequence[int], Sequence[float]]]]:
    """The same paths in groups, each to be laid out as one tree, so that all of them cost little to compute.

    A tree of n tokens is reckoned as n + n**2 / 1600: attention under a tree's mask costs as much as all the rest at
    1,600 tokens (measured on two cores). A path joins its neighbour's tree if it is cheaper there than alone.
    """

    def cost(tokens: int) -> float:
        return tokens + tokens * tokens / _EVEN

    groups: list[list[tuple[Sequence[int], Sequence[float]]]] = []
    size, before = 0, list[int]()
    for path in sorted(paths, key=lambda path: list(path[0])):  # neighbours share most
        ids = list(path[0])
        shortest = min(len(before), len(ids))
        new = len(ids) - next((k for k in range(shortest) if before[k] != ids[k]), shortest)
        if groups and cost(size + new) - cost(size) < cost(len(ids)):
            groups[-1].append(path)
            size += new
        else:
            groups.append([path])
            size = len(ids)
        before = ids
    return groups


def _in_order(root: _Node) -> Tree:
    tree = Tree([], [], [], [])
    open_: list[int] = []  # indices of the ancestors of what comes next
    stack = [(kid, 0) for kid in reversed(root.kids)]
    while stack:
        node, depth = stack.pop()
        while len(open_) > depth:
            tree.last[open_.pop()] = len(tree.tokens) - 1
        trained = [kid for kid in node.kids if kid.weight]
        # A second trained continuation needs a parent of its own to be predicted from.
        copies = [_Node(node.token, 0.0, [kid]) for kid in trained[1:]]
        open_.append(len(tree.tokens))
        tree.tokens.append(node.token)
        tree.weights.append(node.weight)
        tree.positions.append(depth)
        tree.last.append(-1)
        stack += [(copy, depth) for copy in reversed(copies)]
        others = [kid for kid in node.kids if not kid.weight]
        stack += [(kid, depth + 1) for kid in reversed(trained[:1] + others)]
    for index in open_:
        tree.last[index] = len(tree.tokens) - 1
    return tree


def collate(trees: Sequence[Tree], width: int, pad: int) -> dict[str, torch.Tensor]:
    """Pad trees on the right to [rows, width] tensors for a causal language model.

    Returns input_ids, labels, weights, position_ids and, unless all trees are chains, attention_mask
    [rows, 1, width, width] (True: may be seen).
    """
    import torch

    rows = len(trees)
    ids = torch.full((rows, width), pad)
    weights = torch.zeros(rows, width)
    positions = torch.arange(width).repeat(rows, 1)
    last = torch.arange(width).repeat(rows, 1)  # padding sees itself: a row that sees nothing is not a number
    for row, tree in enumerate(trees):
        n = len(tree.tokens)
        ids[row, :n] = torch.tensor(tree.tokens)
        weights[row, :n] = torch.tensor(tree.weights)
        positions[row, :n] = torch.tensor(tree.positions)
        last[row, :n] = torch.tensor(tree.last)
    batch = {
        "input_ids": ids,
        "labels": torch.where(weights > 0, ids, IGNORED),
        "weights": weights,
        "position_ids": positions,
    }
    if not all(tree.is_chain for tree in trees):
        index = torch.arange(width)
        seen = (index[None, :, None] >= index[None, None, :]) & (index[None, :, None] <= last[:, None, :])
        batch["attention_mask"] = seen[:, None]
    return batch
