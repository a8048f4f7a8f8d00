"""Demonstrations: the search is right, each way of writing it holds it, and training sees what inference sees."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter

import pytest
from scripted import ScriptedEngine

from sprint_lib.curation.demonstrations import (
    BEAM,
    CHILD_SHARE,
    KINDS,
    Demonstration,
    calls_of,
    corpus,
    demonstrate,
    distance,
    ranked,
    rounds,
)
from sprint_lib.methods import apr
from sprint_lib.tasks import Problem, get_task
from sprint_lib.tasks.countdown import moves, problem, verify

PROBLEMS = get_task("countdown").load(40, split="train", seed=1)
SMALL = problem((3, 4, 5, 7), 24)


def count(text: str) -> int:
    return len(re.findall(r"\S+|\n", text))


def made(kind: str, number: int = 0) -> list[tuple[Problem, Demonstration]]:
    return [(one, demonstrate(one, kind, number, count)) for one in PROBLEMS]


def test_the_heuristic_is_the_sum_of_distances_to_the_nearest_factor() -> None:
    # factors of 24: 1 2 3 4 6 8 12 24; 5 is 1 away, 7 is 1, 12 is 0, 20 is 4 (24), 17 is 5 (12)
    assert distance((5, 7, 12), 24) == 2
    assert distance((17, 20), 24) == 9
    assert distance((7, 11), 13) == 8  # factors 1 and 13: 7 is 6 from either, 11 is 2 from 13


def test_moves_are_ranked_by_it_and_none_is_lost() -> None:
    found = ranked((3, 4, 5, 7), 24, random.Random(0))
    far = [distance(move.left, 24) for move in found]
    assert far == sorted(far)
    assert Counter(map(str, found)) == Counter(map(str, moves((3, 4, 5, 7))))


def test_rounds_end_with_the_first_success_or_when_every_move_was_tried() -> None:
    rng = random.Random(1)
    found = list(rounds((3, 4, 5, 7), 24, 3, 15, lambda state: ranked(state, 24, rng)))
    assert all(not node.path for nodes in found[:-1] for node in nodes)
    assert any(node.path for node in found[-1])
    hopeless = list(rounds((1, 1, 1, 1), 99, 2, 15, moves))
    assert [len(nodes) for nodes in hopeless] == [2, 1]  # 1 + 1, 1 - 1, 1 * 1
    assert [node.move for nodes in hopeless for node in nodes] == moves((1, 1, 1, 1))
    narrow = next(rounds((3, 4, 5, 7), 24, 1, 2, moves))
    assert narrow[0].seconds == tuple(moves(narrow[0].move.left)[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_beams_take_moves_as_the_base_model_knows_them_or_the_best_by_the_heuristic(kind: str) -> None:
    skipped = 0
    for one in PROBLEMS:
        order = [move.task for move in moves(tuple(one.meta["numbers"]))]
        plain = tried(demonstrate(one, kind, 0, count))
        assert plain == order[: len(plain)]
        best = tried(demonstrate(one, kind, 0, count, heuristic=True))
        assert set(best) <= set(order)
        skipped += best != order[: len(best)]
    assert skipped > len(PROBLEMS) / 2


def tried(demonstration: Demonstration) -> list[str]:
    """The first moves of a demonstration, each where it is first named."""
    texts = (s.completion for s in demonstration.samples if s.role == "parent")
    return list(dict.fromkeys(move for text in texts for move in re.findall(r"^Try (.*)$", text, re.M)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_solution_is_verified_and_most_searches_find_one(kind: str) -> None:
    solved = 0
    for one, demonstration in made(kind):
        last = demonstration.samples[-1].completion
        if demonstration.answer:
            solved += verify(demonstration.answer, one.meta["numbers"], one.meta["target"]).correct
            assert last.endswith(f"Answer {demonstration.answer}\n")
        else:
            assert last.endswith("Answer none\n")
        assert BEAM[kind][0] <= demonstration.beam <= BEAM[kind][1]
    assert solved == sum(bool(demonstration.answer) for _, demonstration in made(kind))
    assert solved >= len(PROBLEMS) * 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_each_time_and_another_for_another_number(kind: str) -> None:
    assert made(kind) == made(kind)
    assert made(kind) != made(kind, 1)


def test_a_serial_search_is_one_text_that_checks_what_it_writes() -> None:
    for kind in ("sos", "sos_plus"):
        for one, demonstration in made(kind):
            (sample,) = demonstration.samples
            assert (sample.context, sample.ends, sample.stop) == (one.question, True, "")
            assert demonstration.threads == 0
            assert sample.completion.startswith("Budget ") == (kind == "sos_plus")
            tried = re.findall(r"^Try (.*)\n = (\d+)$", sample.completion, re.M)
            assert set(tried) <= {(m.task, str(m.result)) for m in moves(tuple(one.meta["numbers"]))}
            assert max(map(tried.count, tried)) <= (2 if kind == "sos_plus" else 1)
            assert sample.completion.count(" yes\n") == bool(demonstration.answer)


def shapes(kind: str) -> list[str]:
    """Of the searches of several rounds the order of their moves (T) and of what follows them (L)."""
    texts = [d.samples[0].completion for _, d in made(kind) if d.beam > 1 and d.rounds > 1]
    return ["".join(word[0] for word in re.findall(r"^(Try|Left)", text, re.M)) for text in texts]


def test_sos_is_depth_first_or_breadth_first_and_sos_plus_changes_between_them() -> None:
    deep = [shape for shape in shapes("sos") if re.fullmatch("(TL)+", shape)]
    wide = [shape for shape in shapes("sos") if re.match("(TT+L+)+", shape)]
    assert len(deep) + len(wide) == len(shapes("sos"))
    assert deep
    assert wide
    assert all(shape.count("TL") == len(re.findall("TL+", shape)) for shape in wide)
    assert any(re.match("TL(TL)*TTT", shape) for shape in shapes("sos_plus"))  # then breadth first, each named again
    assert any(re.match("TTT", shape) for shape in shapes("sos_plus"))
    assert not any("LL" in shape for shape in shapes("sos_plus"))


def test_the_budget_is_the_texts_length_in_bins_rounded_up() -> None:
    for _, demonstration in made("sos_plus"):
        line, _, rest = demonstration.samples[0].completion.partition("\n")
        assert int(line.split()[1]) == -(-count(rest) // 256)


def test_children_start_where_inference_starts_them_and_the_parent_sees_what_it_will_see() -> None:
    spawning = [(one, d) for one, d in made("apr") if d.threads]
    assert len(spawning) > len(PROBLEMS) / 2
    for one, demonstration in spawning:
        context = one.question + apr.condition(demonstration.beam)
        for snapshot in (s for s in demonstration.samples if s.role == "parent"):
            shown = snapshot.context or ""
            written = snapshot.completion
            if shown == one.question:
                assert written.startswith(apr.condition(demonstration.beam))
                written = written.removeprefix(apr.condition(demonstration.beam))
            else:
                assert shown == context
            if snapshot.stop:
                messages = apr.messages_of(written)
                children = children_of(demonstration, one.question, messages)
                results = [text.strip().splitlines()[-1] for text in children]
                context += apr.join_lines(messages, results)
                assert 1 <= len(messages) <= demonstration.beam
        shown_paths = re.findall(r"^Solved (.*)$", context, re.M)
        assert written == f"Answer {shown_paths[-1] if shown_paths else 'none'}\n"


def children_of(demonstration: Demonstration, question: str, messages: list[str]) -> list[str]:
    bodies = {s.context: s.completion for s in demonstration.samples if s.role == "child"}
    return [bodies[apr.child_context(question, message)] for message in messages]


def test_a_parent_never_sees_a_childs_search_and_a_child_nothing_of_its_siblings() -> None:
    for _, demonstration in made("apr"):
        for sample in demonstration.samples:
            if sample.role == "parent" and demonstration.threads:
                assert "Left" not in sample.context + sample.completion
            if sample.role == "child":
                assert sample.context.count("Try") == 1
                assert sample.ends
                assert sample.completion.splitlines()[-1].startswith(("Solved ", "None"))


def test_a_child_is_a_training_sequence_of_its_own_and_a_parents_snapshots_share_what_they_have_in_common() -> None:
    for _, demonstration in made("apr"):
        traces = Counter((s.role, s.trace) for s in demonstration.samples)
        assert len([role for role, _ in traces if role == "parent"]) == 1
        assert all(number == 1 for (role, _), number in traces.items() if role == "child")


def test_of_the_children_a_share_is_trained_and_of_the_parents_every_text() -> None:
    all_, trained = ([s for _, d in made("apr") for s in of(d)] for of in (lambda d: d.samples, Demonstration.trained))
    assert [s for s in trained if s.role == "parent"] == [s for s in all_ if s.role == "parent"]
    children, some = (sum(s.role == "child" for s in found) for found in (all_, trained))
    assert 0.5 * CHILD_SHARE < some / children < 2 * CHILD_SHARE


def test_the_call_graph_of_a_demonstration_is_what_inference_makes_of_its_texts() -> None:
    one, demonstration = next((one, d) for one, d in made("apr") if d.rounds == 2 and d.threads > 4)
    texts = {sample.context: sample.completion + sample.stop for sample in demonstration.samples}
    engine = ScriptedEngine(lambda request: texts[request.prompt])
    attempt = asyncio.run(apr.Apr().solve(one, get_task("countdown"), engine, apr.AprSettings()))
    assert attempt.correct
    graph = calls_of(demonstration, engine.count_tokens)
    assert [(c.id, c.role, c.stage, c.index) for c in graph] == [
        (c.id, c.role, c.stage, c.index) for c in attempt.calls
    ]
    for drawn, run in zip(graph, attempt.calls, strict=True):
        assert (drawn.waits, drawn.prompt_tokens) == (run.waits, run.prompt_tokens)
        ends = run.role == "child" or run is attempt.calls[-1]  # the script's texts have no end token
        assert drawn.completion_tokens == run.completion_tokens + ends


def test_a_corpus_has_whole_passes_over_the_problems_and_as_many_tokens_as_asked() -> None:
    some = corpus(PROBLEMS[:5], "apr", 20_000, count)
    tokens = sum(count(s.completion) for d in some for s in d.trained())
    assert tokens >= 20_000
    assert set(Counter(d.problem for d in some).values()) == {len(some) // 5}
    short = corpus(PROBLEMS[:9], "sos", 3_000, count, most=500)
    assert all(count(s.context + s.completion) <= 500 for d in short for s in d.samples)


def test_kinds_that_are_none_and_problems_none_of_which_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="no demonstrations 'tot'; there are: sos, sos_plus, apr"):
        demonstrate(SMALL, "tot", 0, count)
    with pytest.raises(ValueError, match="no demonstration of at most 5 tokens"):
        corpus([SMALL], "sos", 100, count, most=5)
