"""The command `sprint`: what a person types and what other programs read (`--json`). Every command imports what it
needs when it runs, so that `sprint status` answers at once.

Exit status: 0 done, 1 the work itself failed, 2 refused before anything was done, 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprint_lib import __version__

if TYPE_CHECKING:
    from sprint_lib.evaluation.runs import RunSpec
    from sprint_lib.store import Workspace

_PROBLEM = re.compile(r"\s*(?:Numbers:)?\s*(\d{1,6}(?:[\s,]+\d{1,6}){1,3})\s*(?:->|→|Target:|=)\s*(\d{1,6})\s*")
_SHOWN_DEFECTS = 20
_CLAIM = ("id", "source", "paper", "value", "low", "high", "n", "verdict")  # what is shown of one


class CommandError(Exception):
    """What was asked cannot be done; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped; what has finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _is_refusal(error):
            raise
        for line in str(error).splitlines():
            print(f"sprint: {line}", file=sys.stderr)
        return 2
    return status


def _is_refusal(error: Exception) -> bool:
    """True for errors whose message is for the person who typed the command."""
    from sprint_lib.params import ParamsError

    kinds: tuple[type[Exception], ...] = (CommandError, ParamsError)
    others = {
        **{"suite": "SuiteError", "texts": "TextError", "engines": "EngineError", "store": "LogError"},
        **{"tokens": "TokenizerError", "released": "ReleasedError", "serving": "ServingError"},
        **{"curation.sources": "SourceError", "curation.dataset": "DatasetError", "endpoint.requests": "ServeError"},
    }
    for module, name in others.items():
        if loaded := sys.modules.get(f"sprint_lib.{module}"):
            kinds = (*kinds, getattr(loaded, name))
    return isinstance(error, kinds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sprint", description="SPRINT: parallel reasoning, from traces to figures.")
    parser.add_argument("--version", action="version", version=f"sprint {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_suite_commands(commands)
    _add_text_commands(commands)
    _add_model_commands(commands)
    return parser


Commands = Any  # argparse does not name the type of add_subparsers()


def _add(
    commands: Commands, name: str, function: Callable[[argparse.Namespace], int], text: str, *, as_json: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON for other programs")
    return parser


def _add_suite_commands(commands: Commands) -> None:
    run = _add(commands, "run", _run, "run the notebooks of a profile that are not up to date, and rebuild its report")
    run.add_argument("--only", nargs="+", default=[], metavar="NN", help="only these notebooks, by number or name")
    run.add_argument("--with", dest="also", nargs="+", default=[], metavar="NN", help="also these opt-in notebooks")
    run.add_argument("--from", dest="start", metavar="NN", help="from this notebook on")
    run.add_argument("--force", action="store_true", help="also what is up to date (finished records are kept)")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would run, what it takes and what lacks; do nothing"
    )
    status = _add(commands, "status", _status, "show what of a profile is up to date, running, stale", as_json=True)
    claims = _add(commands, "claims", _claims, "show the papers' numbers beside this run's", as_json=True)
    for parser in (run, status, claims):
        parser.add_argument("--profile", default="laptop", help="a file of params/ (default: laptop)")
    _add(commands, "doctor", _doctor, "say what works on this machine, and what to do about the rest", as_json=True)


def _add_text_commands(commands: Commands) -> None:
    parse = _add(commands, "parse", _parse, "read trajectories: stages, prompts, executions, defects", as_json=True)
    tokens = _add(
        commands, "tokens", _tokens, "count sequential, serial and total tokens of trajectories", as_json=True
    )
    tokens.add_argument(
        "--tokenizer",
        metavar="NAME",
        default="countdown-base",
        help="folder with tokenizer.json, .tiktoken file of Qwen2.5, or name on the hub (default: the shipped one)",
    )
    tokens.add_argument(
        "--tags", action="store_true", help="count the tags in texts, too (recorded calls include them)"
    )
    for parser in (parse, tokens):
        parser.add_argument("path", type=Path, help="a text, a .jsonl file of texts or attempts, or a folder of such")
    released = commands.add_parser("released", help="the logs that the authors of SPRINT released")
    actions = released.add_subparsers(required=True, metavar="fetch|check")
    fetch = _add(actions, "fetch", _fetch, "get what is not there yet of the released logs, with git over the network")
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="where (default: SPRINT_RELEASED_DIR or the cache)")
    check = _add(actions, "check", _check, "compare a copy of the released logs with their hashes", as_json=True)
    check.add_argument("folder", nargs="?", type=Path, help="default: SPRINT_RELEASED_DIR or the cache")


def _add_model_commands(commands: Commands) -> None:
    solve = _add(commands, "solve", _solve, "solve one Countdown problem in parallel stages and show how", as_json=True)
    solve.add_argument("problem", help='for example "3 4 5 7 -> 24"')
    solve.add_argument("--profile", default="laptop", help="whose fine-tuned model to take, if it was trained")
    solve.add_argument("--model", help="folder or name of another model")
    solve.add_argument("--method", default="sprint", help="sprint (default) or sequential")
    solve.add_argument("--temperature", type=float, default=0.0)
    solve.add_argument("--seed", type=int, default=0)
    _add_serving(commands)
    _add_endpoint(commands)
    train = commands.add_parser("train", help="train a model").add_subparsers(required=True, metavar="base|sft")
    base = _add(train, "base", _train_base, "train a base model from scratch on the worked solutions of a task")
    base.add_argument("--out", type=Path, required=True, help="folder for the model")
    base.add_argument(
        "--task",
        default="countdown",
        help="countdown (default); countdown-deep, then countdown-chains and -near; longhand, then longhand-sums, "
        "-whole and -many: each later one with --start",
    )
    base.add_argument("--start", type=Path, help="folder of a finished base model to go on from")
    base.add_argument("--tokens", type=int, help="tokens seen in training")
    base.add_argument("--seed", type=int, default=0)
    base.add_argument("--threads", type=int, default=2)
    sft = _add(train, "sft", _train_sft, "fine-tune as a JSON file says: samples, base, out, config")
    sft.add_argument("config", type=Path)
    curate = _add(
        commands, "curate", _curate, "make a data set of traces as a YAML file says; goes on where it was", as_json=True
    )
    curate.add_argument("spec", type=Path, nargs="?", help="source, out, annotator, model, base_url, prices, ...")
    curate.add_argument("--example", action="store_true", help="print such a file with every key and what it is for")
    curate.add_argument("--dry-run", action="store_true", help="say what would be asked and paid, and do nothing")
    curate.add_argument("--push", metavar="OWNER/NAME", help="upload the data set to the hub when it is saved")
    evaluate = _add(commands, "eval", _eval, "run a method on a task as a JSON or YAML file says; goes on where it was")
    evaluate.add_argument("spec", type=Path, help="one run or a list of runs: name, method, task, split, n, seed, ...")
    evaluate.add_argument("--profile", default="laptop", help="whose data/attempts/ to write (default: laptop)")


def _add_serving(commands: Commands) -> None:
    server = _add(commands, "serve-model", _serve_model, "serve a model by an OpenAI-compatible server, vLLM")
    server.add_argument("model", help="folder in Hugging Face's layout, owner/name on the hub, or a shipped model")
    server.add_argument("--name", default="", help="what requests call it (default: its folder's name)")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    server.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    server.add_argument("--dtype", default="auto", help="auto (as saved), float32, bfloat16, float16")
    server.add_argument("--max-model-len", type=int, metavar="TOKENS", help="longest context (default: the model's)")
    server.add_argument("--data-parallel-size", type=int, default=1, metavar="N", help="copies of it, a GPU each")
    server.add_argument("--nodes", type=int, default=1, metavar="M", help="machines that share the copies, by Ray")
    server.add_argument("--log", type=Path, metavar="FILE", help="default: in the server's environment")
    server.add_argument("--dry-run", action="store_true", help="print the exact command and start nothing")
    server.add_argument("--device", choices=("cpu", "cuda"), help="for --dry-run (default: what is installed)")


def _add_endpoint(commands: Commands) -> None:
    text = "answer questions by SPRINT as an OpenAI-compatible server, in front of a model or of servers of it"
    endpoint = _add(commands, "serve", _serve, text)
    endpoint.add_argument(
        "model", nargs="?", help="folder, shipped model, or YAML file that describes engine and limits"
    )
    endpoint.add_argument("--profile", default="laptop", help="whose models to take if none is named and they exist")
    endpoint.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    endpoint.add_argument("--port", type=int, default=8100, help="0: any that is free (default: 8100)")
    endpoint.add_argument("--key-variable", metavar="NAME", help="environment variable with the key that clients send")
    endpoint.add_argument("--insecure", action="store_true", help="no key, though others can reach the address")


# --- the suite ------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from sprint_lib import suite

    return suite.run(
        options.profile,
        only=options.only,
        also=options.also,
        start=options.start,
        force=options.force,
        dry_run=options.dry_run,
    )


def _status(options: argparse.Namespace) -> int:
    from sprint_lib import suite
    from sprint_lib.progress import about, duration

    status = suite.status(options.profile)
    if options.json:
        return _print_json(status)
    rows = status["notebooks"]
    width = max(len(row["notebook"]) for row in rows)
    for row in rows:
        took = duration(row["seconds"]) if row["seconds"] is not None else about(row["estimated_seconds"])
        why = row["failure"]["error"] if row["state"] == "failed" else "; ".join(row["why"])
        print(f"{row['notebook']:<{width}}  {row['state']:<10}  {took:>12}  {why}".rstrip())
    counts = Counter(row["state"] for row in rows)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if status["running"]:
        at = status["running"]["at"]
        place = f"{at['notebook']}, cell {at['cell']} of {at['cells']}" if at else "starting"
        print(f"running now (process {status['running']['pid']}): {place}")
    return 0


def _claims(options: argparse.Namespace) -> int:
    rows = _read_claims(options.profile)
    if options.json:
        return _print_json(rows)
    from sprint_lib.evaluation.claims import OWN, RELEASED
    from sprint_lib.report import by_basis, counted_anew, measured

    found, built = by_basis(rows)
    table = [["claim", "source", "paper", "found", "n", "verdict", "of"]]
    for row in rows:
        if row["value"] is None:
            continue
        paper, here, low, high = (measured(row[key], row.get("unit")) for key in ("paper", "value", "low", "high"))
        interval = f" [{low}, {high}]" if low != high else ""
        claim = row.get("quantity") or row["id"]
        verdict = row["verdict"] + (" (by construction)" if row in built else "")
        of = row.get("of") or OWN
        table.append([claim, row["source"], paper, here + interval, measured(row["n"]), verdict, of])
    _print_table(table)
    apart = f"; by construction, counted apart: {len(built)}" if built else ""
    print(f"\n{OWN}: {_verdicts(found)}{apart}")
    if anew := counted_anew(rows):
        print(f"{RELEASED}: {_verdicts(anew)}")
    return 0


def _verdicts(rows: Iterable[Any]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(row["verdict"] for row in rows).most_common())


def _read_claims(profile: str) -> list[dict[str, Any]]:
    path = _workspace(profile).claims
    if not path.exists():
        raise CommandError(f"{path}: not there yet; `sprint run --profile {profile}` writes it at its end")
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        lacking = {key for row in rows for key in _CLAIM if key not in row}
    except (ValueError, TypeError) as error:
        raise CommandError(f"{path}: damaged ({error}); {_anew(profile)}") from error
    if lacking:
        raise CommandError(f"{path}: damaged (a row lacks {', '.join(sorted(lacking))}); {_anew(profile)}")
    return rows


def _anew(profile: str) -> str:
    return f"delete it, `sprint run --profile {profile}` writes it anew"


def _workspace(profile: str) -> Workspace:
    from sprint_lib.store import Workspace

    try:
        workspace = Workspace(profile)
        workspace.root  # noqa: B018 - found now, so that a missing repository is said here
        return workspace
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(str(error)) from error


def _doctor(options: argparse.Namespace) -> int:
    from sprint_lib import doctor

    findings = doctor.examine()
    if options.json:
        _print_json([finding.to_json() for finding in findings])
    else:
        doctor.show(findings)
    return 1 if any(finding.state == "missing" for finding in findings) else 0


# --- texts ----------------------------------------------------------------------------


def _parse(options: argparse.Namespace) -> int:
    from sprint_lib import texts

    found = [texts.outline(item) for item in texts.read_items(options.path)]
    if options.json:
        return _print_json(found)
    if len(found) == 1:
        _print_outline(found[0])
        return 0
    for file, group in _by_file(found).items():
        print(f"{file}: {_summary(group)}")
    if len(_by_file(found)) > 1:
        print(f"\n{len(_by_file(found)):,} files: {_summary(found)}")
    return 0


def _summary(found: Sequence[dict[str, Any]]) -> str:
    stages = sum(len(one["stages"]) for one in found)
    defects = Counter(defect["kind"] for one in found for defect in one["defects"])
    said = ", ".join(f"{kind} {count:,}" for kind, count in defects.most_common()) or "none"
    read = sum(one["question"] is not None for one in found)
    return f"{read:,} texts, {stages:,} stages, defects: {said}"


def _print_outline(found: dict[str, Any]) -> None:
    for stage in found["stages"]:
        prompts = sum("prompt" in part for part in stage["plan"])
        print(f"stage {stage['number']}: {prompts} prompts, {len(stage['executions'])} executions")
    final = found["final"]
    print("no final answer" if final is None else f"final answer: {final.strip()}")
    for defect in found["defects"][:_SHOWN_DEFECTS]:
        print(f"defect at character {defect['at']}: {defect['kind']}: {defect['note']}")
    if len(found["defects"]) > _SHOWN_DEFECTS:
        print(f"and {len(found['defects']) - _SHOWN_DEFECTS} more defects (all of them with --json)")


def _tokens(options: argparse.Namespace) -> int:
    from sprint_lib import texts, tokens
    from sprint_lib.wording import readable

    count = tokens.counter(options.tokenizer)
    found = [texts.costs(item, count, tags=options.tags) for item in texts.read_items(options.path)]
    if options.json:
        return _print_json(found)
    kinds = ("sequential", "serial", "total", "stages")
    table = [["file", "texts", *kinds]]
    for file, group in _by_file(found).items():
        counted = [one for one in group if one["total"] is not None]
        means = [sum(one[kind] for one in counted) / len(counted) if counted else None for kind in kinds]
        table.append([file, str(len(counted)), *map(readable, means)])
    _print_table(table)
    if len(found) > 1:
        print("\nmeans over the texts of a file")
    for one in found:
        for defect in one["defects"]:
            print(f"{one['file']}{one['record'] and ':' + one['record']}: {defect['kind']}: {defect['note']}")
    return 0


def _by_file(found: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(one["file"], []).append(one)
    return groups


def _fetch(options: argparse.Namespace) -> int:
    from sprint_lib import released

    found = released.fetch(options.to, report=lambda line: print(line, flush=True))
    print(f"{found.root}: complete")
    return 0


def _check(options: argparse.Namespace) -> int:
    from sprint_lib import released

    found = released.Released(released.locate(options.folder))
    states = found.check()
    good = all(state.state == "ok" for state in states)
    if options.json:
        _print_json([asdict(state) for state in states])
    else:
        rows = [[state.part, state.state, str(state.files), state.detail] for state in states]
        _print_table([["part", "state", "files", ""], *rows])
        if not good:
            print(f"\n`sprint released fetch --to {found.root}` gets what is missing or differs")
    return 0 if good else 1


# --- models ---------------------------------------------------------------------------


def _solve(options: argparse.Namespace) -> int:
    import asyncio

    from sprint_lib import accounting
    from sprint_lib.engines import EngineSpec, open_engine
    from sprint_lib.methods import get_method
    from sprint_lib.tasks import countdown, get_task
    from sprint_lib.wording import readable

    numbers, target = _problem(options.problem)
    task = get_task("countdown")
    problem = countdown.problem(numbers, target)
    try:
        method = get_method(options.method)
    except KeyError as error:
        raise CommandError(error.args[0]) from error
    settings = method.settings.from_dict({"temperature": options.temperature, "seed": options.seed})
    model = _model_folder(options.model) if options.model else _default_model(options.method, options.profile)

    async def attempt() -> Any:
        engine = open_engine(EngineSpec(model=str(model)))
        try:
            return await method.solve(problem, task, engine, settings)
        finally:
            await engine.close()

    tried = asyncio.run(attempt())
    costs = accounting.costs(tried)
    if options.json:
        return _print_json({"model": str(model), "tokens": costs, "attempt": tried.to_json()})
    print(tried.text.rstrip("\n"))
    verdict = "correct" if tried.correct else f"not correct ({tried.note or tried.status})"
    print(f"\n{tried.answer or 'no answer'}: {verdict}")
    tokens = ", ".join(f"{kind} {readable(costs[kind])}" for kind in ("sequential", "serial", "total"))
    print(f"tokens: {tokens}; {readable(costs['calls'])} calls in {readable(costs['stages'])} stages")
    print(f"{tried.wall_seconds:.2f} s with {model}")
    return 1 if tried.status == "engine_error" else 0


def _problem(text: str) -> tuple[list[int], int]:
    """Numbers and target of a typed problem, within what the Countdown language can say."""
    from sprint_lib.tasks.countdown import MAX_VALUE

    match = _PROBLEM.fullmatch(text)
    if not match:
        raise CommandError(f'{text!r}: not a problem; write two to four numbers and a target, such as "3 4 5 7 -> 24"')
    numbers, target = [int(n) for n in re.findall(r"\d+", match.group(1))], int(match.group(2))
    if not all(1 <= n <= MAX_VALUE for n in (*numbers, target)):
        raise CommandError(f"{text!r}: the model knows numbers from 1 to {MAX_VALUE}")
    return numbers, target


def _default_model(method: str, profile: str) -> Path:
    """The model for a method that a profile has trained here, else the one that is shipped for it."""
    from sprint_lib import store

    name, shipped = ("rft", "countdown-base") if method == "sequential" else ("sprint", "countdown-sprint")
    try:
        trained = store.Workspace(profile).models / name
    except (FileNotFoundError, ValueError):
        trained = Path()
    return trained if (trained / "training.json").is_file() else _model_folder(shipped)


def _model_folder(name: str) -> Path:
    """A model's folder, or the shipped model of that name."""
    from sprint_lib import models

    if Path(name).is_dir():
        return Path(name)
    try:
        return models.path(name)
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error


def _train_base(options: argparse.Namespace) -> int:
    from sprint_lib.training.base import train_base
    from sprint_lib.training.languages import get_language

    given = {"seed": options.seed, "threads": options.threads}
    if options.tokens is not None:
        given["tokens"] = options.tokens
    try:
        config = get_language(options.task)(**given)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if options.start and not (options.start / "training.json").is_file():
        raise CommandError(f"{options.start}: no finished base model here (no training.json)")
    summary = train_base(options.out, config, lambda row: print(json.dumps(row), flush=True), start=options.start)
    print(f"{options.out}: {summary['tokens']:,} tokens in {summary['seconds']} s")
    return 0


def _train_sft(options: argparse.Namespace) -> int:
    from sprint_lib.params import load_yaml
    from sprint_lib.training import sft

    def report(progress: sft.Progress) -> None:
        print(json.dumps(asdict(progress)), flush=True)

    try:
        summary = sft.train_job(sft.Job.from_json(load_yaml(options.config)), report)  # JSON is YAML
    except sft.SftError as error:
        raise CommandError(f"{options.config}: {error}") from error
    print(json.dumps({key: summary[key] for key in ("steps", "tokens", "computed_tokens", "seconds")}))
    return 0


def _eval(options: argparse.Namespace) -> int:
    from sprint_lib.evaluation import runs

    specs, workspace = _read_specs(options.spec), _workspace(options.profile)
    try:
        found = runs.run_many(specs, workspace, report=runs.printer())
    except runs.RunError as error:
        print(f"sprint: {error}", file=sys.stderr)
        return 1
    for name, attempts in found.items():
        print(f"{name}: {len(attempts)} attempts, {sum(attempt.correct for attempt in attempts)} correct")
    return 0


def _curate(options: argparse.Namespace) -> int:
    import asyncio

    from sprint_lib.chat import EndpointError
    from sprint_lib.curation import corpus

    if options.example:
        print(corpus.EXAMPLE.read_text(encoding="utf-8"), end="")
        return 0
    if options.spec is None:
        raise CommandError("name a YAML file; `sprint curate --example` prints one with every key")
    spec = corpus.read_spec(options.spec)
    if options.dry_run:
        found = asyncio.run(corpus.estimate(spec))
        if options.json:
            return _print_json(found)
        print(corpus.describe_estimate(found))
        return 0
    try:
        report = asyncio.run(corpus.run(spec))
    except EndpointError as error:
        print(f"sprint: {error}", file=sys.stderr)
        return 1
    if options.json:
        _print_json(report)
    else:
        print(corpus.describe(report))
    if options.push:
        from sprint_lib.curation import dataset

        if not report["kept"] + report["repaired"]:
            print(f"sprint: nothing was sent to {options.push}: this run kept no trace", file=sys.stderr)
            return 1
        print(dataset.push(spec.folder / "dataset", options.push), file=sys.stderr)
    return 0


def _read_specs(path: Path) -> list[RunSpec]:
    """The runs a file describes, checked as far as can be without an engine."""
    from sprint_lib.evaluation.runs import RunSpec, run_key
    from sprint_lib.params import load_yaml

    given = load_yaml(path)  # JSON is YAML
    entries = given if isinstance(given, list) else [given]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise CommandError(f"{path}: expected a run or a list of runs, each with 'name' and 'method'")
    try:
        specs = [RunSpec.from_json(entry) for entry in entries]
        for spec in specs:
            run_key(spec)  # looks up method, task and model, and checks the settings
    except (ValueError, TypeError, AttributeError, KeyError, FileNotFoundError) as error:
        raise CommandError(f"{path}: {error.args[0] if isinstance(error, KeyError) else error}") from error
    if len({spec.name for spec in specs}) < len(specs):
        raise CommandError(f"{path}: two runs have one name")
    return specs


def _serve_model(options: argparse.Namespace) -> int:
    from sprint_lib import serving

    given = ("model", "name", "host", "port", "dtype", "max_model_len", "data_parallel_size", "nodes")
    settings = serving.Settings(**{key: getattr(options, key) for key in given})
    if options.dry_run:
        print(serving.command(settings, serving.assumed_environment(options.device)))
        return 0
    if options.device:
        raise CommandError("--device is for --dry-run; what is installed decides: `make server DEVICE=cpu` or cuda")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through the end of the with block
    server = serving.Server(settings, options.log)
    print(f"starting; log: {server.log}", file=sys.stderr)
    try:
        with server:
            print(server.url, flush=True)
            print(f"serving {server.name!r}; Ctrl-C stops it", file=sys.stderr)
            server.watch()
    except serving.ServerDied as error:
        print(f"sprint: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 1


def _serve(options: argparse.Namespace) -> int:
    import asyncio

    from sprint_lib.endpoint.desk import open_desk
    from sprint_lib.endpoint.server import serving

    config, key, variable = _endpoint_config(options), "", options.key_variable
    if variable is not None:
        if not variable.isidentifier():
            raise CommandError("--key-variable takes the name of an environment variable (the key does not go here)")
        key = os.environ.get(variable, "").strip()
        if not key:
            raise CommandError(f"{variable}: no such environment variable, or nothing in it; it is to hold the key")

    async def serve() -> int:
        signals: asyncio.Queue[int] = asyncio.Queue()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
        desk = open_desk(config, key=key)
        try:
            async with serving(desk, host=options.host, port=options.port, insecure=options.insecure) as url:
                print(url, flush=True)
                print(f"serving {', '.join(desk.models)}; Ctrl-C stops it", file=sys.stderr)
                caught = await signals.get()
        finally:
            await desk.close()
        print("stopped", file=sys.stderr)
        return 128 + caught

    return asyncio.run(serve())


def _endpoint_config(options: argparse.Namespace) -> Any:
    """What to serve: as a file says, or a model's folder, or the models of `sprint solve`."""
    from sprint_lib.params import load_yaml

    if options.model and Path(options.model).suffix in (".yaml", ".yml", ".json"):
        return load_yaml(Path(options.model))  # JSON is YAML
    model = _model_folder(options.model) if options.model else _default_model("sprint", options.profile)
    config: dict[str, Any] = {"name": model.resolve().name, "engine": {"model": str(model)}}
    if not options.model:
        baseline = _default_model("sequential", options.profile)
        config["sequential"] = {"engine": {"model": str(baseline)}}
    return config


# --- printing -------------------------------------------------------------------------


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
    return 0


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
