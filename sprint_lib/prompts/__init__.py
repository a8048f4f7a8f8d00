"""What a model is told before a question, by method and task: files beside this one, which a folder of the user's may
replace one by one. The small embedded models are told nothing; they were trained on bare questions.
"""

from __future__ import annotations

from pathlib import Path

from sprint_lib.wording import did_you_mean

SHIPPED = "shipped"
AS_SEQUENTIAL = {"best_of_n": "sequential", "self_consistency": "sequential"}
_HERE = Path(__file__).parent


class PromptError(ValueError):
    """Prompts that are not there; the message says what may be named."""


def read(given: str, method: str, task: str) -> str:
    """The text to put before a question: what the method asks for, then what the task does.

    Args:
        given: "" (nothing is put before), "shipped", a folder with files such as sprint.md or gpqa.md (those that it
            lacks are the shipped ones), or one file, which is the whole of SPRINT's prompt, as it stands.
        method: must have a file, or be one that asks as `sequential` does. A file that begins with `## ` has a part for
            each thing that the method asks (`tasks.dialects.Instruct`); the task's text becomes its part `## task`.
        task: a task's name; it need not have a file.

    Raises:
        PromptError: if there is no such file or folder.
    """
    if not given:
        return ""
    folder = _HERE if given == SHIPPED else Path(given).expanduser()
    if folder.is_file():
        if method == "sprint":
            return f"{_text(folder)}\n\n"
        folder = _HERE
    if not folder.is_dir():
        raise PromptError(
            f"prompts: {given}: no such folder or file{did_you_mean(given, [SHIPPED])}; name one, {SHIPPED}, or ''"
        )
    texts = [_own_or_shipped(folder, name) for name in (AS_SEQUENTIAL.get(method, method), task)]
    if not texts[0]:
        raise PromptError(f"prompts: no {method}.md in {folder} and none is shipped")
    if texts[0].startswith("## "):
        return f"{texts[0]}\n\n## task\n{texts[1]}\n"
    return "\n\n".join([*filter(None, texts), "Problem:\n"])


def shipped(method: str, task: str) -> list[Path]:
    """The shipped files for a method and a task, as far as there are any."""
    return [path for name in (method, task) if (path := _HERE / f"{name}.md").is_file()]


def _own_or_shipped(folder: Path, name: str) -> str:
    found = next((path for path in (folder / f"{name}.md", _HERE / f"{name}.md") if path.is_file()), None)
    return _text(found) if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"prompts: {path}: {error}") from error
