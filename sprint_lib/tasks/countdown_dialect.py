r"""Countdown in the language of its base model, for methods that ask for a list, a next step or a judgement.

The base was trained on the solver's searches and on questions with a line `Try k m` (list k first moves, search m
second moves of each). So everything that is asked is the beginning of such a search, and the model goes on from there:

    what                          what the model is given                     what is read
    next steps of four numbers    the question with `Try 8 0`                 `Try 3 + 4`, ` = 7`, `Left 5 7 7`
    next steps of three           the question, a first move and its result   ` 5 + 7 = 12 ; ...`
    how good three numbers are    the same with `Try 2 4`: four second moves  a hit: sure; there are fewer: impossible
    how good two numbers are      the same, a second move and what is left    `... yes`: sure, `... no`: impossible
    the answer                    the same                                    `Solved ... ; ... ; 12 + 12 = 24`

Steps are kept only if they are legal moves whose result and numbers left are right: arithmetic needs no reference. It
lists eight first moves or nine, never more (it never saw more in training), in one fixed order; so a problem whose
solutions all begin with a later one cannot be solved this way. There are no words in the language for a router ("is the
answer a list?"), for one point's place among others, or for making one thought of several.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sprint_lib.tasks import Problem
from sprint_lib.tasks.countdown import MAX_VALUE, Move, State, Tries, moves, question
from sprint_lib.tasks.dialects import Ask, Thought

MOST = 8  # first moves that the base was asked for at most
SEARCHED = 4  # second moves that are looked at to judge a state of three numbers
_END = ("Try", "Answer")  # what follows the search of one first move
_TRIED = re.compile(r"Try (\d+ [-+*/] \d+)\n = (\d+)\nLeft ((?:\d+ ){3})->")
_LINE = re.compile(r"^ (\d+ [-+*/] \d+ = \d+) ;.* (yes|no)$", re.MULTILINE)
_LAST = re.compile(r"^Solved [^\n]*; (\d+ [-+*/] \d+ = \d+)$", re.MULTILINE)


class CountdownDialect:
    """See `tasks.dialects.Dialect`. A step is a move, as `3 + 4 = 7`."""

    depth = 2  # four numbers to two; the last move is the answer

    def sequential(self, problem: Problem) -> Ask:
        return Ask(problem.question)

    def route(self, problem: Problem) -> Ask | None:
        return None

    def routed(self, reply: str) -> str:
        return ""

    def skeleton(self, problem: Problem, count: int) -> Ask:
        return Ask(_question(problem, (max(2, min(count, MOST)), 0)), ("Answer",))

    def points(self, problem: Problem, reply: str) -> list[str]:
        legal = {(move.task, move.result, move.left): str(move) for move in moves(_numbers(problem))}
        found = ((task, int(result), _state(left)) for task, result, left in _TRIED.findall(reply))
        return list(dict.fromkeys(legal[key] for key in found if key in legal))

    def point(self, problem: Problem, points: Sequence[str], place: int) -> Ask:
        return Ask(_question(problem) + _search(problem, (points[place],)), _END)

    def joined(self, problem: Problem, points: Sequence[str], replies: Sequence[str]) -> str:
        """The searches in order, and the answer: the first hit, its moves as they were written one after the other."""
        pairs = list(zip(points, replies, strict=True))
        text = "".join(_search(problem, (point,)) + reply for point, reply in pairs)
        hits = ((point, *_hit(reply)) for point, reply in pairs if _hit(reply))
        answer = next((" ; ".join(chain) for chain in hits), "none")
        return f"{text}Answer {answer}\n"

    def propose(self, problem: Problem, thought: Thought, count: int) -> Ask:
        if not thought:
            return self.skeleton(problem, count)
        return Ask(_question(problem) + _search(problem, thought), (*_END, "Solved", "None"))

    def proposals(self, problem: Problem, thought: Thought, reply: str) -> list[Thought]:
        if not thought:
            return [(point,) for point in self.points(problem, reply)]
        legal = {str(move) for move in moves(_left(problem, thought))}
        return [(*thought, step) for step in dict.fromkeys(step for step, _ in _LINE.findall(reply)) if step in legal]

    def value(self, problem: Problem, thought: Thought) -> Ask:
        if len(thought) == 2:
            return Ask(_question(problem) + _search(problem, thought), ("\n",))
        return Ask(_question(problem, (2, SEARCHED)) + _search(problem, thought), (*_END, "Solved", "None"))

    def valued(self, problem: Problem, thought: Thought, reply: str) -> str:
        if len(thought) == 2:
            return {"yes": "sure", "no": "impossible"}.get(reply.rpartition(" ")[2], "")
        verdicts = [verdict for _, verdict in _LINE.findall(reply)]
        if "yes" in verdicts:
            return "sure"
        return "likely" if len(verdicts) >= SEARCHED else "impossible" if verdicts else ""

    def answer(self, problem: Problem, thought: Thought) -> Ask | None:
        if len(thought) < self.depth:
            return None
        return Ask(_question(problem) + _search(problem, thought), (*_END, "None", " no\n"))

    def answered(self, thought: Thought, reply: str) -> str:
        last = _LAST.search(reply)
        return f"Answer {' ; '.join((*thought, last[1]))}\n" if last else ""

    def same(self, problem: Problem, thought: Thought) -> str:
        return " ".join(map(str, _left(problem, thought)))

    def merge(self, problem: Problem, thoughts: Sequence[Thought]) -> Ask | None:
        return None

    def merged(self, reply: str) -> Thought | None:
        return None


def _numbers(problem: Problem) -> State:
    return tuple(problem.meta["numbers"])


def _question(problem: Problem, tries: Tries = ()) -> str:
    return question(problem.meta["numbers"], problem.meta["target"], tries)


def _path(problem: Problem, thought: Thought) -> list[Move]:
    """The moves of a thought, which are legal."""
    state, path = _numbers(problem), []
    for step in thought:
        path.append(next(move for move in moves(state, MAX_VALUE) if str(move) == step))
        state = path[-1].left
    return path


def _left(problem: Problem, thought: Thought) -> State:
    return _path(problem, thought)[-1].left if thought else _numbers(problem)


def _search(problem: Problem, thought: Thought) -> str:
    """The search of a first move up to where its second moves begin, or with a second move what the pair gives."""
    first, *rest = _path(problem, thought)
    left = " ".join(map(str, first.left))
    opened = f"Try {first.task}\n = {first.result}\nLeft {left} -> {problem.meta['target']}\n"
    return opened + "".join(f" {move} ; {' '.join(map(str, move.left))} =" for move in rest)


def _hit(reply: str) -> tuple[str, ...]:
    """The second and the last move of a search that says it has hit; () if it has not."""
    second = next((step for step, verdict in _LINE.findall(reply) if verdict == "yes"), None)
    last = _LAST.search(reply)
    return (second, last[1]) if second and last else ()


def _state(text: str) -> State:
    return tuple(map(int, text.split()))
