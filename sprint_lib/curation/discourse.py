"""The annotator for reasoning in natural language without a model: rules that read its discourse markers.

A step begins where the text says that something begins (`Alternatively`, `Let me check`, `Next`, a heading, a list
item), once the step before it is long enough. It rests on the steps whose results it mentions; where it mentions
none, its marker decides: what goes on rests on the step before it, another approach only on the set-up of the trace.

The rules know a few dozen English phrases and understand nothing. How far they agree with a language model that read
the same traces is measured in notebook 19 (`curation.agreement`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from sprint_lib.curation.steps import AnnotationError, Repaired, Step, silent

Kind = Literal["heading", "other", "check", "part", "next", "turn", "none"]

# Lines that a step must have before a line of this kind opens the next one. Four are a plan and an execution that is
# not folded (A.2); what surely opens another thought need not wait for that.
LEAST: dict[Kind, int] = {"heading": 1, "other": 2, "check": 2, "part": 3, "next": 4, "turn": 4, "none": 12}
USUAL = 80  # lines; in longer traces steps are as much longer: their number is about the same in all traces
WEAK = ("part", "next", "turn")  # inside a paragraph these open a step only after twice as many lines
SETUP = 8  # lines at most that state the problem before the first step
MAX_PLAN, MAX_COMMENT, MAX_ANSWER = 3, 2, 12  # lines
MIN_EXECUTION = 3  # lines that remarks leave to it; fewer are folded (A.2)
MAX_PARENTS = 3  # by shared results; those with most of them
MAX_PROMPT = 400  # characters
_START = 160  # characters of a line that its marker is looked for in
_STEP_TEXT = 20_000  # characters of a step in which results are looked for


class DiscourseAnnotator:
    """Reads traces such as those of DeepSeek-R1. Any text is read in linear time, or refused."""

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        answer = _answer(lines)
        if answer == 1:
            raise AnnotationError("nothing comes before the answer")
        starts = _starts(lines[: answer - 1])
        steps = [_step(lines, start, end) for start, end in pairwise([*starts, answer])]
        return [*steps, Step("give the answer", plan=tuple(range(answer, len(lines) + 1)), final=True)]

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        given = {result for result, _ in _mentions(question)}
        known: dict[str, int] = {}  # result -> the last step that found it
        parents: dict[int, list[int]] = {}
        opener = 1  # the step before the first of several parts
        for number, step in enumerate(steps, 1):
            text = "".join(lines[line - 1] for line in step.lines)[:_STEP_TEXT]
            found, used = _results(text, given, known, final=step.final)
            first = lines[min(step.lines) - 1]
            if kind(first) == "part" and _FIRST.match(_bare(first)):
                opener = max(1, number - 1)
            parents[number] = _parents(number, step, first, opener, _linked(used, known))
            known.update(dict.fromkeys(found, number))
        return parents


# --- discourse markers ----------------------------------------------------------------

_I = r"(?:i|we)(?:'ll|’ll|'d|’d| will| would| should| can| could| need to| need| have to| want to| might| must)"
_LET = r"(?:let me|let's|let’s|let us)"
_DO = rf"(?:(?:maybe|perhaps|or|just|also|now|quickly|then|first|to|{_LET}|{_I}) ){{0,5}}"
_NUMBER_WORD = r"(?:[0-9]{1,2}|[ivx]{1,4}|[a-h]|one|two|three|four)\b"

_LAYOUT = re.compile(r"[\s>]*(?:[-•+] |\* )?[*_#\s]*")
_FILLER = re.compile(
    r"(?:(?:okay|ok|alright|all right|well|so|and|oh|ah|right|yes|yeah|anyway|good|great|perfect|hmm+|hold on|wait|but|"
    r"however|actually|no|now)\b[\s,.!:…—-]*){1,5}",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\s*(?:#{1,6} \S|\*\*[^*\n]{1,80}\*\*:?\s*$|__[^_\n]{1,80}__:?\s*$)")
_ITEM = re.compile(r"(?:[0-9]{1,2}[.)]|\((?:[0-9]{1,2}|[a-z]|[ivx]{1,4})\)|[a-h]\))[*_]*\s", re.IGNORECASE)
_WAYS = (
    r"(?:way|approach|method|idea|angle|strategy|route|possibility|perspective|solution|formula|technique|thought)s?"
)
_PATTERNS: dict[Kind, str] = {
    "check": rf"{_DO}(?:double[- ]?check|re-?check|cross[- ]?check|sanity[- ]check|verify|re-?verify|check|confirm|"
    r"make sure|test|validate|re-?examine|ensure|go (?:over|through)|plug .{1,40} back)\b|"
    r"(?:checking|verifying|verification|testing|as a (?:sanity |quick )?check|plugging .{1,40} back)\b|"
    r"(?:is|does) (?:that|this|it) (?:right|correct|make sense|work)\b",
    "other": rf"alternatively\b|(?:maybe|perhaps|instead|otherwise|what if|on the other hand)\b|"
    rf"(?:{_DO}\w+ )?(?:.{{0,30}} )?(?:another|a different|an alternative|other) {_WAYS}\b|"
    rf"{_DO}(?:start over|re-?think|try again|try something)|"
    rf"(?:method|approach|option|attempt|way) {_NUMBER_WORD}",
    "part": rf"(?:sub-?)?(?:case|part|scenario) {_NUMBER_WORD}|"
    r"(?:the )?(?:first|second|third|fourth|fifth|sixth)(?:ly)?\b|"
    r"for (?:the )?(?:first|second|third|fourth|next|other|last|case|part)\b|"
    r"(?:similarly|likewise|starting with|moving (?:on|to)|as for)\b",
    "next": rf"{_LET}\b|{_I}\b|(?:next|then|after that|finally|lastly|given|since|recall|remember|consider|using|"
    rf"looking at|step {_NUMBER_WORD}|from (?:the|here|this))\b|to \w+",
}
_MARKERS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}
_TURN = re.compile(r"\b(?:hmm+|hold on|wait|but|however|actually|no)\b", re.IGNORECASE)
_GO_ON = re.compile(r"\bnow\b", re.IGNORECASE)
_FIRST = re.compile(
    rf"(?:[\s\S]{{0,20}}\b)?first|starting|1[.)]|\((?:1|a|i)\)|a\)|{_LET} start|\w+ (?:1|i|a|one)\b", re.IGNORECASE
)


def kind(line: str) -> Kind:
    """What a line opens, by how it begins: a heading, another approach, a check, a part, what is next, or a turn."""
    start = line[:_START]
    if _HEADING.match(start):
        return "heading"
    bare = _bare(start)
    if _ITEM.match(bare):
        return "part"
    filler = _FILLER.match(bare)
    core = bare[filler.end() :] if filler else bare
    for name, marker in _MARKERS.items():
        if marker.match(core):
            return name
    if filler:
        return "turn" if _TURN.search(filler[0]) else "next" if _GO_ON.search(filler[0]) else "none"
    return "none"


def _bare(line: str) -> str:
    """The beginning of a line without indentation, bullet and emphasis."""
    start = line[:_START]
    match = _LAYOUT.match(start)
    return start[match.end() :] if match else start


def _starts(lines: Sequence[str]) -> list[int]:
    """The lines on which steps begin. Where paragraphs can be told, markers inside them count less."""
    paragraphs = any(line.endswith(("\n\n", "\n\r\n")) for line in lines)
    starts, longer = [1], max(1.0, len(lines) / USUAL)
    for number, line in enumerate(lines[1:], 2):
        length, name = number - starts[-1], kind(line)
        opens = not paragraphs or lines[number - 2].endswith(("\n", "\r"))
        if len(starts) == 1 and (name not in ("turn", "none") or length >= SETUP):
            least = 1.0  # the set-up ends with whatever is done first
        elif name == "none" and not opens:
            continue
        else:
            least = LEAST[name] * (2 if name in WEAK and not opens else 1) * longer
        if length >= least:
            starts.append(number)
    return starts


_FINAL = re.compile(
    r"(?:(?:so|therefore|thus|hence|and),? )*(?:(?:the |my |our )?(?:final |correct )?answer\b|in conclusion\b|"
    r"to conclude\b|conclusion\b|(?:the )?final\b)",
    re.IGNORECASE,
)
_BOXED = "\\boxed"
_END_OF_THOUGHT = "</think>"
_LETTER = re.compile(r"[^\W_]")


def _answer(lines: Sequence[str]) -> int:
    """The line on which the final answer begins, from 1: what follows the thought, or the last lines that say it."""
    contents = [n for n, line in enumerate(lines, 1) if _LETTER.search(line.replace(_END_OF_THOUGHT, ""))]
    if not contents:
        raise AnnotationError("has no words")
    last = contents[-1]
    thought = next((n for n, line in enumerate(lines, 1) if _END_OF_THOUGHT in line), last)
    if thought < last:
        return thought
    earliest = max(2, last - MAX_ANSWER + 1, last - len(contents) // 4)
    saying = (n for n in range(earliest, last) if _FINAL.match(_bare(lines[n - 1])) or _BOXED in lines[n - 1])
    return next(saying, last)


# --- plan, execution, comment ---------------------------------------------------------

_PLANNING = re.compile(
    rf"(?:(?:so|and|then|but|okay|now|hmm|maybe|perhaps|first|to do (?:this|that|so)),? ){{0,3}}"
    rf"(?:{_LET}|{_I}\b|the (?:idea|plan|goal|approach|key)|how (?:do|can|would|about)|what (?:is|are|if)|to \w+)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?:(?:okay|ok|yes|yeah|good|great|perfect|right|alright|correct|nice|hmm+|well)\b|"
    r"(?:so,? |and |but )?(?:that|this|it|which|everything|both|all)(?:'s|’s| is| are| also)? ?"
    r"(?:seems?|makes? sense|checks? out|works?|match(?:es)?|confirm(?:s|ed)?|consistent|correct|right|good|fine|true|"
    r"looks?)\b|(?:so,? )?i(?:'m|’m| am| think| guess| believe)\b)",
    re.IGNORECASE,
)
_TASK = re.compile(
    rf"(?:{_FILLER.pattern})?(?:(?:{_LET}|{_I}|maybe|perhaps|alternatively|instead|just|also|first|next|then),? )*",
    re.IGNORECASE,
)


def _step(lines: Sequence[str], start: int, end: int) -> Step:
    """The step of lines `start` to `end` - 1. A set-up only plans, and so does a step that says nothing of a task."""
    numbers = range(start, end)
    plan = _plan_end(lines, start, end)
    prompt = _prompt(lines[start - 1 : plan - 1])
    comment = end
    while comment - plan > MIN_EXECUTION and end - comment < MAX_COMMENT and _REMARK.match(_bare(lines[comment - 2])):
        comment -= 1
    if plan == end or not prompt or (start == 1 and len(numbers) <= SETUP):
        return Step(_shortened(prompt, 80) or "go on", plan=tuple(numbers))
    return Step(
        _shortened(prompt, 80),
        plan=tuple(range(start, plan)),
        prompt=prompt,
        execution=tuple(range(plan, comment)),
        comment=tuple(range(comment, end)),
    )


def _plan_end(lines: Sequence[str], start: int, end: int) -> int:
    """The line after the plan: its first line, and those after it that still say what is to be done."""
    plan = start + 1
    while plan < min(end, start + MAX_PLAN):
        said = _prompt(lines[start - 1 : plan - 1]).split()
        if len(said) >= 4 and not _PLANNING.match(_bare(lines[plan - 1])):
            break
        plan += 1
    return plan


def _prompt(lines: Sequence[str]) -> str:
    """What the lines of a plan ask for, on one line and without the words that only open it."""
    text = " ".join("".join(line[: 2 * MAX_PROMPT] for line in lines).split())
    start = _LAYOUT.match(text)
    bare = text[start.end() :] if start else text
    opening = _TASK.match(bare)
    task = bare[opening.end() :] if opening else bare
    task = task if len(task.split()) >= 2 else bare
    return _shortened(task[:1].upper() + task[1:], MAX_PROMPT) if _LETTER.search(task) else ""


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rsplit(' ', 1)[0]}…"


# --- dependencies ---------------------------------------------------------------------

_MENTION = re.compile(
    r"(?P<found>(?:[=≈:]|\b(?:is|are|be|gets?|gives?|equals?|yields?|becomes?|makes))[\s$\\({*−-]{0,4})?"
    r"(?:(?<![\w.])(?P<number>[0-9]{1,15}(?:,[0-9]{3}){0,5}(?:\.[0-9]{1,15})?(?:/[0-9]{1,15})?)(?!\w)"
    r"|(?<![\w\\])(?P<name>(?-i:[A-Za-z](?:_\{?\w{1,4}\}?|[0-9]|\([a-z]\))|[A-Z]{2,3}))(?!\w)(?P<defined> ?:?=)?)"
    r"|\b(?:let|set|denote|call) (?P<let>[A-Za-z])\b(?! ['’])"
    r"|\b(?:equation|formula|from|in|by) \((?P<cited>[0-9]{1,2})\)"
    r"|(?:\\tag\{|[ .]\()(?P<equation>[0-9]{1,2})[})]\s*$",
    re.IGNORECASE | re.MULTILINE,
)


def _mentions(text: str) -> Iterator[tuple[str, bool]]:
    """Results that a text names, in order: numbers of two digits or more, indexed or capital names, letters that were
    chosen (`let x`), numbered equations. And whether the text gives the result there, or only uses it.
    """
    for match in _MENTION.finditer(text):
        if number := match["number"]:
            if len(number) > 1:
                yield number.replace(",", ""), match["found"] is not None
        elif name := match["name"]:
            yield name, match["defined"] is not None
        elif letter := match["let"]:
            yield letter, True
        else:
            cited, equation = match["cited"], match["equation"]
            yield f"({cited or equation})", equation is not None


def _results(text: str, given: set[str], known: Mapping[str, int], *, final: bool) -> tuple[list[str], list[str]]:
    """What a step finds and what it uses of earlier ones; its first mention decides. The answer finds nothing anew."""
    first: dict[str, bool] = {}
    for result, found in _mentions(text):
        if result not in given:
            first.setdefault(result, result not in known or (found and not final))
    return [r for r, found in first.items() if found], [r for r, found in first.items() if not found]


def _linked(used: Sequence[str], known: Mapping[str, int]) -> list[int]:
    """The steps that found most of what is used, the later of equals; at most `MAX_PARENTS`."""
    shared = Counter(known[result] for result in used)
    best = sorted(shared, key=lambda number: (-shared[number], -number))[:MAX_PARENTS]
    return sorted(best)


def _parents(number: int, step: Step, first: str, opener: int, linked: list[int]) -> list[int]:
    """The steps that a step rests on, by its results and by the marker of its first line."""
    if number == 1:
        return []
    name = kind(first)
    before = number - 1
    if name == "other":
        return linked or [1]
    if name in ("part", "heading") and not step.final and not _FINAL.match(_bare(first)):
        return linked or [min(opener, before)]
    if name == "check" and not step.final:
        return linked or [before]
    return sorted({*linked, before})
