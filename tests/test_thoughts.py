"""Skeletons, trees and graphs of thoughts: costs worked out by hand, both dialects, and whatever a model may write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
from scripted import ScriptedEngine, Until
from test_methods import PROBLEM, Exact

from sprint_lib import models, prompts
from sprint_lib.accounting import costs, critical_path
from sprint_lib.calls import STATUSES, Attempt, Call, in_order
from sprint_lib.engines import Engine, EngineError, EngineSpec, Request, as_chat, open_engine
from sprint_lib.evaluation.runs import RunSpec, run_key
from sprint_lib.methods import get_method
from sprint_lib.methods.tree_of_thoughts import ANY
from sprint_lib.tasks import Problem, Task, get_task
from sprint_lib.tasks.countdown import Countdown, problem, search_trace
from sprint_lib.tasks.countdown_dialect import CountdownDialect
from sprint_lib.tasks.dialects import Dialect, Instruct, get_dialect

THOUGHTFUL = ("skeleton_of_thought", "tree_of_thoughts", "graph_of_thoughts")
SYSTEM = (
    "## route\nR {question}\n## skeleton\nK {count}\n## point\nE {number} {point}\n## sequential\nS\n"
    "## propose\nP {list}\n## value\nV {list}\n## answer\nA {list}\n## merge\nM {list}\n## task\nBe exact.\n"
)
Replies = dict[str, Any]


def scripted(replies: Replies) -> ScriptedEngine:
    """Replies by the first line of what is asked, or by how it begins."""

    def reply(request: Request) -> Any:
        said = request.prompt.split("\n\n")[0]
        found = next((text for key, text in replies.items() if said == key), None)
        return found if found is not None else next(text for key, text in replies.items() if said.startswith(key))

    return ScriptedEngine(reply)


def solve(method: str, engine: Engine, task: Task | None = None, one: Problem = PROBLEM, **settings: Any) -> Attempt:
    chosen = get_method(method)
    attempt = asyncio.run(chosen.solve(one, task or Exact(), engine, chosen.settings.from_dict(settings)))
    assert Attempt.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt
    in_order(attempt.calls)
    return attempt


def waits(attempt: Attempt) -> dict[str, list[str]]:
    return {call.id: sorted(wait.call for wait in call.waits) for call in attempt.calls}


def tokens(attempt: Attempt) -> dict[str, int]:
    return {call.id: call.completion_tokens for call in attempt.calls}


# --- Skeleton-of-Thought ----------------------------------------------------------------

SKELETON = {
    "R": "A",  # 1 token
    "K": " one way\n2. other way\n",  # one, way, line, 2., other, way, line: 7
    "E 1": " nothing here\n",  # 3
    "E 2": " then we see Answer 5\n",  # 6
    "S": "so Answer 5\n",  # 4
}


def test_a_skeleton_costs_its_longest_point() -> None:
    attempt = solve("skeleton_of_thought", engine := scripted(SKELETON), system=SYSTEM)
    found = costs(attempt)
    assert (found["sequential"], found["total"], found["calls"], found["stages"]) == (1 + 7 + 6, 1 + 7 + 3 + 6, 4, 1)
    assert waits(attempt) == {"R1": [], "K1": ["R1"], "E1": ["K1"], "E2": ["K1"]}
    assert [segment.role for segment in critical_path(attempt)] == ["router", "skeleton", "point"]
    assert (attempt.status, attempt.answer) == ("ok", "5")
    assert attempt.text == "1. one way nothing here\n\n2. other way then we see Answer 5\n"
    asked = [request.prompt for _, request in engine.requests]
    assert asked[1:] == ["K 10\n\n1.", "E 1 one way\n\n1. one way", "E 2 other way\n\n2. other way"]
    assert len({request.seed for _, request in engine.requests}) == 4


@pytest.mark.parametrize("said", ["B", "C. There is none.", "A list would not help: C", "", "I cannot say", "D"])
def test_what_the_router_does_not_call_a_list_is_solved_in_one_piece(said: str) -> None:
    attempt = solve("skeleton_of_thought", scripted({**SKELETON, "R": said}), system=SYSTEM)
    router = tokens(attempt)["R1"]
    assert waits(attempt) == {"R1": [], "S1": ["R1"]}
    assert costs(attempt)["sequential"] == router + 4
    assert (attempt.answer, attempt.text) == ("5", SKELETON["S"])


def test_without_a_router_and_with_fewer_points() -> None:
    attempt = solve("skeleton_of_thought", scripted(SKELETON), system=SYSTEM, router=False, points=1)
    assert waits(attempt) == {"K1": [], "E1": ["K1"]}
    assert attempt.status == "refused"  # the first point alone holds no answer


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"K": "\n\n"}, "refused"),
        ({"K": " I would rather not make a list"}, "ok"),  # the first item of a list: the reply begins with 1.
        ({"K": "\nwell " * 30}, "truncated"),
        ({"E 1": "so " * 30, "E 2": " nothing\n"}, "truncated"),
        ({"E 1": "so " * 30}, "ok"),
        ({"K": EngineError("gone")}, "engine_error"),
        ({"R": EngineError("gone")}, "engine_error"),
        ({"E 1": EngineError("gone")}, "engine_error"),
    ],
)
def test_ends_of_a_skeleton(changed: Replies, status: str) -> None:
    replies = {**SKELETON, "E 1": " Answer 6\n", **changed}
    attempt = solve("skeleton_of_thought", scripted(replies), system=SYSTEM, max_tokens=20)
    assert attempt.status == status
    assert ("gone" in attempt.note) == (status == "engine_error")


# --- Tree-of-Thoughts and Graph-of-Thoughts ---------------------------------------------

TREE = {
    "P (none yet)": " left\n2. right\n",  # left, line, 2., right, line: 5
    "V 1. left": "likely",  # 1
    "V 1. right": "I am sure",  # 3
    "V 1. left\n2. down down down": "impossible",  # 1
    "V 1. right\n2. up": "I am sure",  # 3
    "P 1. right": " up\n",  # 2
    "P 1. left": " down down down\n",  # 4
    "A 1. right": "Answer 5\n",  # 3
    "A 1. left": "Answer 6\n",  # 3
}
SMALL = {"system": SYSTEM, "depth": 2, "breadth": 2, "values": 2}


def test_a_tree_costs_the_slowest_proposal_with_its_judgements() -> None:
    attempt = solve("tree_of_thoughts", engine := scripted(TREE), **SMALL)
    # 5 + 3; then the longer of 2 + 3 (right, up) and 4 + 1 (left, down); 3 for the answer
    assert costs(attempt)["sequential"] == 5 + 3 + 5 + 3
    # proposals 5 + 2 + 4, judgements 2 * (1 + 3) + 2 * (1 + 3), answer 3
    assert costs(attempt)["total"] == 11 + 16 + 3
    assert costs(attempt)["calls"] == 1 + 4 + 2 + 4 + 1
    graph = waits(attempt)
    judged = ["V1.0.1~1", "V1.0.1~2", "V1.0.2~1", "V1.0.2~2"]
    assert graph["P1.0"] == []
    assert graph["V1.0.2~1"] == ["P1.0"]
    assert graph["P2.0.1"] == graph["P2.0.2"] == ["P1.0", *judged]
    assert graph["V2.0.1.1~1"] == ["P2.0.1"]
    assert graph["V2.0.2.1~2"] == ["P2.0.2"]
    assert {"P2.0.1", "V2.0.1.1~2", "V2.0.2.1~1"} < set(graph["A1"])
    assert (attempt.status, attempt.answer, attempt.text) == ("ok", "5", "right\nup\nAnswer 5\n")
    assert len({request.seed for _, request in engine.requests}) == 12


def test_the_best_thoughts_are_kept_and_the_best_one_answers() -> None:
    narrow = solve("tree_of_thoughts", scripted(TREE), **{**SMALL, "breadth": 1})
    assert [call.id for call in narrow.calls if call.role == "proposer"] == ["P1.0", "P2.0.2"]
    turned = {**TREE, "V 1. left": "sure, yes sure", "V 1. right": "impossible", "V 1. left\n2. down down down": "sure"}
    turned["V 1. right\n2. up"] = "likely"
    attempt = solve("tree_of_thoughts", scripted(turned), **SMALL)
    assert (attempt.answer, attempt.correct, attempt.note) == ("6", False, "another number")
    bound = solve("tree_of_thoughts", scripted(turned), **SMALL, answers="any")
    assert (bound.answer, bound.correct, bound.note) == ("5", True, ANY)
    assert costs(bound)["calls"] == costs(attempt)["calls"] + 1


def test_a_graph_ends_its_levels_with_one_thought_of_all() -> None:
    replies = {
        "V 1. both ways": "sure",
        "P 1. both ways": " up\n",
        "M 1. right\n2. left": "both ways\n",  # 3 tokens
        **TREE,
        "A 1. both": "Answer 7\n",
    }
    attempt = solve("graph_of_thoughts", scripted(replies), **{**SMALL, "breadth": 3})
    graph = waits(attempt)
    assert {"V1.0.1~1", "V1.0.2~2"} < set(graph["M1"])
    assert "M1" in graph["P2.M1"]
    assert "M1" in graph["P2.0.1"]
    assert [call.role for call in attempt.calls].count("aggregator") == 1
    # 5 + 3 + 3 for making one of both; all proposals of the level, the slowest 4, before 3 for a judgement; 3
    assert costs(attempt)["sequential"] == 5 + 3 + 3 + 4 + 3 + 3


def test_where_nothing_more_is_proposed_the_best_thought_until_then_answers() -> None:
    attempt = solve("tree_of_thoughts", scripted({**TREE, "P 1. right": "\n", "P 1. left": ""}), **SMALL)
    assert waits(attempt)["A1"] == ["P2.0.1", "P2.0.2"]  # it was waited for whether they bring anything
    assert attempt.text == "right\nAnswer 5\n"


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"P (none yet)": "\n \n"}, "refused"),
        ({"P (none yet)": "\n" * 30}, "truncated"),
        ({"P 1. right": "\n", "P 1. left": ""}, "ok"),
        ({"V 1. right": "", "V 1. left": "perhaps"}, "ok"),
        ({"A 1. right": "so"}, "refused"),
        ({"A 1. right": "so " * 30}, "truncated"),
        ({"P (none yet)": EngineError("gone")}, "engine_error"),
        ({"V 1. left": EngineError("gone")}, "engine_error"),
        ({"A 1. right": EngineError("gone")}, "engine_error"),
    ],
)
@pytest.mark.parametrize("method", ["tree_of_thoughts", "graph_of_thoughts"])
def test_ends_of_a_search(method: str, changed: Replies, status: str) -> None:
    replies = {**TREE, "M": "", **changed}
    attempt = solve(method, scripted(replies), **SMALL, max_tokens=20)
    assert attempt.status == status
    assert ("gone" in attempt.note) == (status == "engine_error")


@pytest.mark.parametrize("wrong", [{"breadth": 0}, {"values": 0}, {"depth": 0}, {"proposals": 0}, {"answers": "best"}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    for method in ("tree_of_thoughts", "graph_of_thoughts"):
        with pytest.raises(ValueError, match=r"must be at least 1|no answers 'best'"):
            get_method(method).settings.from_dict(wrong)
    with pytest.raises(ValueError, match="points is 0"):
        get_method("skeleton_of_thought").settings.from_dict({"points": 0})


# --- Countdown's own language -----------------------------------------------------------

MEETING = problem((2, 2, 5, 9), 18)  # 2 + 2 = 4 and 5 + 9 = 14 in either order leave 4 and 14


class Searcher:
    """An engine that goes on with the solver's search as the base model does, but knows two first moves only."""

    def __init__(self) -> None:
        self.scripted = ScriptedEngine(self.reply)

    def reply(self, request: Request) -> str:
        if request.prompt.endswith("Try 8 0\n"):
            return (
                "Try 2 + 2\n = 4\nLeft 4 5 9 -> 18\nNone\nTry 5 + 9\n = 14\nLeft 2 2 14 -> 18\nNone\n"
                "Try 2 * 2\n = 5\nLeft 5 5 9 -> 18\nNone\nTry 7 + 9\n = 16\nLeft 2 2 16 -> 18\nNone\nAnswer none\n"
            )
        if request.prompt.endswith(" ; 4 14 ="):
            return " 18 10 56 -> 18 yes\nSolved 2 + 2 = 4 ; 5 + 9 = 14 ; 4 + 14 = 18\nAnswer"
        step = "5 + 9 = 14" if "Try 2 + 2" in request.prompt else "2 + 2 = 4"
        return f" {step} ; 4 14 = 18 10 56 -> 18 yes\nSolved 2 + 2 = 4 ; 5 + 9 = 14 ; 4 + 14 = 18\nAnswer"


@pytest.mark.parametrize(("method", "proposers"), [("tree_of_thoughts", 1), ("graph_of_thoughts", 2)])
def test_branches_meet_in_a_graph_and_not_in_a_tree(method: str, proposers: int) -> None:
    settings = {"dialect": "countdown", "values": 1, "depth": 3}
    attempt = solve(method, Searcher().scripted, Countdown(), MEETING, **settings)
    assert attempt.correct
    assert attempt.status == "ok"
    judged = [call for call in attempt.calls if call.role == "evaluator" and call.stage == 2]
    assert len(judged) == 3 - proposers  # the two ways to 4 and 14 are one thought in the graph
    assert all(len(call.waits) == proposers for call in judged)
    assert "aggregator" not in {call.role for call in attempt.calls}
    first, found = tokens(attempt)["P1.0"], costs(attempt)
    # one line of a search and the `Solved` it stops at: 17; what a pair gives, up to the end of the line: 7; the same
    # and `Solved` with the chain, 18, the end of that line and the `Answer` it stops at: 27
    assert tokens(attempt)["P2.0.1"] == tokens(attempt)["V1.0.1~1"] == 17
    assert (tokens(attempt)["V2.0.1.1~1"], tokens(attempt)["A1"]) == (7, 27)
    assert found["sequential"] == first + 17 + 17 + 7 + 27


def test_only_moves_that_are_right_become_steps() -> None:
    dialect = CountdownDialect()
    reply = Searcher().reply(Request(dialect.skeleton(MEETING, 10).prompt, 10))
    assert dialect.points(MEETING, reply) == ["2 + 2 = 4", "5 + 9 = 14"]  # not 2 * 2 = 5, nor 7 + 9
    lines = " 2 + 2 = 4 ; 4 14 = 18 -> 18 no\n 2 + 2 = 5 ; 5 14 = 19 -> 18 no\n 14 - 2 = 12 ; 2 12 = 14 -> 18 no\n"
    assert dialect.proposals(MEETING, ("5 + 9 = 14",), lines * 2) == [
        ("5 + 9 = 14", "2 + 2 = 4"),
        ("5 + 9 = 14", "14 - 2 = 12"),
    ]


def test_the_dialect_asks_for_what_the_solver_would_write() -> None:
    """What is asked and the solver's continuation are one search trace, so the base goes on as it was trained."""
    dialect = CountdownDialect()
    numbers, target = MEETING.meta["numbers"], MEETING.meta["target"]
    listed = search_trace(numbers, target, (8, 0))
    points = dialect.points(MEETING, listed)
    assert len(points) == 8
    trace = search_trace(numbers, target, (2, 4))
    for point in points[:2]:
        given = dialect.value(MEETING, (point,)).prompt.removeprefix(MEETING.question + "Try 2 4\n")
        assert given in trace
    whole = search_trace(numbers, target)
    assert dialect.point(MEETING, points, 0).prompt.removeprefix(MEETING.question) in whole
    step = ("2 + 2 = 4", "4 + 5 = 9")
    assert dialect.answer(MEETING, step).prompt.removeprefix(MEETING.question) in whole  # type: ignore[union-attr]
    assert dialect.answer(MEETING, step[:1]) is None


@pytest.mark.parametrize(
    ("thought", "reply", "verdict"),
    [
        (("5 + 9 = 14",), " 2 + 2 = 4 ; 4 14 = 18 -> 18 yes\n", "sure"),
        (("5 + 9 = 14",), " 2 + 2 = 4 ; 4 14 = 17 -> 18 no\n" * 4, "likely"),
        (("5 + 9 = 14",), " 2 + 2 = 4 ; 4 14 = 17 -> 18 no\n" * 3, "impossible"),
        (("5 + 9 = 14",), "who knows", ""),
        (("5 + 9 = 14", "2 + 2 = 4"), " 4 14 = 18 -> 18 yes", "sure"),
        (("5 + 9 = 14", "2 + 2 = 4"), " 4 14 = 18 -> 18 no", "impossible"),
        (("5 + 9 = 14", "2 + 2 = 4"), " 4 14 = 18 10 56", ""),
    ],
)
def test_a_narrow_search_judges(thought: tuple[str, ...], reply: str, verdict: str) -> None:
    assert CountdownDialect().valued(MEETING, thought, reply) == verdict


def test_the_first_hit_among_the_points_is_the_answer() -> None:
    dialect, points = CountdownDialect(), ["2 + 2 = 4", "5 + 9 = 14"]
    hit = " 2 + 2 = 4 ; 4 14 = 18 10 56 -> 18 yes\nSolved 1 + 1 = 2 ; 2 + 2 = 4 ; 4 + 14 = 18\n"
    text = dialect.joined(MEETING, points, ["None\n", hit])
    assert text.endswith("Answer 5 + 9 = 14 ; 2 + 2 = 4 ; 4 + 14 = 18\n")
    assert Countdown().grade(MEETING, text).correct
    assert dialect.joined(MEETING, points, ["None\n", "yes\nSolved"]).endswith("Answer none\n")


# --- dialects ---------------------------------------------------------------------------


def test_a_dialect_that_is_not_there_is_refused() -> None:
    engine = scripted({})
    with pytest.raises(
        ValueError, match=r"no dialect 'countdwn' \(did you mean 'countdown'\?\); .*instruct, countdown"
    ):
        get_dialect("countdwn", "tree_of_thoughts", Countdown(), engine, "")
    with pytest.raises(ValueError, match="no dialect 'countdown'; there are for exact: instruct"):
        get_dialect("countdown", "tree_of_thoughts", Exact(), engine, "")
    with pytest.raises(ValueError, match="no part '## value'; there are: propose"):
        Instruct(engine, "## propose\nP\n").value(PROBLEM, ())


@pytest.mark.parametrize("method", THOUGHTFUL)
def test_shipped_prompts_have_every_part_and_no_place_left(method: str) -> None:
    task = get_task("countdown")
    for system in ("", prompts.read(prompts.SHIPPED, method, "countdown")):
        dialect = get_dialect("instruct", method, task, scripted({}), system)
        if method == "skeleton_of_thought":
            asks = [dialect.route(MEETING), dialect.sequential(MEETING), dialect.skeleton(MEETING, 10)]
            asks.append(dialect.point(MEETING, ["a", "b"], 1))
        else:
            asks = [dialect.propose(MEETING, (), 8), dialect.value(MEETING, ("a",)), dialect.answer(MEETING, ("a",))]
            asks += [dialect.merge(MEETING, [("a",), ("b",)])] if method == "graph_of_thoughts" else []
        for ask in asks:
            assert ask is not None
            assert "Numbers: 2 2 5 9" in ask.prompt
            assert not any(f"{{{place}}}" in ask.prompt for place in ("question", "task", "list", "count", "point"))


def test_a_question_cannot_fill_places_of_its_own() -> None:
    one = Problem("x", "What is {task}?\n", "5")
    assert Instruct(scripted({}), SYSTEM + "## route\n{question}\n").route(one).prompt == "What is {task}?\n\n"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (" a\n2. b\n\n3) c", ["a", "b", "c"]),
        (" a\n- b\n* c\n2. a\n", ["a", "b", "c"]),
        (" x" + "y" * 2000, ["x" + "y" * 999]),
        ("\n\n", []),
        ("", []),
    ],
)
def test_lists_are_read_as_people_write_them(text: str, items: list[str]) -> None:
    assert Instruct(scripted({}), SYSTEM).points(PROBLEM, text) == items


def test_prompts_of_ones_own_and_the_shipped_ones_are_in_a_runs_key(tmp_path: Path) -> None:
    spec = RunSpec("t", "tree_of_thoughts", engine=EngineSpec(kind="server", model="m", urls=("http://h/v1",)))

    def key(**settings: Any) -> dict[str, Any]:
        return run_key(RunSpec(**{**vars(spec), "settings": settings}))

    (tmp_path / "tree_of_thoughts.md").write_text("## propose\nP\n## value\nV\n## answer\nA\n")
    own = prompts.read(str(tmp_path), "tree_of_thoughts", "countdown")
    assert key(system=own) != key()
    assert own.startswith("## propose\nP")
    assert "## task\nYou are given four numbers" in own
    assert prompts.read(prompts.SHIPPED, "best_of_n", "gpqa") == prompts.read(prompts.SHIPPED, "sequential", "gpqa")
    assert [path.name for path in prompts.shipped("tree_of_thoughts", "gpqa")] == ["tree_of_thoughts.md", "gpqa.md"]


# --- chat templates ---------------------------------------------------------------------


class Speaking:
    """An engine that is nothing but the folder of its model."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)


def test_a_chat_template_is_put_around_a_message(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    shipped = models.path("countdown-base")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shipped)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|reply|>"
    tokenizer.save_pretrained(tmp_path)
    engine: Any = Speaking(tmp_path)
    assert as_chat(engine, "2 + 3", "1.") == "<|user|>2 + 3<|end|><|reply|>1."
    assert as_chat(engine, "2<|end|><|en<|end|>d|>3", "<|user|>1.") == "<|user|>23<|end|><|reply|>1."
    assert as_chat(Speaking(shipped), "2 + 3", "1.") == "2 + 3\n\n1."  # type: ignore[arg-type]
    assert as_chat(scripted({}), "2 + 3") == "2 + 3\n\n"


# --- whatever a model may write ---------------------------------------------------------

FRAGMENTS = (
    "Try 2 + 2\n = 4\n",
    "Left 4 5 9 -> 18\n",
    "None\n",
    " 5 + 9 = 14 ; 4 14 = 18 -> 18 yes\n",
    "Solved ",
    "1. ",
)
FRAGMENTS += (
    "Answer 5\n",
    "sure",
    "impossible",
    "A",
    "\n2. go on",
    "<|im_end|>",
    "{question}",
    "## value\n",
    "\\boxed{5}",
)
SAMPLES = (search_trace((2, 2, 5, 9), 18), search_trace((2, 2, 5, 9), 18, (8, 0)), "1. left\n2. right\nsure")


@pytest.mark.parametrize("method", THOUGHTFUL)
@pytest.mark.parametrize("dialect", ["instruct", "countdown"])
def test_whatever_is_written_ends_as_a_classified_attempt(method: str, dialect: str) -> None:
    texts: Iterator[str] = hostile.strings(4_000, 7, SAMPLES, FRAGMENTS)
    engine = ScriptedEngine(lambda _: next(texts)[:400])
    limits: dict[str, Any] = (
        {"points": 4} if method == "skeleton_of_thought" else {"breadth": 2, "values": 1, "depth": 2}
    )
    most = 7 if method == "skeleton_of_thought" else 2 * (2 * (1 + 8) + 1) + 1
    statuses = set()
    for _ in range(25):
        attempt = solve(method, engine, Countdown(), MEETING, dialect=dialect, max_tokens=60, **limits)
        assert attempt.status in set(STATUSES) - {"engine_error"}
        assert 1 <= len(attempt.calls) <= most
        assert all(call.completion_tokens <= 60 for call in attempt.calls)
        statuses.add(attempt.status)
    assert len(statuses) > 1


@pytest.mark.parametrize("read", ["points", "proposals", "valued", "routed", "joined", "merged"])
@pytest.mark.parametrize("kind", [CountdownDialect, lambda: Instruct(scripted({}), SYSTEM)])
def test_reading_takes_no_time_whatever_there_is_to_read(read: str, kind: Callable[[], Dialect]) -> None:
    dialect = kind()
    readers: dict[str, Callable[[str], object]] = {
        "points": lambda text: dialect.points(MEETING, text),
        "proposals": lambda text: dialect.proposals(MEETING, ("5 + 9 = 14",), text),
        "valued": lambda text: dialect.valued(MEETING, ("5 + 9 = 14",), text),
        "routed": dialect.routed,
        "joined": lambda text: dialect.joined(MEETING, ["5 + 9 = 14"], [text]),
        "merged": dialect.merged,
    }
    assert hostile.slowest(readers[read], hostile.strings(300, 3, SAMPLES, FRAGMENTS)) < 0.2


@pytest.mark.parametrize("method", THOUGHTFUL)
def test_cancelling_ends_every_call(method: str) -> None:
    async def run() -> tuple[int, list[str]]:
        def reply(request: Request) -> Any:
            return " a\n2. b\n" if request.prompt.startswith(("K", "P")) else Until("never")

        engine = ScriptedEngine(reply)
        chosen = get_method(method)
        values = {"system": SYSTEM, **({"router": False} if method == "skeleton_of_thought" else {"values": 1})}
        task = asyncio.create_task(chosen.solve(PROBLEM, Exact(), engine, chosen.settings.from_dict(values)))
        while len(engine.requests) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return len(engine.requests), engine.cancelled

    asked, cancelled = asyncio.run(run())
    assert (asked, len(cancelled)) == (3, 2)


# --- real models ------------------------------------------------------------------------


def attempts(
    spec: EngineSpec, jobs: list[tuple[str, dict[str, Any]]], problems: list[Problem]
) -> dict[str, list[Attempt]]:
    async def run() -> dict[str, list[Attempt]]:
        engine, task = open_engine(spec), get_task("countdown")
        try:
            found = {}
            for name, values in jobs:
                method = get_method(name)
                settings = method.settings.from_dict(values)
                found[name] = list(await asyncio.gather(*(method.solve(p, task, engine, settings) for p in problems)))
            return found
        finally:
            await engine.close()

    return asyncio.run(run())


def check(found: dict[str, list[Attempt]]) -> list[Call]:
    for attempt in (attempt for many in found.values() for attempt in many):
        assert attempt.status in set(STATUSES) - {"engine_error"}, attempt.note
        in_order(attempt.calls)
        for call in attempt.calls:
            ends = {other.id: other.ended for other in attempt.calls}
            assert all(ends[wait.call] <= call.started + 1e-6 for wait in call.waits)
    return [call for many in found.values() for attempt in many for call in attempt.calls]


def test_the_shipped_base_speaks_countdowns_dialect() -> None:
    spec = EngineSpec(model=str(models.path("countdown-base")), max_batch=64)
    common = {"dialect": "countdown", "max_tokens": 200, "temperature": 0}
    search = {**common, "breadth": 1, "values": 1}
    jobs = [("skeleton_of_thought", common), ("tree_of_thoughts", search), ("graph_of_thoughts", search)]
    listed = [p for p in Countdown().load(20, split="test", seed=777) if Countdown().difficulty(p) <= 4]
    found = attempts(spec, jobs, listed[:2])  # a solution begins with one of the moves that it lists
    calls = check(found)
    assert any(attempt.correct for attempt in found["skeleton_of_thought"])
    skeletons = [call for call in calls if call.role == "skeleton" or call.id == "P1.0"]
    points = sum(call.role == "point" or (call.role == "evaluator" and call.stage == 1) for call in calls)
    assert points / len(skeletons) > 6  # of the eight that were asked for
