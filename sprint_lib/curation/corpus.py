"""`sprint curate`: one file says which traces become which data set, by which annotator and at what price.

Traces are read and graded, annotated, packed and saved with a report on every one of them: kept, repaired or set
aside, with the reasons. Replies of a model are stored as they come, so the same command after a kill repeats no
finished call; `estimate` says what a run would cost before anything is spent.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from sprint_lib import store
from sprint_lib.chat import Chat, ChatError, Prices, Reply, Request, Tally
from sprint_lib.curation import (
    Aside,
    Packed,
    Sifted,
    Trace,
    annotate_dependencies,
    annotate_steps,
    pack_traces,
)
from sprint_lib.curation.annotators import ANNOTATORS, get_annotator
from sprint_lib.curation.dataset import save
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.llm import STEPS_SCHEMA, ModelAnnotator, open_annotator, read_prices
from sprint_lib.curation.packing import MIN_RATIO
from sprint_lib.curation.sources import graded, read
from sprint_lib.curation.steps import AnnotationError, Annotator, Repaired, Step, silent
from sprint_lib.params import ParamsError, load_yaml
from sprint_lib.wording import readable, unknown

T = TypeVar("T")

STEPS_TOKENS, NEEDS_TOKENS = 12, 3  # assumed of replies, a line of the trace; the estimate says so
_EVERY = 5.0  # seconds between two lines on progress, where they do not overwrite each other

_NUMBER = (int, float)
_MODEL_KEYS: dict[str, tuple[type, ...]] = {
    **{"model": (str,), "base_url": (str,), "key_variable": (str,), "model_revision": (str,), "prices": (dict,)},
    **{"concurrency": (int,), "requests_per_minute": _NUMBER, "tokens_per_minute": _NUMBER, "retries": (int,)},
    **{"first_wait": _NUMBER, "longest_wait": _NUMBER, "connect_seconds": _NUMBER, "read_seconds": _NUMBER},
    **{"request_seconds": _NUMBER, "temperature": (*_NUMBER, type(None)), "max_tokens": (int,), "prompts": (str,)},
    **{"asks": (int,), "lines_per_request": (int,), "batch": (bool,)},
}
_KEYS: dict[str, tuple[type, ...]] = {
    **{"source": (str,), "out": (str,), "columns": (dict,), "split": (str,), "revision": (str,), "limit": (int,)},
    **{"annotator": (str,), "cap": (int,), "min_ratio": _NUMBER, "format": (str,), "validation": _NUMBER},
    **{"seed": (int,), "licence": (str,), "tokenizer": (str,), "cache": (str,)},
}


@dataclass(frozen=True)
class CorpusSpec:
    """What `sprint curate` is asked for.

    Attributes:
        source, columns, split, revision, limit: of the traces, as in `sources.read`.
        out: the folder for dataset/, report.json, ledger.json and, unless `cache` names another, cache/.
        annotator: a name of `ANNOTATORS`; `model` has `settings` as in `llm.open_annotator`.
        cap, min_ratio: of packing.
        format, validation, licence: of the data set, as in `dataset.save`.
        seed: of the split and of the model.
        tokenizer: what tokens are counted with (`tokens.counter`); "": estimated as characters / 4.
    """

    source: str
    out: str
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    revision: str | None = None
    limit: int | None = None
    annotator: str = "discourse"
    cap: int | None = None
    min_ratio: float = MIN_RATIO
    format: str = "chat"
    validation: float = 0.1
    seed: int = 0
    licence: str = "unknown"
    tokenizer: str = ""
    cache: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def prices(self) -> Prices | None:
        return read_prices(self.settings["prices"]) if "prices" in self.settings else None

    def to_json(self) -> dict[str, Any]:
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "settings"}
        return {**own, "columns": dict(self.columns), **self.settings}


def read_spec(path: Path) -> CorpusSpec:
    """Read a file and check all of it that can be checked without reading the traces.

    Raises:
        ParamsError: with the file, the key and the way out.
    """
    given = load_yaml(path)
    if not isinstance(given, dict):
        raise ParamsError(f"{path}: expected the keys 'source' and 'out', and what else is to be set")
    known = {**_KEYS, **_MODEL_KEYS}
    if said := unknown(given, known):
        raise ParamsError(f"{path}: {said}")
    for key, value in given.items():
        if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            kinds = " or ".join(kind.__name__ for kind in known[key])
            raise ParamsError(f"{path}: '{key}' is of type {type(value).__name__}; it must be {kinds}")
    for key in ("source", "out"):
        if not given.get(key):
            raise ParamsError(f"{path}: '{key}' is missing")
    settings = {key: value for key, value in given.items() if key in _MODEL_KEYS}
    spec = CorpusSpec(**{key: value for key, value in given.items() if key in _KEYS}, settings=settings)
    try:
        _check(spec)
    except ValueError as error:
        raise ParamsError(f"{path}: {error}") from None
    return spec


def _check(spec: CorpusSpec) -> None:
    if said := unknown([spec.annotator], ANNOTATORS, "annotator"):
        raise ValueError(said)
    if spec.settings and spec.annotator != "model":
        raise ValueError(f"{', '.join(spec.settings)}: only for 'annotator: model', but it is {spec.annotator!r}")
    if said := unknown([spec.format], ("plain", "chat"), "format"):
        raise ValueError(said)
    if not 0 <= spec.validation < 1:
        raise ValueError(f"validation is {spec.validation}; a share from 0 to below 1")
    if spec.cap is not None and spec.cap < 1:
        raise ValueError(f"cap is {spec.cap}; a stage needs room for at least one prompt")
    open_(spec)


def open_(spec: CorpusSpec, chat: Callable[..., Chat] = Chat) -> Annotator:
    """The annotator a spec names. Raises ValueError if its settings cannot be used."""
    if spec.annotator != "model":
        return get_annotator(spec.annotator)
    settings = {key: value for key, value in spec.settings.items() if key != "model_revision"}
    revision = spec.settings.get("model_revision", "")
    cache = spec.cache or spec.folder / "cache"
    return open_annotator(cache=cache, revision=revision, seed=spec.seed, chat=chat, **settings)


# --- a run ----------------------------------------------------------------------------


async def run(spec: CorpusSpec, *, show: bool = True) -> dict[str, Any]:
    """Do all that a spec asks for and return the report, which is also `report.json`; JSON-ready.

    `show`: progress goes to stderr. No data set is written if no trace was kept.

    Raises:
        SourceError, TokenizerError, DatasetError: as the functions that read, count and save.
        EndpointError: if no call to the model can succeed; what has finished is kept.
    """
    count, counted = _counter(spec)
    watch = _Watch(show)
    started = time.monotonic()
    sifted = _traces(spec, watch)
    annotator = open_(spec)
    try:
        packed = await _curated(spec, sifted.kept, annotator, watch)
    finally:
        watch.end()
        if isinstance(annotator, ModelAnnotator):
            await annotator.chat.close()
            store.write_json(spec.folder / "ledger.json", annotator.ledger.to_json())
    packed.aside[:0] = sifted.aside
    report = _report(spec, packed, annotator, counted, time.monotonic() - started)
    store.write_json(spec.folder / "report.json", report)
    if packed.kept:
        _save(spec, packed, {"tokens counted with": counted, **report["prompts"]}, count)
    return report


def _save(spec: CorpusSpec, packed: Sifted[Packed], more: Mapping[str, Any], count: Callable[[str], int]) -> None:
    settings = {**spec.to_json(), **more}
    shape: Any = spec.format  # checked by _check
    save(
        spec.folder / "dataset",
        packed.kept,
        aside=packed.aside,
        settings={key: value for key, value in settings.items() if value not in (None, "", {})},
        format=shape,
        validation=spec.validation,
        seed=spec.seed,
        source=spec.source,
        licence=spec.licence,
        count=count,
    )


async def _curated(spec: CorpusSpec, traces: Sequence[Trace], annotator: Annotator, watch: _Watch) -> Sifted[Packed]:
    ledger = annotator.ledger if isinstance(annotator, ModelAnnotator) else None

    def state() -> str:
        if ledger is None:
            return ""
        lost = f", {ledger.unanswered} unanswered" if ledger.unanswered else ""
        return f"{ledger.asked.calls} calls, {ledger.cached.calls} from the cache, {ledger.retries} retries{lost}"

    steps = await annotate_steps(traces, _Watched(annotator, watch.stage("steps", len(traces), state)))
    needs = _Watched(annotator, watch.stage("dependencies", len(steps.kept), state))
    graphs = await annotate_dependencies(steps.kept, needs)
    packed = pack_traces(graphs.kept, cap=spec.cap, min_ratio=spec.min_ratio)
    return Sifted(packed.kept, [*steps.aside, *graphs.aside, *packed.aside])


def _traces(spec: CorpusSpec, watch: _Watch) -> Sifted[Trace]:
    """The traces with a right answer; all others are set aside."""
    rows = read(spec.source, columns=spec.columns, split=spec.split, revision=spec.revision, limit=spec.limit)
    return graded(_told(rows, watch.stage("read and graded", None)))


def _told(items: Iterable[T], done: Callable[[], None]) -> Iterator[T]:
    for item in items:
        yield item
        done()


def _report(
    spec: CorpusSpec, packed: Sifted[Packed], annotator: Annotator, counted: str, seconds: float
) -> dict[str, Any]:
    traces = [*map(_kept, packed.kept), *map(_aside, packed.aside)]
    ids = Counter(trace["id"] for trace in traces)
    assert max(ids.values(), default=1) == 1, f"a trace ended twice: {ids.most_common(1)}"
    return {
        "spec": spec.to_json(),
        "traces": len(traces),
        **{state: sum(trace["state"] == state for trace in traces) for state in ("kept", "repaired", "aside")},
        "reasons": dict(Counter(f"{trace['stage']}: {_kind(trace['reason'])}" for trace in traces if "stage" in trace)),
        "tokens counted with": counted,
        "prompts": {"prompts": annotator.prompts.version} if isinstance(annotator, ModelAnnotator) else {},
        "ledger": annotator.ledger.to_json() if isinstance(annotator, ModelAnnotator) else None,
        "seconds": round(seconds, 3),
        "provenance": store.provenance(),
        "outcomes": traces,
    }


def _kept(item: Packed) -> dict[str, Any]:
    repairs, packing = item.annotated.repairs, item.packing
    return {
        "id": item.annotated.trace.id,
        "state": "repaired" if repairs else "kept",
        "steps": len(packing.stage_of),
        "stages": len(packing.trajectory.stages),
        "repairs": list(repairs),
        "changes": list(packing.changes),
    }


def _aside(aside: Aside) -> dict[str, Any]:
    return {"id": aside.trace, "state": "aside", "stage": aside.stage, "reason": aside.reason}


def _kind(reason: str) -> str:
    """The first clause of a reason, so that equal ones count together."""
    return reason.partition(":")[0].partition(";")[0][:80]


def describe(report: Mapping[str, Any]) -> str:
    """A report in a few lines for people."""
    good = report["kept"] + report["repaired"]
    lines = [f"{report['traces']:,} traces: {good:,} kept ({report['repaired']:,} of them repaired), "
             f"{report['aside']:,} set aside"]  # fmt: skip
    lines += [f"  {count:,}  {reason}" for reason, count in Counter(report["reasons"]).most_common(12)]
    if ledger := report["ledger"]:
        asked, cached = ledger["asked"], ledger["cached"]
        lines.append(
            f"{asked['calls']:,} calls ({cached['calls']:,} more from the cache), {ledger['retries']:,} retries: "
            f"{asked['prompt_tokens']:,} tokens of prompts, {asked['completion_tokens']:,} of replies, "
            f"{_money(asked['money'], ledger['prices'])}"
        )
        if ledger["unanswered"]:
            lines.append(f"{ledger['unanswered']:,} calls got no reply; the same command asks them again")
    out = Path(report["spec"]["out"])
    lines.append(f"{out / 'report.json'}: every trace; " + (f"{out / 'dataset'}" if good else "no data set, none kept"))
    return "\n".join(lines)


def _money(value: float | str, prices: Mapping[str, Any] | None) -> str:
    if isinstance(value, str):
        return "price unknown" + ("" if prices else " (no prices in the file)")
    return f"{value:,.4f} {prices['currency'] if prices else ''}".rstrip()


def _counter(spec: CorpusSpec) -> tuple[Callable[[str], int], str]:
    """What counts tokens, and what to call it."""
    if not spec.tokenizer:
        return (lambda text: -(-len(text) // 4)), "characters / 4 (an estimate)"
    from sprint_lib import tokens

    return tokens.counter(spec.tokenizer), spec.tokenizer


# --- what it would cost ---------------------------------------------------------------


class _Preview(Chat):
    """Answers from the cache alone and notes what is not in it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.missing: dict[str, Request] = {}

    async def _answer(self, request: Request) -> Reply:
        self.missing[request.key] = request
        raise ChatError("not_cached", "not in the cache")


async def estimate(spec: CorpusSpec) -> dict[str, Any]:
    """What `run` would ask of the model, JSON-ready; nothing is sent or written.

    Calls in the cache cost nothing. Of the others, tokens of prompts are counted, those of replies assumed; a trace
    whose steps are not known yet is taken to need one more call, whose prompt is as long as its text.
    """
    count, counted = _counter(spec)
    sifted = _traces(spec, _Watch(show=False))
    annotator = open_(spec, _Preview)
    tally = Tally()
    cached = 0
    if isinstance(annotator, ModelAnnotator):
        for trace in sifted.kept:
            await _foresee(trace, annotator, count, tally)
        cached = annotator.ledger.cached.calls
    money = tally.money(spec.prices)
    return {
        "traces": len(sifted.kept) + len(sifted.aside),
        "right": len(sifted.kept),
        "calls": tally.calls,
        "cached": cached,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "tokens counted with": counted,
        "assumed": f"replies of {STEPS_TOKENS} and {NEEDS_TOKENS} tokens a line; no question asked again",
        "money": "unknown" if money is None else money,
        "prices": vars(spec.prices) if spec.prices else None,
    }


async def _foresee(trace: Trace, annotator: ModelAnnotator, count: Callable[[str], int], tally: Tally) -> None:
    chat, lines = annotator.chat, number_lines(trace.text)
    assert isinstance(chat, _Preview)
    chat.missing.clear()
    starts = annotator.starts(lines)
    requests = [
        chat.request(annotator.step_messages(trace.question, lines, start), STEPS_SCHEMA, annotator.prompts.version)
        for start in starts
    ]
    missing = [request for request in requests if not chat.cache.path(request.key).exists()]
    if missing:
        _add(tally, missing, STEPS_TOKENS * len(lines) // len(starts), count)
        fixed = count(annotator.prompts.dependencies.system + annotator.prompts.dependencies.user)
        tally.calls += 1
        tally.prompt_tokens += fixed + count(trace.question + trace.text)
        tally.completion_tokens += NEEDS_TOKENS * len(lines)
        return
    try:
        steps = await annotator.steps(trace.question, lines)
        await annotator.dependencies(trace.question, lines, steps)
    except AnnotationError:
        _add(tally, list(chat.missing.values()), NEEDS_TOKENS * len(lines), count)


def _add(tally: Tally, requests: Sequence[Request], reply: int, count: Callable[[str], int]) -> None:
    for request in requests:
        tally.calls += 1
        tally.prompt_tokens += sum(count(message["content"]) for message in request.messages)
        tally.completion_tokens += reply


def describe_estimate(found: Mapping[str, Any]) -> str:
    """An estimate in a few lines for people."""
    lines = [f"{found['traces']:,} traces, {found['right']:,} with the right answer",
             f"{found['calls']:,} calls to make ({found['cached']:,} are in the cache)"]  # fmt: skip
    if found["calls"]:
        lines += [
            f"about {found['prompt_tokens']:,} tokens of prompts and {found['completion_tokens']:,} of replies "
            f"(counted with {found['tokens counted with']}; assumed: {found['assumed']})",
            f"estimated price: {_money(found['money'], found['prices'])}",
        ]
    return "\n".join(lines)


# --- progress -------------------------------------------------------------------------


class _Watch:
    """A line on stderr that says how far a run is: rewritten on a terminal, anywhere else one every few seconds."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._next = self._started + (0.0 if self._live else _EVERY)

    def stage(self, name: str, total: int | None, state: Callable[[], str] = str) -> Callable[[], None]:
        """A function to call whenever one of `total` pieces of a stage is done."""
        done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            now = time.monotonic()
            if self._show and (now >= self._next or done == total):
                self._next = now + (0.2 if self._live else _EVERY)
                of = f"/{total:,}" if total is not None else ""
                parts = (f"{name} {done:,}{of}", state(), f"{readable(now - self._started)} s")
                text = " · ".join(part for part in parts if part)
                sys.stderr.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
                sys.stderr.flush()

        return tell

    def end(self) -> None:
        if self._show and self._live:
            sys.stderr.write("\n")


class _Watched:
    """An annotator that tells of every trace it is done with."""

    def __init__(self, annotator: Annotator, done: Callable[[], None]) -> None:
        self._annotator, self._done = annotator, done

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        try:
            return await self._annotator.steps(question, lines, repaired)
        finally:
            self._done()

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        try:
            return await self._annotator.dependencies(question, lines, steps, repaired)
        finally:
            self._done()
