"""The training loop: epochs of bucketed batches, validations, early stopping, checkpoints, on one device or several.

Knows nothing of files outside its output folder, or of where the corpus comes from.
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from service.errors import ModelError
from service.progress import Advance, progress
from training.checkpoint import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from training.learning.averaging import WeightAverage
from training.learning.batches import epoch_batches
from training.learning.schedule import finished_share, rate_factor
from training.networks.t5 import save_weights
from training.networks.word_vectors import plain_state
from training.recommender.batches import epoch_examples
from training.recommender.beginning import begin, fingerprint, step_seed
from training.recommender.corpus import Corpus, IntVector
from training.recommender.parameters import RecommenderParameters
from training.recommender.progress import Progress, Tally
from training.recommender.taught import Taught
from training.recommender.validation import ValidationFigures, Validator
from training.recommender.words import ItemWords
from training.stage import Clock, write_log


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes
    ----------
    parameters : number of trainable parameters of the network
    epochs, steps, training_seconds : totals over all starts; epochs may be a fraction
    best_step : step of the weights that were kept
    best : their validation figures
    ended_by : "epochs", "minutes" or "patience"
    """

    parameters: int
    epochs: float
    steps: int
    training_seconds: float
    best_step: int
    best: dict[str, Any]
    ended_by: str


class Trainer:
    """One training, from its first step or from its last checkpoint.

    Parameters
    ----------
    corpus : the training data
    parameters : all parameters of the training
    folder : `model.safetensors` (best so far), `training.jsonl` and a checkpoint go here
    accelerator : the devices; several share the batches of a step and average their gradients
    embeddings, taught, words : see `begin`
    clock : the stage's clock; None: a new one

    Raises
    ------
    ConfigError : the folder holds a checkpoint of another training, or a damaged one
    """

    def __init__(
        self,
        corpus: Corpus,
        parameters: RecommenderParameters,
        folder: Path,
        accelerator: Accelerator,
        *,
        embeddings: NDArray[np.float32] | None = None,
        taught: Taught | None = None,
        words: ItemWords | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.parameters, self.folder, self.accelerator = parameters, folder, accelerator
        beginning = begin(corpus, parameters, embeddings, taught, words=words)
        network, self._task = beginning.network, beginning.task
        self.parameter_count = sum(parameter.numel() for parameter in network.parameters())
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay, fused=True
        )
        self.fingerprint = fingerprint(corpus, parameters, embeddings, accelerator.num_processes, taught, words=words)
        network.to(accelerator.device)
        self._checkpoint = Checkpoint(folder / CHECKPOINT, clock or Clock())
        found = load_checkpoint(self._checkpoint, network, optimizer, self.fingerprint)
        self.at = Progress(**found) if found else Progress()
        self.network = network
        self.average = WeightAverage(optimizer, parameters.average) if parameters.average else None
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.validator = Validator(
            corpus,
            parameters.validation_users,
            parameters.validation_beams,
            parameters.max_history,
            parameters.seed,
        )
        self._started = time.perf_counter() - self.at.elapsed
        self._saved = time.perf_counter()
        self._tally = Tally()

    def run(self) -> TrainingResult:
        """Train until the epochs, the minutes or the patience are used up; the folder then holds the best weights.

        Raises
        ------
        ModelError : the loss is not finite, or the network returned NaN
        """
        batches = self._batches(self.at.epoch)
        # Always computed from epoch 0, also by a resumed run: with balanced domains, epochs differ by a few batches.
        total = self.parameters.epochs * (len(self._batches(0)) // self.accelerator.num_processes)
        if total <= self.parameters.warmup_steps and self.parameters.minutes is None:
            warnings.warn(
                f"{total} steps in all, but warmup_steps is {self.parameters.warmup_steps}: the learning rate never "
                "gets where it should. Give smaller batches (batch_tokens), more epochs, or fewer warmup_steps",
                stacklevel=2,
            )
        with progress("training", total) as advance:
            advance(self.at.step)
            while not (ended_by := self._epoch(batches, total, advance)):
                self.at.epoch, self.at.position = self.at.epoch + 1, 0
                if self.at.epoch == self.parameters.epochs:
                    ended_by = "epochs"
                    break
                batches = self._batches(self.at.epoch)
            if not self.at.history or self.at.history[-1]["step"] != self.at.step:
                self._validate(len(batches), advance)
                self._save_if_due()
        best = next(entry for entry in self.at.history if entry["step"] == self.at.best_step)
        return TrainingResult(
            parameters=self.parameter_count,
            epochs=round(self.at.epoch + self.at.position / len(batches), 2),
            steps=self.at.step,
            training_seconds=round(self._elapsed(), 1),
            best_step=self.at.best_step,
            best={name: best[name] for name in ("ndcg_10", "recall_10", "by_domain")},
            ended_by=ended_by,
        )

    def _batches(self, epoch: int) -> list[IntVector]:
        """Batches of an epoch, the same for every start and on every device."""
        rng = np.random.default_rng([self.parameters.seed, epoch])
        task = self._task
        rows = epoch_examples(task.examples, rng, self.parameters.domain_balance, self.parameters.examples_per_user)
        return epoch_batches(
            task.lengths,
            rows,
            rng,
            extra=task.extra,
            budget=self.parameters.batch_tokens,
            devices=self.accelerator.num_processes,
            groups=task.groups,
        )

    def _epoch(self, batches: list[IntVector], total: int, advance: Advance) -> str:
        """Train on the rest of an epoch; returns what ended the training, or "" if it goes on."""
        devices, validations = self.accelerator.num_processes, self.parameters.validations_per_epoch
        steps = len(batches) // devices
        marks = {(number + 1) * steps // validations for number in range(validations)}
        mean_weight = float(np.mean([self._task.weight(batch) for batch in batches]))
        limit = None if self.parameters.minutes is None else self.parameters.minutes * 60
        while self.at.position < len(batches):
            elapsed = 0.0 if limit is None else self._elapsed()
            if limit is not None and elapsed >= limit:
                return "minutes"
            done = finished_share(self.at.step, total, elapsed, limit)
            self._step(batches[self.at.position + self.accelerator.process_index], mean_weight, done)
            self.at.position += devices
            advance(1)
            if self.at.position // devices in marks:
                self._validate(len(batches), advance)
                if self.at.validations_without_best >= self.parameters.patience:
                    return "patience"
            self._save_if_due()
        return ""

    def _step(self, rows: IntVector, mean_weight: float, done: float) -> None:
        """One optimiser step on this device's batch.

        Batches differ in their number of targets; the loss is scaled so that all targets of an epoch weigh the same.
        """
        parameters, step = self.parameters, self.at.step
        # Seeded at every step, so that a resumed training draws the same random numbers as an uninterrupted one.
        torch.manual_seed(step_seed(parameters.seed, self.accelerator.process_index, step))
        loss = self._task.loss(self.model, rows, self.accelerator.device)
        self.accelerator.backward(loss * (self._task.weight(rows) / mean_weight))
        self.accelerator.clip_grad_norm_(self.model.parameters(), parameters.clip_norm)
        factor = rate_factor(step, done, parameters.warmup_steps, parameters.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = parameters.learning_rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.at.step += 1
        if self.average is not None:
            self.average.update(self.at.step)
        self._tally.losses.append(loss.detach())
        self._tally.examples += len(rows)

    def _validate(self, batches: int, advance: Advance) -> None:
        """Validate, log, and save the weights if they are the best so far."""
        tally, self._tally = self._tally, Tally()
        loss = float(torch.stack(tally.losses).mean()) if tally.losses else float("nan")
        if tally.losses and not math.isfinite(loss):
            raise ModelError(f"step {self.at.step}: the training loss is {loss}; lower learning_rate or clip_norm")
        with nullcontext() if self.average is None else self.average.in_place():
            self._measure(batches, loss, tally, advance)
        self._tally.started = time.perf_counter()

    def _measure(self, batches: int, loss: float, tally: Tally, advance: Advance) -> None:
        """The main part of `_validate`, run with the weights to be kept (averaged if configured)."""
        figures = self._figures()
        self.at.elapsed = self._elapsed()
        self.at.history.append(
            {
                "step": self.at.step,
                "epoch": round(self.at.epoch + self.at.position / batches, 3),
                "seconds": round(self.at.elapsed, 1),
                "loss": round(loss, 4),
                "examples_per_second": round(tally.examples / (time.perf_counter() - tally.started)),
                **figures.as_dict(),
            }
        )
        advance(0, f"NDCG@10 {figures.ndcg_10:.4f}, loss {loss:.3f}")
        improved = self.at.validated(figures.ndcg_10)
        if self.accelerator.is_main_process:
            if improved:
                save_weights(self.folder, plain_state(self.network))
                # Forces a checkpoint: a killed run must not resume from before its best, which it may not reach again.
                self._saved = -math.inf
            write_log(self.folder, self.at.history)

    def _figures(self) -> ValidationFigures:
        """Search for the validation users, divided among the devices."""
        devices = self.accelerator.num_processes
        self._task.settle()
        self.network.eval()
        with parametrize.cached():  # word vectors are summed once, not for every batch of users
            lists = self.validator.ranked_lists(self.network, self.accelerator.process_index, devices)
        self.network.train()
        if devices > 1:
            shares = torch.from_numpy(lists).to(self.accelerator.device)
            lists = self.accelerator.reduce(shares, "sum").cpu().numpy()
        return self.validator.figures(lists)

    def _elapsed(self) -> float:
        """Seconds of training over all starts, by the main process' clock, so that all devices decide the same."""
        seconds = time.perf_counter() - self._started
        if self.accelerator.num_processes == 1:
            return seconds
        return float(broadcast(torch.tensor([seconds], device=self.accelerator.device)))

    def _save_if_due(self) -> None:
        if self.accelerator.is_main_process and (
            time.perf_counter() - self._saved >= self.parameters.checkpoint_seconds
        ):
            self.at.elapsed = time.perf_counter() - self._started
            progressed = asdict(self.at)
            save_checkpoint(self._checkpoint, self.network, self.optimizer.optimizer, self.fingerprint, progressed)
            self._saved = time.perf_counter()
