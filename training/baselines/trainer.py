"""The training loop of baselines: epochs of gradient steps, each with validation and checkpoint, and early stopping.

A killed training resumes after its last finished epoch and ends with the same weights. Knows nothing of data sets or
particular baselines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from service.errors import ModelError
from service.progress import Advance, progress
from training.baselines.parameters import EpochParameters
from training.baselines.scoring import Scorer
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.learning.averaging import WeightAverage
from training.learning.schedule import finished_share, rate_factor
from training.stage import replacing, write_log

MODEL = "model.safetensors"


class Trainable(Protocol):
    """A baseline that is trained by gradient descent."""

    @property
    def network(self) -> nn.Module:
        """The module with the weights."""

    def batches(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """The batches of an epoch; their number is the same in all epochs."""

    def loss(self, batch: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        """The loss, a scalar."""

    def scorer(self) -> Scorer:
        """A scorer with the present weights."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes
    ----------
    epochs, best_epoch : number of epochs, and the one whose weights were kept, counted from 1
    seconds : of training and validation, over all runs
    ended_by : "epochs" or "patience"
    """

    epochs: int
    best_epoch: int
    seconds: float
    ended_by: str


def train(
    model: Trainable,
    parameters: EpochParameters,
    validate: Callable[[Scorer], float],
    checkpoint: Checkpoint,
    fingerprint: str,
) -> TrainingResult:
    """Train until `epochs` or `patience` is reached; load the best weights and save them in the checkpoint's folder.

    Parameters
    ----------
    validate : the metric to maximise, NDCG@10
    fingerprint : identifies the parameters and the data of this training

    Raises
    ------
    ConfigError : the folder holds a checkpoint of another training, or a damaged one
    ModelError : the loss is not finite
    """
    optimizer = torch.optim.AdamW(
        model.network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay, fused=True
    )
    folder = checkpoint.path.parent
    state = load_checkpoint(checkpoint, model.network, optimizer, fingerprint)
    log: list[dict[str, Any]] = state["log"] if state is not None else []
    average = WeightAverage(optimizer, parameters.average) if parameters.average else None
    before = log[-1]["seconds"] if log else 0.0
    started = time.perf_counter()
    with progress("training", parameters.epochs) as advance:
        advance(len(log))
        while len(log) < parameters.epochs and not _out_of_patience(log, parameters.patience):
            loss = _epoch(model, parameters, optimizer, average, epoch=len(log), advance=advance)
            with nullcontext() if average is None else average.in_place():
                score = validate(model.scorer())
                seconds = round(before + time.perf_counter() - started, 1)
                log.append({"epoch": len(log) + 1, "seconds": seconds, "loss": round(loss, 4), "ndcg_10": score})
                if _best(log) == len(log) - 1:
                    write_arrays(folder, model.network.state_dict())
            write_log(folder, log)
            save_checkpoint(checkpoint, model.network, optimizer, fingerprint, {"log": log})
            advance(1, f"NDCG@10 {score:.4f} (best {log[_best(log)]['ndcg_10']:.4f}), loss {loss:.3f}")
    model.network.load_state_dict(load_file(folder / MODEL))
    return TrainingResult(
        epochs=len(log),
        best_epoch=_best(log) + 1,
        seconds=log[-1]["seconds"],
        ended_by="patience" if _out_of_patience(log, parameters.patience) else "epochs",
    )


def write_arrays(folder: Path, arrays: dict[str, Tensor]) -> None:
    """Write `model.safetensors` in one step."""
    with replacing(folder / MODEL) as partial:
        save_file({name: array.detach().cpu().contiguous() for name, array in arrays.items()}, partial)


def _best(log: list[dict[str, Any]]) -> int:
    """Index of the greatest NDCG@10, the first of equals."""
    return int(np.argmax([entry["ndcg_10"] for entry in log]))


def _out_of_patience(log: list[dict[str, Any]], patience: int) -> bool:
    return bool(log) and len(log) - 1 - _best(log) >= patience


def _epoch(
    model: Trainable,
    parameters: EpochParameters,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    *,
    epoch: int,
    advance: Advance,
) -> float:
    """One epoch; returns the mean loss. All randomness is seeded by seed and epoch."""
    random = np.random.default_rng([parameters.seed, epoch])
    torch.manual_seed((parameters.seed << 32) + epoch)
    model.network.train()
    batches, losses = model.batches(random), []
    for number, batch in enumerate(batches):
        step = epoch * len(batches) + number
        done = finished_share(step, parameters.epochs * len(batches), 0.0, None)
        rate = parameters.learning_rate * rate_factor(step, done, parameters.warmup_steps, "cosine")
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model.loss(batch, random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.network.parameters(), parameters.clip_norm)
        optimizer.step()
        if average is not None:
            average.update(step + 1)
        losses.append(loss.detach())
        if number % 20 == 0:
            advance(0, f"epoch {epoch + 1}, batch {number} of {len(batches)}")
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ModelError(f"epoch {epoch + 1}: the training loss is {mean}; lower learning_rate or clip_norm")
    return mean
