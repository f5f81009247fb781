"""The table of problems, and the check of precomputed embeddings."""

import numpy as np
import pytest

from service.errors import InvalidInput
from training.data.embeddings import check_embeddings
from training.data.report import Findings, Kind, Problem, Report


def test_the_table_has_one_line_a_domain_and_kind() -> None:
    findings = Findings("shop", limit=1)
    findings.add_many(Kind.BAD_NUMBER, 1500, [Problem(Kind.BAD_NUMBER, "f.csv", row, "price", "bad") for row in (2, 3)])
    findings.add(Problem(Kind.EMPTY_DOMAIN, "", None, None, "nothing"))
    findings.add(Problem(Kind.SHORT_HISTORY, "", None, None, "short"), notice=True)
    lines = Report((findings,)).table().splitlines()
    assert len(lines) == 3
    assert lines[1].split("  ")[-1] == "f.csv, row 2, price: bad"
    assert "1,500" in lines[1]
    assert lines[2].endswith("1  nothing")
    assert lines[1].index("bad number") == lines[2].index("empty domain")


def test_good_embeddings_pass() -> None:
    check_embeddings(np.ones((3, 2), dtype=np.float16), ["a", "b", "c"], "e.npy")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 2)), r"e\.npy: shape \(2, 2\), but \[3, D\]"),
        (np.ones(3), "shape"),
        (np.ones((3, 0)), "at least 1"),
        (np.ones((3, 2), dtype=np.int64), "int64"),
        (
            np.array([[1, 1], [1, np.nan], [0, 0]]),
            r"(?s)1 rows with a NaN.*1 rows of zeros.*row 1, item 'b': column 1 is nan",
        ),
        (np.array([[1, 1], [np.inf, 1], [1, 1]]), "row 1, item 'b': column 0 is inf"),
        (np.array([[1, 1], [1, 1], [0, 0.0]]), "row 2, item 'c': all columns are 0"),
    ],
)
def test_bad_embeddings_are_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_embeddings(matrix, ["a", "b", "c"], "e.npy")
