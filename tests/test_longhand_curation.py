"""Longhand through curation: its annotator finds the true steps and dependencies, and packing makes one wide stage."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from sprint_lib import models
from sprint_lib.curation import Trace, curate
from sprint_lib.curation.annotators import get_annotator
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.samples import sprint_samples
from sprint_lib.curation.steps import AnnotationError, check_steps
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation.runs import RunSpec, run
from sprint_lib.store import Workspace
from sprint_lib.tasks import longhand
from sprint_lib.training.base import build_tokenizer
from sprint_lib.training.languages import LonghandBase

RNG = random.Random(7)
TERMS = {n: [longhand.draw_term(RNG, "train") for _ in range(n)] for n in (1, 4, 8)}


def _trace(terms: list[longhand.Term]) -> Trace:
    made = longhand.problem(terms)
    return Trace(made.id, made.question, longhand.trace(terms), made.id, made.answer)


def _check(trace: Trace, count: int) -> None:
    """The true structure: a step a product, none of which needs another; the sum needs them all."""
    lines, reader = number_lines(trace.text), get_annotator("longhand")
    steps = asyncio.run(reader.steps(trace.question, lines))
    check_steps(steps, lines)
    assert [step.prompt for step in steps] == [*(f"Work {label}" for label in longhand.LABELS[:count]), ""]
    assert [step.final for step in steps] == [False] * count + [True]
    parents = asyncio.run(reader.dependencies(trace.question, lines, steps))
    products = range(1, count + 1)
    assert parents == {**{number: [] for number in products}, count + 1: list(products)}
    for number, step in enumerate(steps[:-1]):
        work = "".join(lines[line - 1] for line in step.execution)
        assert work.startswith(f"Work {longhand.LABELS[number]} ")
        assert work.count("\n") == 2 + 12


@pytest.mark.parametrize("count", TERMS)
def test_steps_and_dependencies_are_the_true_ones(count: int) -> None:
    _check(_trace(TERMS[count]), count)


def test_a_trace_is_packed_into_one_stage_whose_samples_the_tokenizer_knows() -> None:
    trace = _trace(TERMS[8])
    (packed,) = asyncio.run(curate([trace], get_annotator("longhand"))).kept
    (stage,) = packed.packing.trajectory.stages
    assert [prompt.text for prompt in stage.prompts] == [f"Work {label}" for label in longhand.LABELS]
    assert "".join(e.text for e in stage.executions) + (packed.packing.trajectory.final or "") == trace.text
    samples = sprint_samples(trace.question, packed.packing.trajectory, trace.id)
    assert [s.role for s in samples] == ["planner", *["executor"] * 8, "planner"]
    assert samples[0].stop == "</Plan_1>"  # to close the plan is learned
    tokenizer = build_tokenizer(LonghandBase.WORDS)
    for sample in samples:
        assert tokenizer.unk_token_id not in tokenizer.encode(sample.context + sample.completion + sample.stop)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: "", "does not begin with a product"),
        (lambda t: t[t.index("Sum") :], "does not begin with a product"),
        (lambda t: "so\n" + t, "does not begin with a product"),
        (lambda t: t[: t.index("Sum")], "does not end with one sum"),
        (lambda t: t + t[t.index("Sum") :], "does not end with one sum"),
        (lambda t: t[: t.index("Answer")], "does not end with its answer"),
        (lambda t: t.replace("Work B", "Work A"), "works a product again"),
        (lambda t: t.replace("Add B", "Add E"), "adds the result 'E', which no step has"),
        (lambda t: t.replace("Add B", "Add A"), "does not add the result 'B'"),
        (lambda t: t.replace("Add B", "Add \u2460"), "which no step has"),
    ],
)
def test_a_trace_of_another_structure_is_set_aside(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    text = change(_trace(TERMS[4]).text)
    lines, reader = number_lines(text), get_annotator("longhand")

    async def read() -> None:
        await reader.dependencies("", lines, await reader.steps("", lines))

    with pytest.raises(AnnotationError, match=reason):
        asyncio.run(read())


@pytest.mark.slow
def test_steps_and_dependencies_of_sampled_traces_are_the_true_ones(tmp_path: Path) -> None:
    engine = EngineSpec(model=str(models.path("longhand-base")), max_batch=8)
    settings = {"temperature": 0.6, "max_tokens": 2560}
    spec = RunSpec("base", "sequential", "longhand", "train", n=8, seed=5, engine=engine, settings=settings)
    attempts = [attempt for attempt in run(spec, Workspace("test", tmp_path)) if attempt.correct]
    assert len(attempts) >= 5
    problems = {p.id: p for p in longhand.Longhand().load(8, split="train", seed=5)}
    for attempt in attempts:
        problem = problems[attempt.problem]
        trace = Trace(attempt.problem, problem.question, attempt.text, attempt.problem, attempt.answer)
        _check(trace, len(problem.meta["terms"]))
