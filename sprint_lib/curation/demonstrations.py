"""Demonstrations of search by a symbolic solver, for the models of SoS, SoS+ and APR (arXiv 2504.15466).

The solver keeps `beam` moves of four numbers, of each of them `child_beam` moves of the three numbers left, and checks
each pair that comes of these in one line. One search is written in three ways:

    SoS   one text: depth first, or breadth first (all kept moves are named before the first one is followed)
    SoS+  one text that may change between the two, after a line with its length in bins: `Budget 3`
    APR   the parent names the kept moves in a spawn block, after a line with their number: `Threads 6`; a child
          follows each of them at once, and the parent is shown what came of it in one line a child

    Numbers: 3 4 5 7            the parent          Numbers: 3 4 5 7            one of its children
    Target: 24                                      Target: 24
    Threads 2                                       <child>
    <spawn>                                         Try 3 * 4
    Try 3 + 4                                        = 12
    Try 3 * 4                                       Left 5 7 12 -> 24
    </spawn>                                         5 + 7 = 12 ; 12 12 = 24 0 1 -> 24 yes
                                                    Solved 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24
    Numbers: 3 4 5 7            the parent, after the join
    Target: 24
    Threads 2
    Try 3 + 4
    None
    Try 3 * 4
    Solved 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24
    Answer 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24

All other words are those of the base model's traces. Where ours differs from the paper:

- Numbers up to 12, where a model of this size does not learn the paper's 99.
- Moves are taken in the order that the base model knows, not the best by the paper's heuristic in random order: a
  parent that names moves without working them out has nothing to rank them by, and taught to skip what the heuristic
  drops, the small model repeated itself in two messages of five (after a quarter of the training). Little is lost: the
  ten best of about seventeen first moves hold a solution hardly more often than ten drawn at random. With `heuristic`
  beams are as in the paper, their moves in order.
- A search whose beam holds no solution goes on with the next moves until all first ones are tried; the paper's gives
  up, which on these problems one search in four would do with the widest beam.
- All look at all of the twelve moves that three numbers have at most, within the paper's fifteen for APR. Pairs are
  checked by whoever has three numbers, so that only the root spawns, and also where it keeps one move only.
- SoS+ names a move of a breadth-first round once more where it follows it. Without that, and with APR's beams, the
  small model lost its place in the list: right on 40 % of 60 problems instead of 71 % of 100. SoS does without.
- `Threads` counts the children of one spawn. Not all children are trained (`CHILD_SHARE`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from sprint_lib.calls import Call, Wait
from sprint_lib.curation.samples import Sample
from sprint_lib.methods import apr, sos
from sprint_lib.tasks import Problem
from sprint_lib.tasks.countdown import Move, State, chain_text, check, finishing_move, moves

KINDS = ("sos", "sos_plus", "apr")
BEAM = {"sos": (1, 5), "sos_plus": (1, 5), "apr": (1, 10)}
MOST_CHILD_BEAM = 15
SPAWN_SHARE = 0.9  # of the searches by APR; in the others the parent does all by itself
CHILD_SHARE = 0.3  # of APR's children are trained: they write what the base model knows already, a parent does not
WORDS = {
    "sos": (),
    "sos_plus": (sos.BUDGET,),
    "apr": (apr.THREADS, apr.SPAWN, apr.SPAWN_END, apr.CHILD),
}  # that the base model lacks

Count = Callable[[str], int]  # tokens of a text


# --- the search ---------------------------------------------------------------------------


@cache
def _factors(target: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, target + 1) if target % d == 0)


def distance(state: State, target: int) -> int:
    """The paper's heuristic: the sum over a state's numbers of the distance to the nearest factor of the target."""
    return sum(min(abs(number - factor) for factor in _factors(target)) for number in state)


def ranked(state: State, target: int, rng: random.Random) -> list[Move]:
    """All moves of a state, those of the nearest states first; which of equally near ones comes first is drawn."""
    found = moves(state)
    rng.shuffle(found)
    return sorted(found, key=lambda move: distance(move.left, target))


@dataclass(frozen=True)
class Node:
    """A first move and what follows from it: the second moves looked at, up to the one that led to the goal."""

    move: Move
    seconds: tuple[Move, ...]
    path: tuple[Move, ...] = ()  # from the root to the goal, if it was reached


def _in_order(state: State, kept: Sequence[Move]) -> list[Move]:
    return [move for move in moves(state) if move in kept]


def follow(move: Move, target: int, seconds_in: Sequence[Move]) -> Node:
    """Search what a first move leaves, its second moves as given, to the first success."""
    seconds: list[Move] = []
    for second in _in_order(move.left, seconds_in):
        seconds.append(second)
        if last := finishing_move(second.left, target):
            return Node(move, tuple(seconds), (move, second, last))
    return Node(move, tuple(seconds))


def rounds(
    state: State, target: int, beam: int, child_beam: int, rank: Callable[[State], Sequence[Move]]
) -> Iterator[list[Node]]:
    """The first moves, `beam` at a time, as `rank` has them, each followed; ends with the round that has a success."""
    first = rank(state)
    for at in range(0, len(first), beam):
        kept = _in_order(state, first[at : at + beam])
        nodes = [follow(move, target, rank(move.left)[:child_beam]) for move in kept]
        yield nodes
        if any(node.path for node in nodes):
            return


# --- as text ------------------------------------------------------------------------------


def _opening(node: Node) -> str:
    return f"Try {node.move.task}\n = {node.move.result}\n"


def _body(node: Node, target: int) -> str:
    lines = [f"Left {' '.join(map(str, node.move.left))} -> {target}\n"]
    lines += [f" {second} ; {check(second.left, target)}" for second in node.seconds]
    lines.append(f"Solved {chain_text(node.path)}\n" if node.path else "None\n")
    return "".join(lines)


def _answer(path: Sequence[Move]) -> str:
    return f"Answer {chain_text(path) or 'none'}\n"


def serial_text(
    searched: Sequence[Sequence[Node]], target: int, depth_first: Callable[[], bool], *, again: bool = False
) -> str:
    """One thread's search of all rounds, to the first success; `depth_first` is asked once a round.

    Breadth first, all moves of a round are named before the first is followed; `again`: each once more when it is.
    """
    out: list[str] = []
    for nodes in searched:
        deep = depth_first()
        out += [] if deep else [_opening(node) for node in nodes]
        for node in nodes:
            out += [_opening(node)] if deep or again else []
            out.append(_body(node, target))
            if node.path:
                return "".join([*out, _answer(node.path)])
    return "".join([*out, _answer(())])


# --- demonstrations -----------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstration:
    """One search of one problem. `samples` are what it trains, a parent's snapshots in order and each child."""

    problem: str
    kind: str
    beam: int
    rounds: int
    threads: int  # children in all
    answer: str  # "" if the search failed
    samples: tuple[Sample, ...]

    def trained(self) -> list[Sample]:
        """What of it is trained: every text of a parent and a share of the children, drawn by their names."""
        return [s for s in self.samples if s.role == "parent" or random.Random(s.trace).random() < CHILD_SHARE]


def demonstrate(problem: Problem, kind: str, number: int, count: Count, *, heuristic: bool = False) -> Demonstration:
    """The solver's demonstration number `number` of a Countdown problem, the same each time.

    With `heuristic` beams take the best moves by it, without in the order that the base model knows.

    Raises:
        ValueError: on an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no demonstrations {kind!r}; there are: {', '.join(KINDS)}")
    rng = random.Random(f"{kind} {problem.id} {number}")
    state, target = tuple(problem.meta["numbers"]), problem.meta["target"]
    beam = rng.randint(*BEAM[kind])
    narrow = beam if kind == "sos" or not heuristic else rng.randint(beam, MOST_CHILD_BEAM)
    child_beam = narrow if heuristic else MOST_CHILD_BEAM
    rank = (lambda left: ranked(left, target, rng)) if heuristic else moves
    searched = list(rounds(state, target, beam, child_beam, rank))
    name = f"{kind} {problem.id} {number}"
    spawns = kind == "apr" and rng.random() < SPAWN_SHARE
    if spawns:
        samples = list(_threads(problem.question, target, searched, beam, name))
    else:
        one = kind == "apr" or rng.random() < 0.5
        plus = kind == "sos_plus"
        text = serial_text(searched, target, (lambda: rng.random() < 0.5) if plus else (lambda: one), again=plus)
        samples = [Sample(problem.question, _condition(kind, text, count) + text, "parent", name, ends=True)]
    solved = [node.path for node in searched[-1] if node.path]
    # A single thread ends at its first success, a parent takes the last that it is shown, as the base model does.
    answer = chain_text(solved[-1 if spawns else 0]) if solved else ""
    threads = sum(map(len, searched)) if spawns else 0
    return Demonstration(problem.id, kind, beam, len(searched), threads, answer, tuple(samples))


def calls_of(demonstration: Demonstration, count: Count) -> tuple[Call, ...]:
    """The calls that would write a demonstration, in the graph that APR's method makes; prompts count as not cached."""
    found: list[Call] = []
    turn, ends = 0, list[int]()  # after which of the parent's tokens each message of its spawn block ends
    for sample in demonstration.samples:
        here = [call.id for call in found if call.stage == turn]  # the parent's call of this turn, then its children
        if sample.role == "parent":
            turn += 1
            call = Call(f"P{turn}", "parent", turn, waits=tuple(map(Wait, here)))
            head, spawn, block = sample.completion.partition(apr.SPAWN)
            lines = block.splitlines(keepends=True)
            ends = [count(head + spawn + "".join(lines[:k])) for k in range(1, len(lines) + 1)]
        else:
            waits = (Wait(f"P{turn}", ends[len(here) - 1]),)
            call = Call(f"P{turn}/C{len(here)}", "child", turn, len(here), waits)
        tokens = count(sample.completion + sample.stop) + sample.ends
        found.append(replace(call, prompt_tokens=count(sample.context), completion_tokens=tokens))
    return tuple(found)


def _condition(kind: str, text: str, count: Count) -> str:
    """The line before a single thread's search; SoS has none."""
    if kind == "sos_plus":
        return sos.condition(count(text))
    return apr.condition(0) if kind == "apr" else ""


def _threads(question: str, target: int, searched: Sequence[Sequence[Node]], beam: int, name: str) -> Iterator[Sample]:
    """The parent's snapshots, each followed by its children. What was joined is context, so never trained."""
    context, before = question, apr.condition(beam)
    for turn, nodes in enumerate(searched, 1):
        messages = [f"Try {node.move.task}" for node in nodes]
        spawn = apr.SPAWN + "".join(f"{message}\n" for message in messages)
        yield Sample(context, before + spawn, "parent", f"{name} parent", apr.SPAWN_END)
        bodies = [_body(node, target) for node in nodes]
        for index, (message, node, body) in enumerate(zip(messages, nodes, bodies, strict=True), 1):
            text = f" = {node.move.result}\n{body}"
            trace = f"{name} child {turn}.{index}"
            yield Sample(apr.child_context(question, message), text, "child", trace, ends=True)
        context += before + apr.join_lines(messages, (body.splitlines()[-1] for body in bodies))
        before = ""
    paths = [node.path for node in searched[-1] if node.path]
    yield Sample(context, _answer(paths[-1] if paths else ()), "parent", f"{name} parent", ends=True)


def corpus(
    problems: Sequence[Problem], kind: str, tokens: int, count: Count, most: int = 3000, *, heuristic: bool = False
) -> list[Demonstration]:
    """Demonstrations of all problems in turn, again and again with other draws, until `tokens` can be trained.

    Whole passes over the problems, so that none is shown more often. Demonstrations with a sequence of more than
    `most` tokens are left out.

    Raises:
        ValueError: if no demonstration is that short, or there are no problems.
    """
    found: list[Demonstration] = []
    number = 0
    while tokens > 0:
        fitting = len(found)
        for problem in problems:
            one = demonstrate(problem, kind, number, count, heuristic=heuristic)
            if max(count(s.context + s.completion) for s in one.samples) <= most:
                found.append(one)
                tokens -= sum(count(s.completion) for s in one.trained())
        if len(found) == fitting:
            raise ValueError(
                f"{kind}: no demonstration of at most {most} tokens a sequence; raise it, or give problems"
            )
        number += 1
    return found
