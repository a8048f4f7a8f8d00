"""The static report of a profile: a front page with claims, figures and tables in the order of the notebooks, a page
on what the authors' released outputs say to the paper where they were counted, and every executed notebook as a page.
Plain HTML and CSS without scripts: opens from the disk, without Jupyter and without a network, prints, and fits a
phone. The folder holds all it needs and can be copied as it is.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.evaluation.claims import BUILT, OWN, RELEASED
from sprint_lib.params import Step, producer
from sprint_lib.progress import duration
from sprint_lib.wording import readable

_MOST_ROWS = 30  # of a table on the front page; the CSV has them all
_FIGURES = (".svg", ".png")
# No scripts and nothing from elsewhere, whatever a notebook's output holds.
_POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'"
_VERDICTS = {"reproduced": "good", "different": "bad", "underpowered": "open", "not run": "none"}
_ANEW = "What we found in the authors' released outputs"
_ANEW_PAGE = "released.html"
_NO_FINDING = "<p>The suite's code and parameters decide these, no model's output does. They count as no finding.</p>"

Manifest = Mapping[str, Any]


def build(steps: Sequence[Step], workspace: store.Workspace, manifest: Manifest) -> Path:
    """Write `report/` of a workspace and return its front page; nothing is done if it is up to date."""
    index = workspace.report / "index.html"
    stamp = workspace.report / ".made_from"
    made_from = store.hash_json([manifest, store.hash_path(__file__), _hash_if_there(workspace.claims)])
    if index.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
        return index
    titles = {step.name: _title(step) for step in steps}
    _write_pages(steps, titles, workspace)
    copied = _copy_results(workspace)
    claims = json.loads(workspace.claims.read_text(encoding="utf-8")) if "claims.json" in copied else []
    if anew := counted_anew(claims):
        store.write_text(workspace.report / _ANEW_PAGE, _anew_page(anew, steps, workspace, copied))
    else:
        (workspace.report / _ANEW_PAGE).unlink(missing_ok=True)
    store.write_text(index, _front_page(steps, titles, workspace, manifest, copied, claims))
    store.write_text(stamp, made_from)
    return index


def _hash_if_there(path: Path) -> str | None:
    return store.hash_path(path) if path.exists() else None


def _title(step: Step) -> str:
    """The first heading of a notebook, else its name."""
    for kind, source in step.notebook.cells:
        if kind == "markdown" and (found := re.search(r"^#+[ \t]+(.+)$", source, re.MULTILINE)):
            return found.group(1).strip().strip("#").strip()
    return step.name


def _copy_results(workspace: store.Workspace) -> list[str]:
    """Copy figures, tables and the two JSON files beside the page; their paths, relative to the workspace."""
    found = [path for folder in (workspace.figures, workspace.tables) if folder.is_dir() for path in folder.iterdir()]
    found = [path for path in found if path.suffix in (*_FIGURES, ".csv") and not path.name.startswith(".")]
    found += [path for path in (workspace.claims, workspace.manifest) if path.exists()]
    for path in found:
        store.write_bytes(workspace.report / path.relative_to(workspace.root), path.read_bytes())
    return sorted(path.relative_to(workspace.root).as_posix() for path in found)


# --- the front page -------------------------------------------------------------------


def _front_page(
    steps: Sequence[Step],
    titles: Mapping[str, str],
    workspace: store.Workspace,
    manifest: Manifest,
    copied: Sequence[str],
    claims: Sequence[Mapping[str, Any]],
) -> str:
    parts = [_header(workspace.profile, manifest, claims)]
    if claims:
        parts.append(_claims(claims))
    parts += _results(steps, titles, workspace, copied)
    parts.append(_notebook_list(steps, titles, workspace, manifest))
    parts.append(_provenance(manifest, copied))
    return _page(f"SPRINT, replicated: {workspace.profile}", "\n".join(parts), _FRONT_NAVIGATION)


_FRONT_NAVIGATION = (
    '<a href="#claims">Claims</a> <a href="#results">Results</a> '
    '<a href="#notebooks">Notebooks</a> <a href="#provenance">Provenance</a>'
)


def _header(profile: str, manifest: Manifest, claims: Sequence[Mapping[str, Any]]) -> str:
    entries = manifest["notebooks"].values()
    last = max((entry["ended"] for entry in entries), default="")
    seconds = sum(entry["seconds"] for entry in entries)
    made = manifest["provenance"]
    facts = [
        f"profile <b>{_escape(profile)}</b>",
        f"last run {_escape(last.replace('T', ' ').replace('+00:00', ' UTC'))}" if last else "not run yet",
        f"{duration(seconds)} for {len(entries)} notebooks" if entries else "",
        _escape(f"{made['processor']}, {made['cores']} cores") if made.get("processor") else "",
    ]
    found, built = by_basis(claims)
    pills = _pills(found) + (f" · {BUILT}: {_pills(built)}" if built else "")
    if anew := counted_anew(claims):
        pills += f' · <a href="{_ANEW_PAGE}">{_escape(RELEASED)}</a>: {_pills(anew)}'
    return (
        "<header><h1>SPRINT, replicated</h1><p class=lead>Interleaved planning and parallelised execution in "
        "reasoning models, from traces to every table and figure, with models trained on this machine.</p>"
        f"<p class=facts>{' · '.join(filter(None, facts))}</p>" + (f"<p>{pills}</p>" if pills else "") + "</header>"
    )


def by_basis(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Claims that a run measured or left out, and those it gave a value to that could not have come out otherwise.

    Those counted anew from released outputs are in neither; see `counted_anew`.
    """
    own = [row for row in rows if row.get("of") != RELEASED]
    built = [row for row in own if row.get("basis") == BUILT and row["value"] is not None]
    return [row for row in own if row not in built], built


def counted_anew(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Claims whose number is of the authors' released outputs, not of this run."""
    return [row for row in rows if row.get("of") == RELEASED]


def _pills(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["verdict"] for row in rows)
    ordered = [*_VERDICTS, *sorted(set(counts) - set(_VERDICTS))]
    return " ".join(f"{_pill(verdict)}&nbsp;{counts[verdict]}" for verdict in ordered if counts[verdict])


def _claims(rows: Sequence[Mapping[str, Any]]) -> str:
    """The claims that this run measured; apart from them what is so by construction; the rest folded away."""
    found, built = by_basis(rows)
    tested = [row for row in found if row["value"] is not None]
    others = [row for row in found if row["value"] is None]
    text = _claim_table(tested) if tested else "<p>None of the papers' claims was measured in this run.</p>"
    if built:
        text += f"<h3>So {BUILT}: {len(built)}</h3>{_NO_FINDING}{_claim_table(built)}"
    if anew := counted_anew(rows):
        link = f'<a href="{_ANEW_PAGE}">{_escape(_ANEW)}</a>'
        text += f"<h3>{link}: {len(anew)} claims</h3><p>Counted anew, not measured in this run.</p>"
    if others:
        text += f"<details><summary>claims not tested here: {len(others)}</summary>{_claim_table(others)}</details>"
    link = '<p class=note><a href="claims.json">claims.json</a></p>'
    return f"<section id=claims><h2>The papers against this run</h2>{text}{link}</section>"


def _claim_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [[*_claim_cells(row), f"<small class=why>{_escape(row.get('why') or '')}</small>"] for row in rows]
    return _table(["Claim", "Paper", "This run", "n", "Verdict", "Why"], lines)


def _claim_cells(row: Mapping[str, Any]) -> list[str]:
    """Claim, the paper's value, what was found, n and verdict."""
    place = " · ".join(_escape(part) for part in (row["source"], row.get("unit"), row["id"]) if part)
    what = f"<b>{_escape(row.get('quantity') or row['id'])}</b><br><small>{place}</small>"
    low, high = (row["low"], row["high"]) if row["low"] != row["high"] else (None, None)
    found = _estimate(*(_escape(measured(value, row.get("unit"))) for value in (row["value"], low, high)))
    paper = _escape(measured(row["paper"], row.get("unit"))) or "<small>direction</small>"
    return [what, paper, found, _escape(measured(row["n"])), _pill(row["verdict"])]


def _results(
    steps: Sequence[Step], titles: Mapping[str, str], workspace: store.Workspace, copied: Sequence[str]
) -> list[str]:
    """Figures and tables under the notebook that declares them, what no notebook declares at the end."""
    shown = [path for path in copied if _is_shown(path, copied)]
    writers = {output: step.name for step in steps for output in step.notebook.outputs}
    by_notebook: dict[str, list[str]] = {}
    for path in shown:
        by_notebook.setdefault(_writer(path, writers), []).append(path)
    parts = ["<h2 id=results>Results</h2>"] if shown else []
    for name in [*(step.name for step in steps), ""]:
        if name not in by_notebook:
            continue
        heading = f"<h3>{_escape(titles.get(name, 'Other results'))}</h3>"
        link = f'<p class=note>made by <a href="notebooks/{name}.html">{name}</a></p>' if name else ""
        content = "".join(_shown(path, workspace) for path in by_notebook[name])
        parts.append(f"<section>{heading}{content}{link}</section>")
    return parts


def _is_shown(path: str, copied: Sequence[str]) -> bool:
    """SVG rather than PNG, no CSV that holds a figure's data, and no second table of claims."""
    folder, _, file = path.partition("/")
    if folder == "figures":
        return file.endswith(".svg") or (file.endswith(".png") and path.removesuffix(".png") + ".svg" not in copied)
    return folder == "tables" and file.endswith(".csv") and not (file == "claims.csv" and "claims.json" in copied)


def _writer(path: str, writers: Mapping[str, str]) -> str:
    """The notebook that declares a file, or the same figure in another format; "" if none does."""
    stem = path.rpartition(".")[0]
    candidates = [path, *(f"{stem}{suffix}" for suffix in _FIGURES)]
    return next((name for one in candidates if (name := producer(one, writers))), "")


def _shown(path: str, workspace: store.Workspace) -> str:
    name = _escape(Path(path).stem.replace("_", " ").replace("-", " "))
    if path.startswith("figures/"):
        others = sorted(p.suffix for p in workspace.figures.glob(f"{Path(path).stem}.*") if p.suffix != ".pdf")
        stem = _escape(path.rpartition(".")[0])
        links = " ".join(f'<a href="{stem}{suffix}">{suffix[1:].upper()}</a>' for suffix in others)
        return (
            f'<figure><a href="{_escape(path)}"><img src="{_escape(path)}" alt="{name}"></a>'
            f"<figcaption>{name} {links}</figcaption></figure>"
        )
    with (workspace.root / path).open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    more = f", the first {_MOST_ROWS} of {len(rows)} rows" if len(rows) > _MOST_ROWS else ""
    caption = f'<p class=caption>{name}{more} <a href="{_escape(path)}">CSV</a></p>'
    return caption + _csv_table(head, rows[:_MOST_ROWS])


def _csv_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A CSV with `x`, `x_low`, `x_high` in one cell, `value [low, high]`."""
    place = {column: at for at, column in enumerate(head)}
    columns = [c for c in head if not (c.endswith(("_low", "_high")) and c.rpartition("_")[0] in place)]
    lines = []
    for row in rows:
        cells = dict(zip(head, map(_escape, row), strict=False))
        lines.append(
            [_estimate(cells.get(c, ""), cells.get(f"{c}_low", ""), cells.get(f"{c}_high", "")) for c in columns]
        )
    return _table([_escape(column.replace("_", " ")) for column in columns], lines)


def _estimate(value: str, low: str, high: str) -> str:
    """`value [low, high]` of three pieces of HTML, the interval only if there is one."""
    return value + (f" <small>[{low},&nbsp;{high}]</small>" if low and high else "")


def _notebook_list(
    steps: Sequence[Step], titles: Mapping[str, str], workspace: store.Workspace, manifest: Manifest
) -> str:
    lines = []
    for step in steps:
        entry = manifest["notebooks"].get(step.name)
        title = _escape(titles[step.name])
        if (workspace.report / "notebooks" / f"{step.name}.html").exists():
            title = f'<a href="notebooks/{step.name}.html">{title}</a>'
        never = "opt-in, not run" if step.opt_in else "not run"
        state = "failed" if step.name in manifest["failures"] else duration(entry["seconds"]) if entry else never
        lines.append([step.notebook.number, title, state])
    table = _table(["", "Notebook", "Time"], lines)
    lead = "<p>As they were executed, with all code and output.</p>"
    return f"<section id=notebooks><h2>Notebooks</h2>{lead}{table}</section>"


def _provenance(manifest: Manifest, copied: Sequence[str]) -> str:
    made = dict(manifest["provenance"])
    packages = ", ".join(f"{name} {version}" for name, version in (made.pop("packages", None) or {}).items())
    git = made.pop("git", None)
    rows = [("commit", git["commit"] + (" with uncommitted changes" if git["changed"] else ""))] if git else []
    rows += [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in made.items()
    ]
    rows.append(("packages", packages))
    lines = [[_escape(key), _escape(value)] for key, value in rows if value not in ("", "None")]
    link = '<p class=note>parameters, hashes of inputs and outputs: <a href="manifest.json">manifest.json</a></p>'
    table = _table([], lines) + (link if "manifest.json" in copied else "")
    return f"<section id=provenance><h2>Provenance</h2>{table}</section>"


# --- the authors' released outputs ----------------------------------------------------


def _anew_page(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[Step], workspace: store.Workspace, copied: Sequence[str]
) -> str:
    """Every claim that the released outputs speak to, below them the figure that shows it."""
    writers = {output: step.name for step in steps for output in step.notebook.outputs}
    parts = [
        f"<header><h1>{_escape(_ANEW)}</h1><p class=lead>Numbers of the paper, counted anew from outputs of its own "
        f"models. None of them was measured in {OWN}.</p><p>{_pills(rows)}</p></header>"
    ]
    for figure in dict.fromkeys(row["figure"] for row in rows):
        shown = _shown(figure, workspace) if figure in copied else ""
        if shown and (made_by := _writer(figure, writers)):
            shown += f'<p class=note>made by <a href="notebooks/{made_by}.html">{made_by}</a></p>'
        here = [row for row in rows if row["figure"] == figure]
        places = dict.fromkeys(row["source"].removeprefix("SPRINT, ").partition(",")[0] for row in here)
        heading = ", ".join(place[:1].upper() + place[1:] for place in places)
        lines = [[*_claim_cells(row), _counting(row)] for row in here]
        table = _table(["Claim", "Paper", "Counted anew", "n", "Verdict", "How counted, and why"], lines)
        parts.append(f"<section><h2>{_escape(heading)}</h2>{table}{shown}</section>")
    return _page(_ANEW, "\n".join(parts), '<a href="index.html">Report</a>')


def _counting(row: Mapping[str, Any]) -> str:
    """Whether the claim depends on the counting, how it was counted here, and why the verdict."""
    depends = row["views"] and 0 < row["holds"] < row["views"]
    said = "<b>depends on the counting</b><br>" if depends else ""
    return f"{said}<small class=why>{_escape(row['under'])}; {_escape(row['why'])}</small>"


# --- notebooks ------------------------------------------------------------------------


def _write_pages(steps: Sequence[Step], titles: Mapping[str, str], workspace: store.Workspace) -> None:
    """Every executed notebook as a page; those that are newer than their notebook are left."""
    there = [step for step in steps if (workspace.notebooks / f"{step.name}.ipynb").exists()]
    exporter = None
    for index, step in enumerate(there):
        source = workspace.notebooks / f"{step.name}.ipynb"
        page = workspace.report / "notebooks" / f"{step.name}.html"
        newest = max(source.stat().st_mtime, Path(__file__).stat().st_mtime)
        if page.exists() and page.stat().st_mtime > newest:
            continue
        exporter = exporter or _exporter()
        resources = {"metadata": {"path": str(step.notebook.path.parent)}}
        body, _ = exporter.from_filename(str(source), resources=resources)
        links = ['<a href="../index.html">Report</a>']
        links += [f'<a href="{other.name}.html">← {other.name}</a>' for other in there[max(0, index - 1) : index]]
        links += [f'<a href="{other.name}.html">{other.name} →</a>' for other in there[index + 1 : index + 2]]
        store.write_text(page, _page(titles[step.name], f"<main class=notebook>{body}</main>", " ".join(links)))


def _exporter() -> Any:
    """nbconvert's plain HTML, formulas as MathML, which browsers show without a script."""
    import latex2mathml.converter
    from jinja2 import pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    def formula(body: str, display: str) -> str:
        try:
            return str(latex2mathml.converter.convert(body, display=display))
        except Exception:  # whatever it cannot convert is shown as it was written
            return f"<code>{html.escape(body)}</code>"

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return formula(body, "inline")

        def block_math(self, body: str) -> str:
            return formula(body, "block")

        def latex_environment(self, name: str, body: str) -> str:
            return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            renderer = Renderer(
                escape=False,
                attachments=context.get("cell", {}).get("attachments", {}),
                embed_images=True,
                path=context.get("resources", {}).get("metadata", {}).get("path", ""),
                exclude_anchor_links=True,
            )
            return str(MarkdownWithMath(renderer=renderer).render(source))

    return Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)


# --- pieces ---------------------------------------------------------------------------


def _escape(text: Any) -> str:
    return html.escape(str(text))


def measured(value: Any, unit: str | None = None) -> str:
    """A number of a claim for people."""
    return readable(bool(value) if unit == "yes/no" and value is not None else value)


def _pill(verdict: str) -> str:
    return f'<span class="pill {_VERDICTS.get(verdict, "none")}">{_escape(verdict)}</span>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; it scrolls by itself where it is wider than the screen."""
    top = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table>{top}<tbody>{body}</tbody></table></div>"


def _page(title: str, body: str, navigation: str) -> str:
    from pygments.formatters import HtmlFormatter

    code = HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{_STYLE}{code if 'class=notebook' in body else ''}</style></head>"
        f"<body><nav>{navigation}</nav>\n{body}\n</body></html>\n"
    )


_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --paper: #fff; --tint: #f5f7f9; --link: #0a58a8; }
* { box-sizing: border-box; }
html { scroll-padding-top: 3rem; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 62rem; padding: 0 1.2rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
nav { position: sticky; top: 0; z-index: 1; margin: 0 -1.2rem; padding: .6rem 1.2rem; background: var(--paper);
  border-bottom: 1px solid var(--line); white-space: nowrap; overflow-x: auto; font-size: .9rem; }
nav a { margin-right: 1.2rem; }
h1 { margin: 2rem 0 .3rem; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; }
h2 { margin: 2.8rem 0 .6rem; font-size: 1.45rem; line-height: 1.3; }
h3 { margin: 2rem 0 .5rem; font-size: 1.12rem; line-height: 1.35; }
.lead { margin: 0 0 .4rem; font-size: 1.12rem; max-width: 44rem; }
.facts, .note, .caption, figcaption { color: var(--soft); font-size: .88rem; }
.caption { margin: 1.4rem 0 .3rem; } .caption a, figcaption a { margin-left: .4em; }
figure { margin: 1rem 0 1.6rem; } figure img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
small { color: var(--soft); font-size: .85em; }
.why { display: block; min-width: 15rem; }
details summary { cursor: pointer; color: var(--link); }
.pill { display: inline-block; padding: .05em .7em; border-radius: 1em; font-size: .82rem; white-space: nowrap; }
.good { background: #dff3e4; color: #14612e; } .bad { background: #fbe3e1; color: #8f1d14; }
.open { background: #fdf1d3; color: #6f4e00; } .none { background: #e9edf1; color: #4b5563; }
.notebook { padding-top: 1rem; } .notebook .cell { margin: 0 0 1rem; }
.notebook table { border: 0; } .notebook .output table { white-space: nowrap; }
.notebook th, .notebook td { padding: .3rem 1rem .3rem 0; border: 0; border-bottom: 1px solid var(--line); }
.notebook img, .notebook svg { max-width: 100%; height: auto; }
.notebook pre { margin: 0; padding: .7rem .9rem; overflow-x: auto; font: 13px/1.5 ui-monospace, "SFMono-Regular",
  Menlo, Consolas, "Liberation Mono", monospace; }
.notebook .input_area, .notebook .highlight { border-radius: 6px; background: var(--tint); }
.notebook .output { margin-top: .5rem; } .notebook .output_subarea { overflow-x: auto; }
.notebook .output pre { padding: .3rem .9rem; border-left: 3px solid var(--line); }
.notebook .output_stderr pre { border-left-color: #e5a29c; }
.notebook code { padding: .1em .3em; border-radius: 4px; background: var(--tint); font-size: .88em; }
.notebook pre code { padding: 0; background: none; }
.notebook blockquote { margin: 0; padding-left: 1rem; border-left: 3px solid var(--line); color: var(--soft); }
.notebook .prompt:empty { display: none; }
math { font-size: 1.05em; }
@media (max-width: 40rem) { body { font-size: 15px; } h1 { font-size: 1.6rem; } .facts { font-size: .8rem; } }
@media print { nav { display: none; } body { max-width: none; } }
"""
