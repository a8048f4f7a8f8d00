"""Access to the released logs: readers that name the place of any damage, and a fetch that brings what is missing."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sprint_lib import released, store
from sprint_lib.cli import main
from sprint_lib.released import PARTS, Part, Released, ReleasedError, Source

PROBLEMS = [
    {"problem": "What is $1+1$?", "answer": "2", "level": 1, "subject": "Algebra", "unique_id": "test/algebra/10.json"},
    {"problem": "A \u2028 b", "answer": "3", "level": 5, "subject": "Geometry", "unique_id": "test/geometry/7.json"},
    {"problem": "Say, \"so\"\n2", "answer": "4", "level": 2, "subject": "Algebra", "unique_id": "test/algebra/9.json"},
]  # fmt: skip
SPRINT = "logs_full_trajectory/SPRINT/MATH-500_default/planner_trajectory_test_{}.txt"
CONTROL = "logs_base_model/base_model_output_RFT/MATH-500_default/base_model_trajectory_test_{}.txt"
CSV = "logs_base_model/RFT/MATH500/base_model_output.csv"
CURATED = {
    "separation": "logs/component_separation_output_gpt-4o/Orig-R1-Thoughts-correct_math/component_separation_{}.txt",
    "inline": "logs/component_inline_gpt-4o/Orig-R1-Thoughts-correct_math/component_inline_{}.txt",
    "parents": "logs/created_dags_gpt-4o/Orig-R1-Thoughts-correct_math/created_dag_{}.json",
    "trajectory": "logs/trajectory_data/Orig-R1-Thoughts-correct_math/trajectory_data_{}.txt",
}


def table(order: tuple[int, ...] = (2, 0, 1)) -> str:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["ProblemIdx", "PredictedFinalAnswer", "TrueFinalAnswer", "ElapsedTime", "Question", "ModelResponse"])
    for i in order:
        problem = PROBLEMS[i]
        rows.writerow([i, "" if i == 1 else "2", problem["answer"], 1.5 * i, problem["problem"], f'So,\n{i} is "it"'])
    return text.getvalue()


def write(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def release(tmp_path: Path) -> Released:
    """A release of three problems, written for this test."""
    root = tmp_path / "release"
    write(root, "math500_test.jsonl", "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in PROBLEMS))
    write(root, CSV, table())
    for name in ("algebra_10", "algebra_9", "geometry_7"):
        write(root, SPRINT.format(name), f"<Question>\n{name}\r\n")
        write(root, CONTROL.format(name), f"{name}\n")
    for number in range(6):
        write(root, CURATED["separation"].format(number), f"separation {number}")
        write(root, CURATED["inline"].format(number), f"inline {number}")
        write(root, CURATED["parents"].format(number), json.dumps({"1": [], "2": [1], "10": [1, 2]}))
        if number % 2:
            write(root, CURATED["trajectory"].format(number), f"trajectory {number}")
    write(root, CURATED["separation"].format(7), "beyond the six")
    return Released(root)


# --- reading ----------------------------------------------------------------------------


def test_problems(release: Released) -> None:
    found = release.problems()
    assert [p.id for p in found] == ["test/algebra/10.json", "test/geometry/7.json", "test/algebra/9.json"]
    assert found[1].question == "A \u2028 b"
    assert (found[2].answer, found[2].meta) == ("4", {"level": 2, "subject": "Algebra"})


def test_runs_come_in_the_order_of_the_problems(release: Released) -> None:
    assert [(run.index, run.text) for run in release.sprint()] == [
        (0, "<Question>\nalgebra_10\r\n"),
        (1, "<Question>\ngeometry_7\r\n"),
        (2, "<Question>\nalgebra_9\r\n"),
    ]
    assert [run.text for run in release.rft_control()] == ["algebra_10\n", "geometry_7\n", "algebra_9\n"]
    runs = release.rft()
    assert [(run.index, run.answer, run.seconds) for run in runs] == [(0, "2", 0.0), (1, None, 1.5), (2, "2", 3.0)]
    assert runs[2].text == 'So,\n2 is "it"'


def test_curated(release: Released) -> None:
    found = release.curated()
    assert [one.number for one in found] == [0, 1, 2, 3, 4, 5]
    assert found[1].separation == "separation 1"
    assert found[1].inline == "inline 1"
    assert found[1].parents == {1: [], 2: [1], 10: [1, 2]}
    assert [one.trajectory for one in found][:2] == [None, "trajectory 1"]


def test_bytes_that_are_no_text_are_replaced(release: Released) -> None:
    write(release.root, SPRINT.format("algebra_9"), b"a\xff\x00b")
    assert release.sprint()[2].text == "a\ufffd\x00b"


def test_known_gaps_of_the_control_runs(release: Released) -> None:
    more = {**PROBLEMS[0], "unique_id": "test/intermediate_algebra/1510.json"}
    with (release.root / "math500_test.jsonl").open("a") as file:
        file.write(json.dumps(more))
    assert [run.index for run in release.rft_control()] == [0, 1, 2]
    with pytest.raises(ReleasedError, match=r"1510\.txt: not there \(1 of 4 lacking\)"):
        release.sprint()


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "read", "said"),
    [
        (lambda r: (r / SPRINT.format("algebra_9")).unlink(), "sprint", r"algebra_9\.txt: not there \(1 of 3"),
        (lambda r: write(r, SPRINT.format("algebra_11"), ""), "sprint", r"algebra_11\.txt: .* no such problem"),
        (lambda r: (r / SPRINT.format("geometry_8")).mkdir(), "sprint", r"geometry_8\.txt"),
        (lambda r: (r / CONTROL.format("geometry_7")).unlink(), "rft_control", r"geometry_7\.txt: not there"),
        (lambda r: (r / "math500_test.jsonl").unlink(), "sprint", r"math500_test\.jsonl: No such file"),
        (lambda r: write(r, "math500_test.jsonl", b"{}\n\xff\n"), "problems", r"jsonl:1: not a problem"),
        (lambda r: write(r, "math500_test.jsonl", "[" * 100_000), "problems", r"jsonl:1: not a problem"),
        (lambda r: (r / CSV).unlink(), "rft", r"output\.csv: No such file"),
        (lambda r: write(r, CSV, b"\x89PNG\x00\xff"), "rft", r"csv:1: damaged: expected the columns"),
        (lambda r: write(r, CSV, table() + "3,4\r\n"), "rft", r"csv:\d+: damaged: 2 fields instead of 6"),
        (lambda r: write(r, CSV, table((0, 1, 2, 1))), "rft", r"csv:\d+: damaged: a second row for problem 1"),
        (lambda r: write(r, CSV, table((0, 2))), "rft", r"csv: no row for problem 1 \(1 lacking\)"),
        (lambda r: write(r, CSV, table().replace("1.5", "nan")), "rft", r"csv:\d+: damaged: ElapsedTime nan"),
        (lambda r: write(r, CSV, table().replace("1.5", "soon")), "rft", r"csv:\d+: damaged: could not convert"),
        (lambda r: write(r, CSV, table().replace("$1+1$", "$1+2$")), "rft", r"damaged: ProblemIdx 0 has another"),
        (lambda r: write(r, CSV, table()[:-3]), "rft", r"csv:\d+: damaged: unexpected end of data"),
        (lambda r: write(r, CSV, table() + '0,"' + "x" * 200_000), "rft", r"csv:\d+: damaged: field larger"),
        (lambda r: (r / CURATED["inline"].format(3)).unlink(), "curated", r"component_inline_3\.txt: No such file"),
        (lambda r: (r / CURATED["separation"].format(5)).unlink(), "curated", r"separation_5\.txt: No such file"),
        (lambda r: write(r, CURATED["parents"].format(2), "[1]"), "curated", r"created_dag_2\.json: not a dictionary"),
        (lambda r: write(r, CURATED["parents"].format(2), '{"1": "ab"}'), "curated", r"dag_2\.json: .* no number"),
        (lambda r: write(r, CURATED["parents"].format(2), '{"a": []}'), "curated", r"created_dag_2\.json: not a"),
    ],
)
def test_damage_is_named_with_its_place(release: Released, damage: Damage, read: str, said: str) -> None:
    getattr(release, read)()
    damage(release.root)
    with pytest.raises(ReleasedError, match=said) as raised:
        getattr(release, read)()
    assert f"`sprint released fetch --to {release.root}`" in str(raised.value)


# --- finding and checking ---------------------------------------------------------------


def test_find(release: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "PARTS", parts_of(release))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPRINT_RELEASED_DIR", raising=False)
    with pytest.raises(ReleasedError, match=r"cache/sprint/released: .*`sprint released fetch`.*SPRINT_RELEASED_DIR"):
        released.find()
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(release.root))
    assert released.find() == release
    (tmp_path / "cache" / "sprint").mkdir(parents=True)
    release.root.rename(tmp_path / "cache" / "sprint" / "released")
    with pytest.raises(ReleasedError, match="no sprint, rft, rft_control, curated, problems"):
        released.find()
    monkeypatch.setenv("SPRINT_RELEASED_DIR", "")
    assert released.find().root == tmp_path / "cache" / "sprint" / "released"
    (released.find().root / CSV).unlink()
    with pytest.raises(ReleasedError, match=r"not there \(no rft\)"):
        released.find()


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda r: write(r, SPRINT.format("algebra_9"), "<Question>\nalgebra_8\r\n"), "sprint"),  # as long as it was
        (lambda r: (r / CURATED["trajectory"].format(1)).unlink(), "curated"),  # no trace that the filter dropped
        (lambda r: write(r, CONTROL.format("algebra_11"), ""), "rft_control"),
    ],
)
def test_find_refuses_a_damaged_copy(
    release: Released, monkeypatch: pytest.MonkeyPatch, damage: Damage, part: str
) -> None:
    monkeypatch.setattr(released, "PARTS", parts_of(release))
    assert released.find(release.root) == release
    damage(release.root)
    with pytest.raises(ReleasedError, match=rf"^{part}: .*; `sprint released fetch --to {release.root}` gets what was"):
        released.find(release.root)


def test_find_reads_each_file_once(release: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "PARTS", parts_of(release))
    released.find(release.root)
    read: list[Path] = []
    monkeypatch.setattr(store, "hash_path", lambda path: read.append(path) or "another")
    released.find(release.root)
    assert read == []
    (release.root / CSV).touch()
    with pytest.raises(ReleasedError, match="rft: "):
        released.find(release.root)
    assert read == [release.root / CSV]


def parts_of(release: Released) -> tuple[Part, ...]:
    """The parts with the hashes of a release that was written for a test."""
    return tuple(replace(part, sha256=part.digest(release.root)) for part in PARTS)


def test_check_names_the_part_that_differs(release: Released) -> None:
    parts = parts_of(release)
    assert {state.state for state in release.check(parts)} == {"ok"}
    assert {state.part: state.files for state in release.check(parts)}["curated"] == 6 * 3 + 3
    assert {state.state for state in release.check()} == {"differs"}
    write(release.root, SPRINT.format("algebra_9"), "another")
    (release.root / CURATED["trajectory"].format(1)).unlink()
    (release.root / CSV).unlink()
    states = {state.part: state for state in release.check(parts)}
    assert [states[part].state for part in ("sprint", "rft", "rft_control", "curated", "problems")] == [
        *("differs", "missing", "ok", "differs", "ok")
    ]
    assert str(release.root / SPRINT.format("")).rpartition("/")[0] in states["sprint"].detail


def test_a_renamed_file_changes_the_hash(release: Released) -> None:
    part = parts_of(release)[0]
    (release.root / SPRINT.format("algebra_9")).rename(release.root / SPRINT.format("algebra_8"))
    assert part.digest(release.root) != part.sha256
    write(release.root, "logs_full_trajectory/SPRINT/MATH-500_default/notes.md", "not of the layout")
    (release.root / SPRINT.format("algebra_8")).rename(release.root / SPRINT.format("algebra_9"))
    assert part.digest(release.root) == part.sha256


# --- fetching ---------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    settings = ("user.name=t", "user.email=t@example.org", "commit.gpgsign=false", "core.autocrlf=false")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def source(release: Released, tmp_path: Path) -> Source:
    """A repository that holds the release in two commits, the table only in the first, with more files than needed."""
    work = tmp_path / "work"
    shutil.copytree(release.root, work)
    (work / "math500_test.jsonl").unlink()
    git(work, "init", "--quiet")
    git(work, "add", CSV)
    git(work, "commit", "--quiet", "-m", "older")
    older = git(work, "rev-parse", "HEAD")
    git(work, "rm", "--quiet", CSV)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "pinned")
    pinned = git(work, "rev-parse", "--short=7", "HEAD")
    commits = {"e33d18a": pinned, "": ""}
    parts = tuple(replace(part, commit=commits.get(part.commit, older)) for part in parts_of(release))
    return Source(str(work), (release.root / "math500_test.jsonl").as_uri(), parts)


def test_fetch(release: Released, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(write(tmp_path, "gitconfig", "[core]\nautocrlf = true\n")))
    found = released.fetch(tmp_path / "new" / "copy", source, said.append)
    assert {state.state for state in found.check(source.parts)} == {"ok"}
    assert found.sprint() == release.sprint()
    assert found.rft() == release.rft()
    assert found.curated() == release.curated()
    assert not (found.root / CURATED["separation"].format(7)).exists()
    assert sorted(path.name for path in found.root.iterdir()) == [
        *("logs", "logs_base_model", "logs_full_trajectory", "math500_test.jsonl")
    ]
    assert len(said) == 1 + len(PARTS)


def test_fetch_again_does_only_what_is_missing(source: Source, tmp_path: Path) -> None:
    root = released.fetch(tmp_path / "copy", source).root
    said: list[str] = []
    released.fetch(root, source, said.append)
    assert said == []
    (root / CSV).unlink()
    write(root, CONTROL.format("algebra_9"), "damaged")
    write(root, "mine.txt", "stays")
    before = (root / SPRINT.format("algebra_9")).stat().st_mtime_ns
    released.fetch(root, source, said.append)
    assert [line.partition(":")[0] for line in said[1:]] == ["rft", "rft_control"]
    assert {state.state for state in Released(root).check(source.parts)} == {"ok"}
    assert (root / "mine.txt").read_text() == "stays"
    assert (root / SPRINT.format("algebra_9")).stat().st_mtime_ns == before


def test_fetch_keeps_what_could_be_had(source: Source, tmp_path: Path) -> None:
    wrong = replace(source.parts[0], sha256="0" * 64)
    lacking = replace(source, problems=(tmp_path / "none.jsonl").as_uri(), parts=(wrong, *source.parts[1:]))
    with pytest.raises(ReleasedError) as raised:
        released.fetch(tmp_path / "copy", lacking)
    first, second = str(raised.value).splitlines()
    assert "sprint is not what was released (SHA-256 " in first
    assert "none.jsonl" in second
    assert "math500_test.jsonl into the folder" in second
    states = {state.part: state.state for state in Released(tmp_path / "copy").check(source.parts)}
    assert [part for part, state in states.items() if state == "missing"] == ["sprint", "problems"]
    released.fetch(tmp_path / "copy", source)
    assert {state.state for state in Released(tmp_path / "copy").check(source.parts)} == {"ok"}


def test_what_a_killed_fetch_left_goes(source: Source, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    write(root, ".fetch-abc/clone/HEAD", "cut")
    released.fetch(root, source)
    assert [path for path in root.iterdir() if path.name.startswith(".")] == []
    write(root, ".fetch-def/clone/HEAD", "cut")
    said: list[str] = []
    released.fetch(root, source, said.append)  # all is there
    assert said == []
    assert [path for path in root.iterdir() if path.name.startswith(".")] == []


def test_one_fetch_at_a_time(source: Source, tmp_path: Path) -> None:
    write(tmp_path, "copy/.fetch-abc/clone/HEAD", "at work")
    with (
        released._alone(tmp_path / "copy"),
        pytest.raises(ReleasedError, match=r"copy: another `sprint released fetch` is at work there; wait for it"),
    ):
        released.fetch(tmp_path / "copy", source)
    assert (tmp_path / "copy/.fetch-abc/clone/HEAD").exists()


def test_fetch_says_which_file_is_too_much(source: Source, tmp_path: Path) -> None:
    write(tmp_path / "copy", SPRINT.format("algebra_99"), "not of the release")
    with pytest.raises(ReleasedError, match=r"algebra_99\.txt: not a file of the release"):
        released.fetch(tmp_path / "copy", source)
    assert (tmp_path / "copy" / SPRINT.format("algebra_99")).exists()


def test_fetch_without_repository_commit_git_or_room(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleasedError, match=r"/none: git says: .*; see whether the network .*SPRINT_RELEASED_DIR"):
        released.fetch(tmp_path / "copy", replace(source, repository=str(tmp_path / "none")))
    gone = (replace(source.parts[0], commit="beefbee"), *source.parts[1:])
    with pytest.raises(ReleasedError, match=r"commit beefbee: git says: .*beefbee"):
        released.fetch(tmp_path / "copy", replace(source, parts=gone))
    write(tmp_path, "a_file", "")
    with pytest.raises(ReleasedError, match=r"a_file.*name another folder with --to"):
        released.fetch(tmp_path / "a_file", source)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleasedError, match="git is not installed; install it, or set SPRINT_RELEASED_DIR"):
        released.fetch(tmp_path / "other", source)


# --- the command ------------------------------------------------------------------------


def test_commands(
    release: Released,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(released, "PARTS", source.parts)
    monkeypatch.setattr(released, "_SOURCE", source)
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(tmp_path / "copy"))
    assert main(["released", "check"]) == 1
    assert "missing" in capsys.readouterr().out
    assert main(["released", "fetch"]) == 0
    assert f"{tmp_path / 'copy'}: complete" in capsys.readouterr().out
    assert main(["released", "check", str(release.root)]) == 0
    assert "missing" not in capsys.readouterr().out
    write(tmp_path / "copy", CSV, "damaged")
    assert main(["released", "check", "--json"]) == 1
    states = {state["part"]: state["state"] for state in json.loads(capsys.readouterr().out)}
    assert [part for part, state in states.items() if state != "ok"] == ["rft"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["released", "fetch"]) == 2
    assert capsys.readouterr().err.startswith("sprint: git is not installed")


# --- the release itself -------------------------------------------------------------------


def test_the_release_is_as_known(tmp_path: Path) -> None:
    if not os.environ.get(released.VARIABLE):
        pytest.skip(f"{released.VARIABLE} names no folder of released logs")
    found = released.find()
    assert {state.state for state in found.check()} == {"ok"}
    assert [len(runs) for runs in (found.sprint(), found.rft(), found.rft_control())] == [500, 500, 498]
    assert [run.index for run in found.rft()] == list(range(500))
    problems = found.problems()
    for run in found.sprint():
        assert run.text.startswith(f"<Question>\n{problems[run.index].question}\n</Question>\n")
    assert sum(run.answer is None for run in found.rft()) == 9
    assert [len(one.parents) for one in found.curated()] == [11, 16, 10, 15, 14, 16]
    assert [one.number for one in found.curated() if one.trajectory] == [1, 2, 5]
