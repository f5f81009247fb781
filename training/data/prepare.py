"""The stage `prepare`: turns source files into a dataset folder, with a report on all problems.

Knows nothing of the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.errors import InvalidInput
from service.progress import Advance, progress
from training.data.checks import CheckedDomain, check_domain
from training.data.config import DomainConfig, PrepareConfig
from training.data.dataset import INDEX, write_domain, write_index
from training.data.reading import read_interactions, read_items
from training.data.report import EXAMPLES, Findings, Kind, Report
from training.stage import Stage

_MEBIBYTE = 1 << 20


def prepare(config: PrepareConfig, folder: Path, *, skip_bad: bool = False, examples: int = EXAMPLES) -> dict[str, Any]:
    """Read, check and write every domain.

    Parameters
    ----------
    config : the domains
    folder : of the dataset; `report.json` is always written, the dataset only if the stage succeeds
    skip_bad : continue without the bad rows, which are counted in the figures, and without empty domains
    examples : number of problems of each kind and domain that the report shows

    Returns
    -------
    the figures

    Raises
    ------
    InvalidInput : there are problems and `skip_bad` is False, or no domain is left
    """
    stage = Stage("prepare", folder)
    (folder / INDEX).unlink(missing_ok=True)
    paths = [path for domain in config.domains for path in (*domain.items, *domain.interactions)]
    total = sum(path.stat().st_size for path in paths) // _MEBIBYTE + 1
    all_findings: list[Findings] = []
    summaries = []
    left_out: list[str] = []
    figures: dict[str, Any] = {}
    with progress("Reading MiB", total) as advance:
        for domain in config.domains:
            findings = Findings(domain.name, examples)
            all_findings.append(findings)
            checked = _read_domain(domain, findings, advance)
            figures[domain.name] = checked.figures
            if skip_bad and findings.problems[Kind.EMPTY_DOMAIN]:
                left_out.append(domain.name)
            elif skip_bad or not any(earlier.problems for earlier in all_findings):
                summaries.append(write_domain(folder, domain.name, checked.items, checked.interactions))
    report = Report(tuple(all_findings))
    report.write(folder)
    if not skip_bad:
        report.stop_if_bad(folder)
    if not summaries:
        raise InvalidInput(
            f"no domain has anything left, so nothing was prepared:\n{report.table()}\n"
            "Items without text can be kept with needs_text = false, if their embeddings come from elsewhere."
        )
    write_index(folder, summaries)
    return stage.finish(
        {
            "domains": figures,
            "domains_left_out": left_out,
            "skip_bad": skip_bad,
            "problems": {kind.value: count for kind, count in report.problems.items()},
            "notices": {kind.value: count for kind, count in report.notices.items()},
        }
    )


def _read_domain(domain: DomainConfig, findings: Findings, advance: Advance) -> CheckedDomain:
    def on_bytes(count: int) -> None:
        advance(count / _MEBIBYTE, domain.name)

    items = read_items(domain, findings, on_bytes)
    interactions = read_interactions(domain, findings, on_bytes)
    return check_domain(domain, items, interactions, findings)
