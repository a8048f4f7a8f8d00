"""The curation that SPRINT's authors released, read into our steps and packed again by our packing.

An example is what their annotator wrote about one trace: components by line ranges, the same with their text, a
dictionary of parents, and the packed trajectory if the trace passed the filter. The text is a language model's: it is
read within bounds, and what is odd in it becomes a `Defect`, never an exception.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sprint_lib.curation import Annotated, Trace
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.packing import PAPER, RELEASE, Packing, Rules, pack
from sprint_lib.curation.steps import AnnotationError, Step
from sprint_lib.trajectory import Defect, Stage, Trajectory, parse

if TYPE_CHECKING:
    from sprint_lib.released import Curated

DEFECTS: dict[str, str] = {
    "too_long": "text after the first million characters; left out",
    "too_many": "components after the first two hundred; left out",
    "no_component": "nothing in it reads as a component",
    "wrong_number": "a component whose number is not the next one; read by its place",
    "missing_field": "a component without one of its five fields",
    "doubled_field": "a field given twice; the first counts",
    "odd_range": "a line range that does not read as one, or with more lines than a trace has; read as no lines",
    "no_lines": "a component without lines",
    "wrong_header": "a header whose lines are not from the first to the last of its parts",
    "shared_lines": "lines in two places, such as a plan and its own execution",
    "uncovered_lines": "lines before a component that are in no component",
    "out_of_order": "a component that begins before the one before it",
    "missing_text": "a part with lines but without text; its lines stay empty",
    "text_without_lines": "a part with text but without lines; left out",
    "other_text": "a part whose text is not what another part gave for the same lines; the first counts",
    "line_count": "a text that our cutting gives another number of lines than its range; the last one takes the rest",
    "lost_comment": "remarks, whose text was not released; their lines stay empty",
    "missing_parents": "a component that the parent dictionary leaves out; read as without parents",
    "unknown_step": "a parent or child that is no component; left out",
    "backward_edge": "a component that needs itself or a later one; left out",
}

MAX_CHARACTERS = 1_000_000  # of an annotator's output; the released ones have some thousand
MAX_COMPONENTS = 200
MAX_FIELD = 4_000  # characters
MAX_LINES = 20_000  # of a trace; a range beyond it is no range
_PARTS = ("plan", "execution", "comment")
_FIELDS = ("description", "plan", "prompt", "execution", "comment")
_NOT_RELEASED = "The final answer was not released.\n"

_HEADER = re.compile(r"#{1,6} {0,3}Component {1,3}([0-9]{1,6}) {0,3}(?:\(([^()\n]{0,80})\))?", re.IGNORECASE)
_FIELD = re.compile(r"- {0,3}\*\*([A-Za-z]{1,20}):?\*\*:? {0,3}(.*)")
_RANGE = re.compile(r"(?:lines? ?)?([0-9]{1,6})(?: ?(?:-{1,2}|–|—|to) ?([0-9]{1,6}))?", re.IGNORECASE)
_NO_LINES = re.compile(r"(?:lines? not found|none|n/a|-)?\.?", re.IGNORECASE)
# How the numbered lines must have been cut, as far as the ranges say.
_LINE = re.compile(r"[^\n]*\n(?:[ \t]*\n)*")
_SENTENCE = re.compile(r".*?[.!?][)\"'”’]*\s+|.+", re.DOTALL)


@dataclass(frozen=True)
class Example(Annotated):
    """A released example: an annotated trace whose lines are those that the annotator numbered, as far as released.

    `known` has the text of line 1, 2, ...; lines of remarks and lines in no component are empty, because their text
    was not released, and a step keeps only the lines of its parts. `released` is the trajectory the authors packed,
    None if the trace did not pass their filter.
    """

    known: tuple[str, ...] = ()
    released: Trajectory | None = None
    defects: tuple[Defect, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        return self.known


def read_example(curated: Curated) -> Example:
    """An example with its steps, parents and lines, and everything odd about them; never raises on text.

    No step is marked as the final one: in the release the last component is packed like any other, and the final
    answer comes from the reference solution of the problem. `Defect.at` is a character of `curated.separation`.
    """
    components, defects = _components(curated.separation)
    defects += _line_defects(components)
    lines, odd = _lines(components, curated.inline)
    parents, wrong = _parents(components, curated.parents)
    steps = tuple(component.step for component in components)
    released = None if curated.trajectory is None else parse(curated.trajectory)
    trace = Trace(f"released {curated.number}", released.question if released else "", "".join(lines))
    found = tuple(sorted([*defects, *odd, *wrong], key=lambda d: d.at))
    return Example(trace, steps, parents, lines, released, found)


def replay(example: Example, rules: Rules = RELEASE, *, last_is_final: bool = False) -> Packing:
    """Pack a released example by our packing; `last_is_final` makes its last step the final answer.

    Raises:
        AnnotationError: if it has no step, or its text holds tags.
    """
    steps = list(example.steps)
    if not steps:
        raise AnnotationError(f"{example.trace.id}: no step to pack")
    if last_is_final:
        steps[-1] = replace(steps[-1], final=True)
    graph = dependency_graph(len(steps), example.parents or {})
    answer = example.released.final if example.released else None
    given = "" if last_is_final else answer or _NOT_RELEASED
    return pack(example.trace.question, example.lines, steps, graph, rules=rules, answer=given)


# --- comparing trajectories -----------------------------------------------------------

COMPARED = ("stages", "prompts", "references", "plans", "executions")


def differences(ours: Trajectory, theirs: Trajectory) -> dict[str, list[int]]:
    """Stages in which two packings of one trace differ, by what differs: every key of `COMPARED`, [] if nothing does.

    stages: their numbers. prompts: which ones, in which order, and their text, spaces around it apart. references:
    what each `Based on` names. plans: every line but blank ones, in order; a plan holds the plans of its steps, so it
    settles which steps are in a stage. executions: byte for byte. The final answer is not compared.
    """
    mine, other = ({stage.number: _shape(stage) for stage in t.stages} for t in (ours, theirs))
    found: dict[str, list[int]] = {kind: [] for kind in COMPARED}
    found["stages"] = sorted(set(mine) ^ set(other))
    for number in sorted(set(mine) & set(other)):
        for kind in COMPARED[1:]:
            if mine[number][kind] != other[number][kind]:
                found[kind].append(number)
    return found


def _shape(stage: Stage) -> dict[str, list[object]]:
    plan: list[object] = []
    for part in stage.plan:
        plan += _full_lines(part) if isinstance(part, str) else [(part.stage, part.index, part.text.strip())]
    return {
        "prompts": [part for part in plan if isinstance(part, tuple)],
        "references": [part for part in plan if isinstance(part, str) and part.startswith("Based on ")],
        "plans": plan,
        "executions": list(stage.executions),
    }


def _full_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


# --- which rule it is -----------------------------------------------------------------

# Rules of packing, one changed at a time, and whether the last step is the final answer.
VARIANTS: dict[str, tuple[Rules, bool]] = {
    f"as released (executions of fewer than {RELEASE.fold_below} lines are folded)": (RELEASE, False),
    f"executions of fewer than {PAPER.fold_below} lines are folded (paper)": (
        replace(RELEASE, fold_below=PAPER.fold_below),
        False,
    ),
    "executions of fewer than 5 lines are folded": (replace(RELEASE, fold_below=5), False),
    "none is folded": (replace(RELEASE, fold_below=0), False),
    "remarks open the next plan (paper)": (replace(RELEASE, comments=True), False),
    "dashes between all steps (notebook 04)": (replace(RELEASE, joined=False), False),
    "the last step is the answer (notebook 04)": (RELEASE, True),
    "all of these rules as in the paper": (PAPER, True),
}


def tried(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """Each of `VARIANTS` on the examples that have a trajectory, a row each.

    A row says by how many of its `n` trajectories it packs exactly (`exact`), in how many of their stages (`of`)
    something `differs`, and by kind (`COMPARED`) in how many.

    Raises:
        AnnotationError: as `replay`.
    """
    packed = [(example, example.released) for example in examples if example.released]
    rows = []
    for name, (rules, last_is_final) in VARIANTS.items():
        found = [
            (differences(replay(example, rules, last_is_final=last_is_final).trajectory, theirs), len(theirs.stages))
            for example, theirs in packed
        ]
        differ = [set().union(*kinds.values()) for kinds, _ in found]
        row = {"rule": name, "exact": sum(not stages for stages in differ), "n": len(packed)}
        row |= {"differs": sum(map(len, differ)), "of": sum(stages for _, stages in found)}
        rows.append({**row, **{kind: sum(len(kinds[kind]) for kinds, _ in found) for kind in COMPARED}})
    return rows


# --- components -----------------------------------------------------------------------


_NO_STEP = Step("")


@dataclass
class _Component:
    """A component as written: its number, its fields, the step it gives, and where it begins."""

    number: int
    header: str
    at: int
    fields: dict[str, str] = field(default_factory=dict)
    step: Step = _NO_STEP


def _components(text: str) -> tuple[list[_Component], list[Defect]]:
    """The components of an annotator's output, with their steps."""
    components, defects = _blocks(text[:MAX_CHARACTERS])
    if len(text) > MAX_CHARACTERS:
        defects.append(Defect("too_long", MAX_CHARACTERS, f"{len(text)} characters"))
    if not components:
        defects.append(Defect("no_component", 0, text[:80]))
    room = 3 * MAX_LINES  # lines of all parts together, however often one is named
    for place, component in enumerate(components, 1):
        defects += _read_step(component, place, room)
        room -= len(component.step.lines)
    return components, defects


def _blocks(text: str) -> tuple[list[_Component], list[Defect]]:
    components: list[_Component] = []
    defects: list[Defect] = []
    name, at = "", 0
    for line in text.split("\n"):
        body = line.strip()
        if header := _HEADER.fullmatch(body):
            if len(components) == MAX_COMPONENTS:
                defects.append(Defect("too_many", at, body[:80]))
                break
            components.append(_Component(int(header[1]), header[2] or "", at))
            name = ""
        elif components and (found := _FIELD.fullmatch(body)):
            name = found[1].lower()
            if name in components[-1].fields:
                defects.append(Defect("doubled_field", at, name))
                name = ""
            else:
                components[-1].fields[name] = found[2][:MAX_FIELD]
        elif name and body and len(components[-1].fields[name]) < MAX_FIELD:  # a prompt that goes on
            components[-1].fields[name] += f" {body[:MAX_FIELD]}"
        at += len(line) + 1
    return components, defects


def _read_step(component: _Component, place: int, room: int) -> Iterator[Defect]:
    if component.number != place:
        yield Defect("wrong_number", component.at, f"component {component.number} in place {place}")
    for name in _FIELDS:
        if name not in component.fields:
            yield Defect("missing_field", component.at, f"component {place}: {name}")
    ranges: list[tuple[int, ...]] = []
    for part in _PARTS:
        said = component.fields.get(part, "")
        numbers = read_range(said, room)
        if numbers is None:
            yield Defect("odd_range", component.at, f"component {place}: {part}: {said[:80]}")
        ranges.append(numbers or ())
        room -= len(ranges[-1])
    plan, execution, comment = ranges
    description, prompt = (component.fields.get(name, "").strip() for name in ("description", "prompt"))
    component.step = Step(description, plan, prompt, execution, comment)


def read_range(text: str, most: int = MAX_LINES) -> tuple[int, ...] | None:
    """Line numbers of `Lines 1-17`, `Line 18`, `3, 5 to 7` or `Lines not found`; None if it reads as none of those.

    Numbers above `MAX_LINES` are no lines, and neither are more than `most` of them.
    """
    if _NO_LINES.fullmatch(text.strip()):
        return ()
    numbers: list[int] = []
    for piece in re.split(r",|;|&|\band\b", text[:400]):
        match = _RANGE.fullmatch(piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= MAX_LINES or len(numbers) + last - first >= most:
            return None
        numbers += range(first, last + 1)
    return tuple(numbers)


def _line_defects(components: Sequence[_Component]) -> Iterator[Defect]:
    """What breaks A.2's rule that every line is in exactly one place, and in order."""
    anywhere = {line for component in components for line in component.step.lines}
    used: set[int] = set()
    reached = start = 0
    for place, component in enumerate(components, 1):
        uses = Counter(component.step.lines)
        if not uses:
            yield Defect("no_lines", component.at, f"component {place}")
            continue
        first, last = min(uses), max(uses)
        header = read_range(component.header)
        if header is None or (header and (header[0], header[-1]) != (first, last)):
            yield Defect("wrong_header", component.at, f"component {place}: ({component.header}) for {first}-{last}")
        if shared := sorted(line for line, count in uses.items() if count > 1 or line in used):
            yield Defect("shared_lines", component.at, f"component {place}: {_span(shared)}")
        if first < start:
            yield Defect("out_of_order", component.at, f"component {place} begins with line {first}")
        if uncovered := [line for line in range(reached + 1, last) if line not in anywhere]:
            yield Defect("uncovered_lines", component.at, f"component {place}: {_span(uncovered)}")
        used.update(uses)
        reached, start = max(reached, last), first


def _span(lines: Sequence[int]) -> str:
    return f"{len(lines)} line{'s' * (len(lines) != 1)} from {lines[0]} to {lines[-1]}"


# --- text -----------------------------------------------------------------------------


def _lines(components: Sequence[_Component], inline: str) -> tuple[tuple[str, ...], list[Defect]]:
    """The lines of the trace as far as the text of its parts was released, and what is odd about that text."""
    texts = _inline_texts(inline[:MAX_CHARACTERS])
    known: dict[int, str] = {}
    defects: list[Defect] = []
    for place, component in enumerate(components, 1):
        for part in _PARTS:
            numbers: tuple[int, ...] = getattr(component.step, part)
            text = texts.get((component.number, part))
            if text == "None" and not numbers:
                continue
            if kind := _take(known, numbers, text, part):
                defects.append(Defect(kind, component.at, f"component {place}: {part}"))
    last = max((max(c.step.lines) for c in components if c.step.lines), default=0)
    return tuple(known.get(number, "") for number in range(1, last + 1)), defects


def _take(known: dict[int, str], numbers: Sequence[int], text: str | None, part: str) -> str | None:
    """Put the text of a part into its lines; the kind of what is odd about it."""
    if not numbers:
        return "text_without_lines" if text else None
    if text is None:
        return "lost_comment" if part == "comment" else "missing_text"
    # What ended a part was not released; a line break keeps it apart from the next, as in the released trajectories.
    pieces = [piece for line in _LINE.findall(f"{text}\n") for piece in _SENTENCE.findall(line)]
    count = len(pieces)
    pieces[len(numbers) - 1 :] = ["".join(pieces[len(numbers) - 1 :])]
    pieces += [""] * (len(numbers) - len(pieces))
    other = False
    for number, piece in zip(numbers, pieces, strict=True):
        other |= known.setdefault(number, piece) != piece
    return "other_text" if other else "line_count" if count != len(numbers) else None


def _inline_texts(text: str) -> dict[tuple[int, str], str]:
    """The text of each part by component and part; the first one counts."""
    found: dict[tuple[int, str], str] = {}
    number = 0
    part, body = "", list[str]()
    for line in text.split("\n"):
        if part:
            if line == f"</{part}>":
                found.setdefault((number, part), "\n".join(body))
                part = ""
            else:
                body.append(line)
        elif header := _HEADER.fullmatch(line):
            number = int(header[1])
        elif line in {f"<{name}>" for name in _FIELDS}:
            part, body = line[1:-1], []
    return found


def _parents(
    components: Sequence[_Component], given: Mapping[int, Iterable[int]]
) -> tuple[dict[int, list[int]], list[Defect]]:
    """Parents by place of the component; what cannot be an edge of a dependency graph is left out."""
    place = {component.number: n for n, component in reversed(list(enumerate(components, 1)))}
    defects: list[Defect] = []
    parents: dict[int, list[int]] = {}
    for n, component in enumerate(components, 1):
        parents[n] = []
        if component.number not in given:
            defects.append(Defect("missing_parents", component.at, f"component {n}"))
        for parent in dict.fromkeys(given.get(component.number, ())):
            if place.get(parent, n) < n:
                parents[n].append(place[parent])
            else:
                kind = "backward_edge" if parent in place else "unknown_step"
                defects.append(Defect(kind, component.at, f"component {n} needs {parent}"))
    for unknown in sorted(set(given) - set(place)):
        defects.append(Defect("unknown_step", 0, f"parents of {unknown}"))
    return parents, defects
