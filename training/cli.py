"""Registers the offline subcommands with the command line `unitok`, in the order in which they are run.

Imports only light modules: a subcommand that needs torch imports it when it runs.
"""

from __future__ import annotations

from typing import Any

import typer

from training.commands.embed import embed
from training.commands.evaluate import evaluate
from training.commands.experiment import experiment
from training.commands.export import export
from training.commands.prepare import prepare
from training.commands.report import report
from training.commands.sample import sample
from training.commands.train_baseline import train_baseline
from training.commands.train_recommender import train_recommender
from training.commands.train_tokenizer import train_tokenizer


def register(app: typer.Typer) -> None:
    """Add one subcommand per stage, and those of the laboratory, which run many stages and report their figures."""
    offline: dict[str, Any] = {
        "prepare": prepare,
        "embed": embed,
        "train-tokenizer": train_tokenizer,
        "train-recommender": train_recommender,
        "train-baseline": train_baseline,
        "export": export,
        "evaluate": evaluate,
        "sample": sample,
    }
    for name, command in offline.items():
        app.command(name, rich_help_panel="Training (in this order)")(command)
    laboratory: dict[str, Any] = {"experiment": experiment, "report": report}
    for name, command in laboratory.items():
        app.command(name, rich_help_panel="Laboratory")(command)
