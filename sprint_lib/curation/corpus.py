"""`sprint curate`: one file says which traces become which data set, by which annotator and at what price.

Traces are read and graded, annotated, packed and saved with a report on every one of them: kept, repaired or set
aside, with the reasons. Replies of a model are stored as they come, so the same command after a kill repeats no
finished call; `estimate` says what a run would cost before anything is spent.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sprint_lib import store
from sprint_lib.chat import Chat, ChatError, CorruptError, Prices, Reply, Request, Tally
from sprint_lib.curation import Aside, Packed, Sifted, Trace, curate
from sprint_lib.curation.annotators import ANNOTATORS, description, get_annotator
from sprint_lib.curation.dataset import save
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.llm import SETTINGS, ModelAnnotator, open_annotator, read_prices
from sprint_lib.curation.packing import MIN_RATIO
from sprint_lib.curation.replies import STEPS_SCHEMA
from sprint_lib.curation.sources import SourceError, graded, public_name, read
from sprint_lib.curation.steps import AnnotationError, Annotator
from sprint_lib.estimate import assumed
from sprint_lib.params import ParamsError, load_yaml
from sprint_lib.progress import Every
from sprint_lib.wording import kind_of, readable, unknown

T = TypeVar("T")

# Assumed of replies, tokens a line of the trace; the estimate says so.
STEPS_TOKENS, NEEDS_TOKENS = round(assumed("steps_reply")), round(assumed("needs_reply"))
_EVERY, _LIVE_EVERY = 5.0, 0.2  # seconds between two lines on progress; where they overwrite each other

EXAMPLE = Path(__file__).parent / "example.yaml"  # every key, with what it is for


@dataclass(frozen=True)
class CorpusSpec:
    """What `sprint curate` is asked for.

    Attributes:
        source, columns, split, revision, limit: of the traces, as in `sources.read`.
        out: the folder for dataset/, report.json, ledger.json and, unless `cache` names another, cache/.
        annotator: a name of `ANNOTATORS`; `model` has `settings`, by the keys of `MODEL_KEYS`.
        cap, min_ratio: of packing.
        format, validation, licence: of the data set, as in `dataset.save`.
        seed: of the split; the model's is `model_seed`.
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
    def of_model(self) -> dict[str, Any]:
        """`settings` by the names that `llm.open_annotator` has for them."""
        return {MODEL_KEYS[key]: value for key, value in self.settings.items()}

    @property
    def prices(self) -> Prices | None:
        return read_prices(self.settings["prices"]) if self.settings.get("prices") else None

    def to_json(self) -> dict[str, Any]:
        """All that was set, but for the variable's name, in whose place somebody may have put the key."""
        own = {name: value for name, value in vars(self).items() if name != "settings"}
        more = {key: value for key, value in self.settings.items() if key != "key_variable"}
        return {**own, "columns": dict(self.columns), **more}


KEYS = {name: hint for name, hint in get_type_hints(CorpusSpec).items() if name != "settings"}
MODEL_KEYS = {f"model_{name}" if name in KEYS else name: name for name in SETTINGS if name != "cache"}


def read_spec(path: Path) -> CorpusSpec:
    """Read a file and check all of it that can be checked without reading the traces.

    Raises:
        ParamsError: with the file, the key and the way out.
    """
    given = load_yaml(path)
    if not isinstance(given, dict):
        raise ParamsError(f"{path}: expected the keys 'source' and 'out', and what else is to be set")
    known = {**KEYS, **{key: SETTINGS[name] for key, name in MODEL_KEYS.items()}}
    if said := unknown(given, known):
        raise ParamsError(f"{path}: {said}")
    for key, value in given.items():
        if not _fits(value, known[key]):
            raise ParamsError(f"{path}: '{key}' is of type {type(value).__name__}; it must be {_name(known[key])}")
    for key in ("source", "out"):
        if not given.get(key):
            raise ParamsError(f"{path}: '{key}' is missing")
    settings = {key: given.pop(key) for key in list(given) if key in MODEL_KEYS}
    spec = CorpusSpec(**given, settings=settings)
    try:
        _check(spec)
    except ValueError as error:
        raise ParamsError(f"{path}: {error}") from None
    return spec


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of YAML is of an annotated type; an integer is a number, too, a truth value is none."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    kind = get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _name(hint: Any) -> str:
    """The types of YAML that fit an annotation."""
    names = {type(None): "null", Mapping: "dict"}
    kinds = [get_origin(one) or one for one in (get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint])]
    return " or ".join(sorted({names.get(k, k.__name__) for k in kinds if k not in (Path, Prices)}, key="null".__eq__))


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
    if not 0 <= spec.min_ratio < 1_000:
        raise ValueError(f"min_ratio is {spec.min_ratio}; steps a stage, from 0 to below 1000")
    open_(spec)


def open_(spec: CorpusSpec, chat: Callable[..., Chat] = Chat) -> Annotator:
    """The annotator a spec names. Raises ValueError if its settings cannot be used."""
    if spec.annotator != "model":
        return get_annotator(spec.annotator)
    return open_annotator(cache=spec.cache or spec.folder / "cache", chat=chat, **spec.of_model)


# --- a run ----------------------------------------------------------------------------


async def run(spec: CorpusSpec, *, show: bool = True) -> dict[str, Any]:
    """Do all that a spec asks for and return the report, which is also `report.json`; JSON-ready.

    `show`: progress goes to stderr. If no trace was kept there is no data set, and one that an earlier run made goes
    to `dataset.old`.

    Raises:
        SourceError: also if two traces have one id.
        TokenizerError, DatasetError: as the functions that count and save.
        EndpointError: if no call to the model can succeed; what has finished is kept.
    """
    count, counted = _counter(spec)
    watch = _Watch(show)
    started = time.monotonic()
    sifted = _traces(spec, watch)
    for trace in sifted.kept:
        count(trace.text)  # a tokenizer that does not know these words says so before anything is asked
    annotator = open_(spec)
    try:
        watch.state = _state(annotator)
        packed = await curate(sifted.kept, annotator, cap=spec.cap, min_ratio=spec.min_ratio, stage=watch.stage)
    finally:
        watch.end()
        if isinstance(annotator, ModelAnnotator):
            await annotator.chat.close()
            store.write_json(spec.folder / "ledger.json", annotator.ledger.to_json())
    packed.aside[:0] = sifted.aside
    _save(spec, packed, annotator, count, counted)
    report = _report(spec, packed, annotator, counted, time.monotonic() - started)
    store.write_json(spec.folder / "report.json", report)
    return report


def _save(
    spec: CorpusSpec, packed: Sifted[Packed], annotator: Annotator, count: Callable[[str], int], counted: str
) -> None:
    """The data set of this run and of no other one; its card tells nothing of this machine."""
    folder = spec.folder / "dataset"
    if not packed.kept:
        if folder.exists():
            old = folder.with_name("dataset.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        return
    settings = {
        **description(spec.annotator, annotator, spec.of_model),
        **{"cap": spec.cap, "min_ratio": spec.min_ratio},
        "tokens counted with": public_name(spec.tokenizer) if spec.tokenizer else counted,
    }
    shape: Any = spec.format  # checked by _check
    save(
        folder,
        packed.kept,
        aside=packed.aside,
        settings=settings,
        format=shape,
        validation=spec.validation,
        seed=spec.seed,
        source=public_name(spec.source),
        licence=spec.licence,
        count=count,
    )


def _state(annotator: Annotator) -> Callable[[], str]:
    """What an annotator's progress is said with."""
    if not isinstance(annotator, ModelAnnotator):
        return str
    ledger = annotator.ledger

    def state() -> str:
        lost = f", {ledger.unanswered} unanswered" if ledger.unanswered else ""
        return f"{ledger.asked.calls} calls, {ledger.cached.calls} from the cache, {ledger.retries} retries{lost}"

    return state


def _traces(spec: CorpusSpec, watch: _Watch) -> Sifted[Trace]:
    """The traces with a right answer; all others are set aside.

    Raises:
        SourceError: as `read`, and if two traces have one id, as the report could not tell them apart.
    """
    rows = read(spec.source, columns=spec.columns, split=spec.split, revision=spec.revision, limit=spec.limit)
    sifted = graded(_told(rows, watch.stage("read and graded", None)))
    ids = Counter([*(trace.id for trace in sifted.kept), *(aside.trace for aside in sifted.aside)])
    if twice := [id_ for id_, times in ids.items() if times > 1]:
        raise SourceError(f"{spec.source}: two traces have the id {twice[0]!r}; rename one of them")
    return sifted


def _told(items: Iterable[T], done: Callable[[], None]) -> Iterator[T]:
    for item in items:
        yield item
        done()


def _report(
    spec: CorpusSpec, packed: Sifted[Packed], annotator: Annotator, counted: str, seconds: float
) -> dict[str, Any]:
    traces = [*map(_kept, packed.kept), *map(_aside, packed.aside)]
    return {
        "spec": spec.to_json(),
        "traces": len(traces),
        **{state: sum(trace["state"] == state for trace in traces) for state in ("kept", "repaired", "aside")},
        "reasons": dict(
            Counter(f"{trace['stage']}: {kind_of(trace['reason'])}" for trace in traces if "stage" in trace)
        ),
        "tokens counted with": counted,
        "prompts": annotator.prompts.version if isinstance(annotator, ModelAnnotator) else None,
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

    def known(self, request: Request) -> Reply | None:
        with suppress(CorruptError):  # which stays where it is, and would be asked for again
            return self.cache.read(request.key)
        return None

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
    for start in starts:  # a trace's annotator stops at the first part that is not in the cache
        messages = annotator.step_messages(trace.question, lines, start)
        request = chat.request(messages, STEPS_SCHEMA, annotator.prompts.version)
        if chat.known(request) is None:
            chat.missing[request.key] = request
    if not chat.missing:
        with suppress(AnnotationError):
            steps = await annotator.steps(trace.question, lines)
            await annotator.dependencies(trace.question, lines, steps)
    about_steps = [request for request in chat.missing.values() if request.schema is STEPS_SCHEMA]
    for request in chat.missing.values():
        reply = STEPS_TOKENS * len(lines) // len(starts) if request in about_steps else NEEDS_TOKENS * len(lines)
        _add(tally, sum(count(message["content"]) for message in request.messages), reply)
    if about_steps:  # then the question for what they need is still to come
        fixed = annotator.prompts.dependencies
        _add(tally, count(fixed.system + fixed.user) + count(trace.question + trace.text), NEEDS_TOKENS * len(lines))


def _add(tally: Tally, prompt: int, reply: int) -> None:
    tally.calls += 1
    tally.prompt_tokens += prompt
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
        self._due = Every(_LIVE_EVERY if self._live else _EVERY)
        self.state: Callable[[], str] = str

    def stage(self, name: str, total: int | None) -> Callable[[], None]:
        """A function to call whenever one of `total` pieces of a stage is done."""
        done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            if self._show and self._due(now=done == total):
                of = f"/{total:,}" if total is not None else ""
                parts = (f"{name} {done:,}{of}", self.state(), f"{readable(time.monotonic() - self._started)} s")
                text = " · ".join(part for part in parts if part)
                sys.stderr.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
                sys.stderr.flush()

        return tell

    def end(self) -> None:
        if self._show and self._live:
            sys.stderr.write("\n")
