"""The README's results are those of the committed tables: a number that changed there must change here, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sprint_lib import store

ROOT = store.repository_root()


def cell(table: str, value: str, digits: int, **where: Any) -> str:
    """`value [low, high]` of the one row of a committed table where these columns hold these values."""
    frame = pd.read_csv(ROOT / "outputs" / "reference" / Path(table))
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    (row,) = frame.to_dict("records")
    number, low, high = (f"{abs(row[value + end]):.{digits}f}" for end in ("", "_low", "_high"))
    low, high = sorted((low, high), key=float)
    return f"{number}[{low},{high}]"


LAPTOP, LONGHAND, LONGER = "laptop/tables", "longhand/tables", "longer/tables"
SAVED = {"table": f"{LAPTOP}/comparisons.csv", "value": "value", "digits": 0, "comparison": "SPRINT against RFT"}
FASTER = {"table": f"{LAPTOP}/speedup.csv", "value": "value", "digits": 2, "quantity": "seconds"}
RIVAL = {"table": f"{LAPTOP}/rivals.csv", "value": "accuracy", "digits": 1}
PATH = {**RIVAL, "value": "sequential", "digits": 0}
NOISE = {"table": f"{LAPTOP}/label_noise_comparisons.csv", "value": "change", "comparison": "a tenth more"}
GRPO = {"table": f"{LAPTOP}/grpo-pairs.csv", "value": "change", "digits": 1}
SPRINT_GRPO = {**GRPO, "table": "reinforcement/tables/grpo-pairs.csv", "run": "sprint", "quantity": "accuracy"}
GREEDY = {"table": "reinforcement/tables/grpo-table1.csv", "value": "accuracy", "digits": 1, "temperature": 0.0}
QUARTER = {"table": f"{LAPTOP}/figure6.csv", "value": "reduction", "digits": 0, "style": "main"}


@pytest.mark.parametrize(
    "where",
    [
        {"table": f"{LAPTOP}/attempts.csv", "value": "accuracy", "digits": 1, "method": "sprint"},
        {"table": f"{LAPTOP}/attempts.csv", "value": "accuracy", "digits": 1, "method": "rft"},
        {**SAVED, "quantity": "sequential tokens saved"},
        {**SAVED, "quantity": "sequential tokens saved, both right"},
        {**QUARTER, "high": 3584},
        {**QUARTER, "high": 223},
        {**FASTER, "part": "all problems"},
        {**FASTER, "part": "longest quarter"},
        {**FASTER, "part": "shortest quarter"},
        {**FASTER, "quantity": "realised", "part": "all problems", "digits": 0},
        {"table": f"{LAPTOP}/switches.csv", "value": "times", "digits": 2, "method": "first_success"},
        *({**RIVAL, "table": f"{LAPTOP}/label_noise.csv", "rate": rate} for rate in (0.0, 0.05, 0.1, 0.2)),
        {**NOISE, "quantity": "sequential", "digits": 0},
        {**NOISE, "quantity": "accuracy", "digits": 1},
        {**RIVAL, "method": "base"},
        {**RIVAL, "method": "self_consistency", "budget": "n 4"},
        *({**kind, "method": "apr", "budget": f"threads {threads}"} for threads in (3, 10) for kind in (RIVAL, PATH)),
        *({**kind, "method": "sprint", "budget": "max_stages 12"} for kind in (RIVAL, PATH)),
        *(
            {**kind, "method": method}
            for method in ("pasta", "skeleton_of_thought", "hogwild", "hogwild_earlier")
            for kind in (RIVAL, PATH)
        ),
        *({**GRPO, "run": "sos-plus", "quantity": "accuracy", "value": part} for part in ("before", "after", "change")),
        {**GRPO, "run": "sos-plus", "quantity": "critical path", "digits": 2},
        {**GRPO, "run": "apr", "quantity": "threads"},
        {**SPRINT_GRPO, "value": "before"},
        {**SPRINT_GRPO, "value": "after"},
        {**SPRINT_GRPO, "value": "after", "run": "sprint-latency"},
        *({**GREEDY, "system": system} for system in ("sprint", "sprint-grpo", "sprint-latency-grpo")),
        *(
            {**GRPO, "run": "apr-latency", "quantity": it, "digits": 2}
            for it in ("critical path", "critical path, both right", "total tokens")
        ),
        *(
            {**GRPO, "table": f"{LAPTOP}/grpo-latency.csv", "quantity": it, "digits": 2}
            for it in ("critical path", "critical path, both right")
        ),
        *(
            {"table": f"{tables}/attempts.csv", "value": "accuracy", "digits": 1, "method": method}
            for method in ("sprint", "rft")
            for tables in (LONGER, LONGHAND)
        ),
        {**SAVED, "table": f"{LONGER}/comparisons.csv", "quantity": "accuracy", "digits": 1},
        {**SAVED, "table": f"{LONGER}/comparisons.csv", "quantity": "sequential tokens saved"},
        *({**FASTER, "table": f"{LONGER}/speedup.csv", "part": part} for part in ("all problems", "longest quarter")),
        {**FASTER, "table": f"{LONGER}/speedup.csv", "quantity": "realised", "part": "all problems", "digits": 0},
        {**FASTER, "table": f"{LONGHAND}/speedup.csv", "part": "all problems"},
        {**FASTER, "table": f"{LONGHAND}/speedup.csv", "quantity": "realised", "part": "all problems", "digits": 0},
    ],
    ids=lambda where: " ".join(map(str, where.values())),
)
def test_a_number_of_the_readme_stands_in_its_table(where: dict[str, Any]) -> None:
    said = re.sub(r"[\s%]", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert cell(**where) in said


def test_where_answers_are_lost_is_said_as_the_table_has_it() -> None:
    frame = pd.read_csv(ROOT / "outputs/reference/laptop/tables/lost.csv")
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    n, wrong = (
        {key: int(rows[of].sum()) for key, rows in frame.groupby("executions_that_solve")} for of in ("n", "wrong")
    )
    third = int(frame.loc[frame["stages"] == "3 or more", "wrong"].sum())
    assert f"Of its {sum(wrong.values())} wrong attempts {wrong['none']} found no solution, {third} of them" in said
    assert f"In the other {wrong['one'] + wrong['several']} an execution had solved" in said
    assert f"{wrong['several']} of {n['several']} attempts with several solutions" in said
    assert f"{wrong['one']} of {n['one']} with one" in said


def test_where_longer_training_still_loses_answers() -> None:
    frame = pd.read_csv(ROOT / "outputs" / "reference" / LONGER / "lost.csv")
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    wrong = {key: int(rows["wrong"].sum()) for key, rows in frame.groupby("executions_that_solve")}
    assert f"{wrong['none']} attempts find no solution" in said
    kept = f"of the {sum(wrong.values())} wrong attempts {wrong['one'] + wrong['several']} are now answers"
    assert kept in said
    assert f"{wrong['several']} of them with several to choose from" in said
