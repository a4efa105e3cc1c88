"""Shared by all tests: a cache of their own, and tiny models built once."""

import gc
import os
from functools import partial

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
# Threads of a tiny model wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from learnable.experiments import table
from learnable.testing import CHATML, CHATML_GENERATION, tiny_model
from serving import serving

# Intervals of a table are drawn a hundred thousand times, ten times what tests of a table need.
table.difference, table.interval = (
    partial(each, draws=10_000) for each in (table.difference, table.interval)
)
settings.register_profile("ours", max_examples=50, deadline=None)
settings.load_profile("ours")
TEMPLATES = {"chatml": CHATML, "generation": CHATML_GENERATION, "base": None}


def pytest_collection_finish():
    """Let the collections of garbage that follow every training pass over what the libraries brought along."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep converted models and file hashes away from the user's own cache; the converted starter model is costly."""
    folder = tmp_path_factory.mktemp("cache")
    if "LEARNABLE_CACHE" not in os.environ:
        os.environ["LEARNABLE_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory, cache):
    """Return a folder of a tiny model for each kind of template."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, template=template) for name, template in TEMPLATES.items()}


@pytest.fixture(scope="session")
def tiny(tiny_models):
    """Return the folder of a tiny model with an ordinary chat template."""
    return tiny_models["chatml"]


@pytest.fixture
def server(monkeypatch):
    """Return a small server, for which no key is set."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as running:
        yield running
