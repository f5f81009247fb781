"""Real catalogues, where they are at hand: the counts are the published ones."""

from pathlib import Path

import numpy as np
import pytest

from training.data.configuring import parquet_config, parse_config
from training.data.dataset import Dataset
from training.data.prepare import prepare
from training.data.split import leave_one_out

DATA = Path(__file__).parents[3] / "shared" / "data"
RAW = DATA / "raw"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, which is not part of the project")

COUNTS = {
    "beauty": (22_363, 12_101, 198_502),
    "toys_and_games": (19_412, 11_924, 167_597),
    "yelp": (30_431, 20_033, 316_354),
    "office_products": (4_905, 2_419, 53_238),
    "cell_phones_and_accessories": (27_874, 10_407, 194_257),
    "video_games": (24_236, 8_541, 180_694),
    "sports_and_outdoors": (35_598, 18_203, 294_393),
    "microlens_50k": (49_887, 19_217, 359_048),
    "ml_latest_small": (671, 9_125, 100_004),
    "ml_100k": (943, 1_682, 100_000),
    "movies_and_tv_2018": (3_663, 2_653, 31_085),
    "steam": (1_194, 3_581, 11_229),
    "lastfm": (1_220, 4_606, 52_925),
    "goodreads_windows": (5_000, 4_058, 54_985),
}
SHORT_USERS = {"cell_phones_and_accessories": 5, "sports_and_outdoors": 1, "steam": 2, "video_games": 1_576}


def test_all_domains_keep_every_row(tmp_path: Path) -> None:
    # Their users with fewer than three interactions are the only problem; they stay, in training.
    figures = prepare(parquet_config(DATA, list(COUNTS)), tmp_path, skip_bad=True)
    assert figures["problems"] == {"user with too short a history": sum(SHORT_USERS.values())}
    dataset = Dataset.open(tmp_path)
    found = {summary.name: (summary.users, summary.items, summary.interactions) for summary in dataset.summaries}
    assert found == COUNTS
    for data in dataset:
        split = leave_one_out(data.history_items, data.history_starts)
        lengths = np.diff(data.history_starts)
        assert split.short_users == SHORT_USERS.get(data.name, 0)
        assert len(split.test) == len(split.validation) == data.users - split.short_users
        # Of each user's training part all but the first item are targets.
        assert len(split.training) == (np.where(lengths < 3, lengths, lengths - 2) - 1).sum()


@pytest.mark.skipif(not RAW.is_dir(), reason="needs ../shared/data/raw")
def test_the_2014_five_core_is_a_five_core(tmp_path: Path) -> None:
    domain = {
        "name": "music",
        "format": "amazon-2014",
        "interactions": str(RAW / "reviews_Musical_Instruments_5.json.gz"),
        "needs_text": False,
    }
    music = prepare(parse_config({"domains": [domain]}, "test"), tmp_path)["domains"]["music"]
    assert (music["users"], music["items"], music["interactions"]) == (1_429, 900, 10_261)
    assert music["interactions_lost"] == {"dropped": {}, "emptied": {}}


@pytest.mark.skipif(not RAW.is_dir(), reason="needs ../shared/data/raw")
def test_the_2018_edition_joins_its_metadata(tmp_path: Path) -> None:
    domain = {
        "name": "gifts",
        "format": "amazon-2018",
        "items": str(RAW / "meta_Gift_Cards.json.gz"),
        "interactions": str(RAW / "Gift_Cards_5.json.gz"),
    }
    gifts = prepare(parse_config({"domains": [domain]}, "test"), tmp_path)["domains"]["gifts"]
    # The published file counts reviews before repeated ones were merged, so a strict 5-core is slightly smaller.
    assert (gifts["users"], gifts["items"], gifts["interactions"]) == (456, 147, 2_960)
    assert (gifts["items_read"], gifts["interactions_read"]) == (1_547, 2_972)
    data = Dataset.open(tmp_path)["gifts"]
    assert data.items["title"].null_count() == 0
    assert np.bincount(data.history_items).min() >= 5
    assert np.diff(data.history_starts).min() >= 5
