"""The stage `train-recommender`: a dataset and a tokenizer's IDs in, `model.safetensors` and `recommender.json` out.

Knows nothing of the command line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from service.bundle.repeats import LearnedRepeats
from service.errors import ConfigError
from service.progress import progress
from service.semantic_ids import TokenLayout
from training.checkpoint import CHECKPOINT
from training.data.dataset import Dataset
from training.encoders.vectors import domain_vectors
from training.ids.table import read_ids
from training.networks.t5 import WEIGHTS, LayoutRecord, RecommenderRecord, load_recommender, save_record
from training.processor import use_processor
from training.recommender.corpus import Corpus, build_corpus, item_values, learned_from
from training.recommender.learned_ids import LEARNED_IDS, ids_digest
from training.recommender.parameters import RecommenderParameters
from training.recommender.repeats import learned_repeats
from training.recommender.tasks import require_all_items
from training.recommender.taught import WINDOWS, Teacher, ask, known_domains
from training.recommender.teachers import Lesson, open_teachers
from training.recommender.trainer import Trainer
from training.recommender.words import item_words
from training.stage import Stage, read_figures


def tokenizer_layout(folder: Path) -> TokenLayout:
    """Layout of the IDs of a tokenizer.

    Raises
    ------
    ConfigError : the folder holds no finished tokenizer
    """
    return TokenLayout(**read_figures(folder)["layout"])


def load_corpus(dataset: Dataset, tokenizer: Path, parameters: RecommenderParameters) -> Corpus:
    """Load the histories of the chosen domains, with the IDs given by a tokenizer.

    Raises
    ------
    ConfigError : a domain is not in the dataset or has no IDs
    """
    names = parameters.domains or dataset.domains
    ids = read_ids(tokenizer)
    without = [name for name in names if name not in ids]
    if without:
        raise ConfigError(f"{tokenizer}: no IDs for {', '.join(without)}; there are some for {', '.join(ids)}")
    plain = tokenizer_layout(tokenizer)
    layout = replace(
        plain,
        domains=tuple(names) if parameters.domain_token else (),
        # IDs of a tokenizer without a router have no expert token.
        expert_first=parameters.expert_first and plain.experts_per_item > 0,
    )
    domains = [dataset[name] for name in names]
    values = {domain.name: item_values(ids[domain.name], domain, layout) for domain in domains}
    return build_corpus(domains, values, layout, parameters.max_history)


def read_embeddings(dataset: Dataset, embeddings: Path | None, corpus: Corpus) -> NDArray[np.float32]:
    """Embeddings of a corpus' items, float32 [M, D].

    Raises
    ------
    ConfigError : no folder was given
    InvalidInput : a domain has no embeddings, or not one per item
    """
    if embeddings is None:
        raise ConfigError(
            "content_start is above 0, or likeness is asked for, so the recommender has to know what items are about; "
            "give --embeddings the folder that `unitok embed` wrote"
        )
    return np.concatenate([domain_vectors(embeddings, dataset[name]) for name in corpus.domains])


def train_recommender(
    dataset: Path,
    tokenizer: Path,
    out: Path,
    parameters: RecommenderParameters,
    embeddings: Path | None = None,
    *,
    teachers: Sequence[Path] = (),
) -> dict[str, Any] | None:
    """Run the stage; a killed run resumes from its last checkpoint.

    Several processes started by `accelerate launch` train together; only the first writes.

    Parameters
    ----------
    embeddings : output of `embed`; needed for `content_start` above 0 and for likeness
    teachers : outputs of `train-recommender` or `train-baseline` to distil from

    Returns
    -------
    the contents of `figures.json`, or None in every process but the first

    Raises
    ------
    ConfigError : a domain is not in the dataset or has no IDs, embeddings are needed and were not given, a teacher
        cannot teach this network, or `out` holds a checkpoint of another training
    InvalidInput : the embeddings are not those of the items
    ModelError : training diverged
    """
    use_processor(parameters.threads, parameters.bf16_products)
    gpu = torch.cuda.is_available()
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
    opened, ids = Dataset.open(dataset), read_ids(tokenizer)
    corpus = load_corpus(opened, tokenizer, parameters)
    needs_content = parameters.content_start > 0 or parameters.network.likeness
    content = read_embeddings(opened, embeddings, corpus) if needs_content else None
    words = None
    if parameters.word_items:
        words = item_words((opened[name].contents() for name in corpus.domains), parameters.word_items)
    opened_teachers: list[Teacher] = []
    if teachers:
        lesson = Lesson(corpus, opened, ids, parameters.max_history, accelerator.device)
        # Before `Stage` is created, which deletes the figures of an earlier training in the folder.
        opened_teachers = teachers_of(teachers, lesson, parameters, out)
    stage = Stage("train-recommender", out) if accelerator.is_main_process else None
    record = RecommenderRecord(
        t5=parameters.network,
        layout=LayoutRecord.of(corpus.layout),
        max_history=parameters.max_history,
        trained_on=corpus.domains,
    )
    if stage is not None:
        if not (out / CHECKPOINT).is_file():
            # Without a checkpoint these weights are of an earlier training, which the new record does not describe. A
            # resumed training keeps them: they are its best so far.
            (out / WEIGHTS).unlink(missing_ok=True)
        save_record(out, record)
    accelerator.wait_for_everyone()
    taught = None
    if opened_teachers:
        taught = ask(corpus, opened_teachers, parameters.taught_items, WINDOWS[accelerator.device.type])
        opened_teachers.clear()  # frees their device memory
    clock = None if stage is None else stage.clock
    trainer = Trainer(corpus, parameters, out, accelerator, embeddings=content, taught=taught, words=words, clock=clock)
    result = trainer.run()
    # Every process leaves the process group explicitly: one that merely exits may be torn down amid communication, and
    # abort. The wrapper that averages gradients must release the group first: when Python frees the group, it releases
    # the GIL while it waits for the group's threads; when the wrapper frees it, it holds the GIL, and may deadlock.
    del trainer
    accelerator.free_memory()
    accelerator.end_training()
    if stage is None:
        return None
    repeats = learn_repeats(out, opened, tokenizer)
    save_record(out, record.model_copy(update={"repeats": repeats}))
    figures = {
        **asdict(result),
        "repeats": {name: learned.model_dump() for name, learned in repeats.items()},
        "domains": list(corpus.domains),
        "learned_from": {name: learned_from(ids[name], opened[name], corpus.layout) for name in corpus.domains},
        LEARNED_IDS: {name: ids_digest(ids[name]) for name in corpus.domains},
        "training_examples": len(corpus.training),
        "items": len(corpus.values),
        "vocabulary": corpus.layout.vocabulary,
        "device": str(accelerator.device),
        "devices": accelerator.num_processes,
        "teachers": [str(folder) for folder in teachers],
        "configuration": json.loads(parameters.model_dump_json()),
    }
    finished = stage.finish(figures)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return finished


def teachers_of(folders: Sequence[Path], lesson: Lesson, parameters: RecommenderParameters, out: Path) -> list[Teacher]:
    """Open the teachers of a recommender whose folder is `out`.

    Raises
    ------
    ConfigError : a teacher cannot teach, the network has no head that learns from it, or a teacher's folder is `out`
    """
    if parameters.network.history != "items":
        raise ConfigError(
            'teachers say which items come next, which needs a network with history = "items" to learn it'
        )
    if parameters.item_loss == 0:
        raise ConfigError("item_loss is 0, so the head over items learns nothing from teachers; raise it")
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(f"teacher {out}: is where the recommender would be written; choose another folder for that")
    opened = open_teachers(folders, lesson)
    require_all_items(lesson.corpus, parameters, known_domains(lesson.corpus, opened))
    return opened


def learn_repeats(recommender: Path, dataset: Dataset, tokenizer: Path) -> dict[str, LearnedRepeats]:
    """Bonuses of history items, by domain that the recommender was trained on; empty without a head over items."""
    trained, ids = load_recommender(recommender), read_ids(tokenizer)
    repeats = {}
    with progress("learning whether items come again", len(trained.trained_on)) as advance:
        for name in trained.trained_on:
            domain = dataset[name]
            learned = learned_repeats(trained, domain, item_values(ids[name], domain, trained.layout))
            if learned is not None:
                repeats[name] = learned
            advance(1, name)
    return repeats
