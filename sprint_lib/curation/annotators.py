"""The annotators by name. Apart from the rest of curation, so that what only reads annotated traces does not depend on
the clients of language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sprint_lib.curation.steps import Annotator
from sprint_lib.wording import unknown

ANNOTATORS: dict[str, str] = {
    "countdown": "sprint_lib.curation.rules:CountdownAnnotator",
    "discourse": "sprint_lib.curation.discourse:DiscourseAnnotator",
    "longhand": "sprint_lib.curation.rules:LonghandAnnotator",
    "model": "sprint_lib.curation.llm:open_annotator",
}


def get_annotator(name: str, **settings: Any) -> Annotator:
    """The annotator called `name` (a line in `ANNOTATORS`); `model` takes the settings of `llm.open_annotator`.

    Raises:
        ValueError: if there is no such annotator, or it takes no such setting; the message names the nearest.
    """
    if said := unknown([name], ANNOTATORS, "annotator"):
        raise ValueError(said)
    if settings and name != "model":
        raise ValueError(f"annotator {name!r} takes no settings, but was given: {', '.join(settings)}")
    annotator: Annotator = resolve_name(ANNOTATORS[name])(**settings)
    return annotator


def description(name: str, annotator: Annotator, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a data set says of its annotator: which model and which prompts, nothing of this machine."""
    told = {key: settings[key] for key in ("model", "revision", "temperature") if key in settings}
    if Path(str(told.get("model", ""))).is_absolute():
        told["model"] = Path(told["model"]).name
    prompts = getattr(annotator, "prompts", None)
    return {"annotator": name, **told, **({"prompts": prompts.version} if prompts else {})}
