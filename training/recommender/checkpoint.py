"""Checkpoints of a running training: safetensors for every tensor, JSON for the rest, written so that a kill at any
moment leaves a whole one behind.

Knows nothing of batches or schedules.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import T5ForConditionalGeneration

from service.errors import ConfigError
from training.networks.t5 import load_weights, untied_state

FOLDER = "checkpoint"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass
class Progress:
    """How far a training has come; everything that is no tensor.

    Attributes
    ----------
    epoch, position : the batch to go on with, and the epoch it belongs to
    step : optimiser steps made
    elapsed : seconds of training, over all starts
    best : greatest validation NDCG@10 so far, -1 before the first
    best_step : step of it
    validations_without_best : in a row, at the end
    history : figures of every validation
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    elapsed: float = 0.0
    best: float = -1.0
    best_step: int = 0
    validations_without_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """State of an optimiser as named tensors: `parameter/slot`."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{slot}"] = value.detach().cpu().contiguous()
    return tensors


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; everything goes to its parameter's device, as fused optimisers want it."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, slot = key.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][slot] = value.to(parameter.device)


def save_checkpoint(
    folder: Path, fingerprint: str, progress: Progress, model: T5ForConditionalGeneration, optimizer: Optimizer
) -> None:
    """Write a checkpoint below `folder` and remove the one before."""
    root = folder / FOLDER
    final = root / f"step-{progress.step:09d}"
    partial = root / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.cpu() for name, tensor in untied_state(model.state_dict()).items()}, partial / WEIGHTS)
    save_file(optimizer_tensors(optimizer, model), partial / OPTIMIZER)
    state = {"fingerprint": fingerprint, "progress": asdict(progress)}
    (partial / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for older in root.glob("step-*"):
        if older != final:
            shutil.rmtree(older)


def load_checkpoint(
    folder: Path, fingerprint: str, model: T5ForConditionalGeneration, optimizer: Optimizer
) -> Progress | None:
    """Go on from the newest checkpoint below `folder`; None where there is none.

    Raises
    ------
    ConfigError : the checkpoint belongs to other parameters or other data
    """
    newest = max((folder / FOLDER).glob("step-*"), default=None)
    if newest is None:
        return None
    state = json.loads((newest / STATE).read_text(encoding="utf-8"))
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{newest}: begun with other parameters or other data; give --out another folder, or delete this one to "
            "start over"
        )
    load_weights(model, load_file(newest / WEIGHTS), str(newest / WEIGHTS))
    restore_optimizer(optimizer, model, load_file(newest / OPTIMIZER))
    return Progress(**state["progress"])


def remove_checkpoints(folder: Path) -> None:
    """Remove what a finished training no longer needs."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
