"""Vectors from a table of word vectors: means that can be worked out by hand."""

import importlib.metadata
import importlib.util

import numpy as np
import pytest
from safetensors.numpy import load_file

from learnable.errors import ModelError
from learnable.models.static_embedding import StaticEmbedder
from learnable.packages import packaged
from learnable.testing import toy_examples
from learnable.types import Example, Message


def example(*contents):
    messages = [
        Message(role=("user", "assistant")[turn % 2], content=content)
        for turn, content in enumerate(contents)
    ]
    return Example(id="x", messages=tuple(messages), source="s")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModelError, match="word vectors are not installed") as caught:
        StaticEmbedder()
    assert "pip install --no-deps wordllama" in caught.value.hint


needs_vectors = pytest.mark.skipif(
    not importlib.util.find_spec("wordllama"), reason="the word vectors are not installed (make setup)"
)


def file_of_vectors(ending):
    return packaged("wordllama", ending, what="the word vectors are", hint="")


@needs_vectors
def test_a_package_without_the_file_is_an_error():
    with pytest.raises(ModelError, match="holds no file"):
        file_of_vectors("_no_such_table.safetensors")


@pytest.fixture(scope="module")
def embedder():
    return StaticEmbedder()


@needs_vectors
def test_a_vector_is_the_mean_of_the_words(embedder):
    from tokenizers import Tokenizer

    table = load_file(file_of_vectors("_256.safetensors"))["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(file_of_vectors("_tokenizer_config.json")))
    tokenizer.no_padding()
    ids = tokenizer.encode("red sea\nblue sky", add_special_tokens=False).ids
    (found,) = embedder.embed([example("red sea", "blue sky")])
    np.testing.assert_allclose(found, table[ids].astype(np.float64).mean(axis=0), atol=1e-6)


@needs_vectors
def test_vectors_do_not_depend_on_what_else_is_embedded(embedder):
    examples = toy_examples(6)
    alone = np.concatenate([embedder.embed([each]) for each in examples])
    assert (alone.shape, alone.dtype) == ((6, 256), np.float32)
    np.testing.assert_array_equal(embedder.embed(examples[::-1]), alone[::-1])


@needs_vectors
def test_long_texts_are_read_to_their_end(embedder):
    many = "sea " * 3000
    one, other = embedder.embed([example(many, "the sky is blue"), example(many, "a cat and a dog")])
    assert not np.array_equal(one, other)


@needs_vectors
def test_alike_texts_have_alike_vectors(embedder):
    vectors = embedder.embed(
        [
            example("How do I cook rice?", "Boil it in water."),
            example("How is rice cooked?", "In boiling water."),
            example("Who wrote the constitution?", "A committee of lawyers."),
        ]
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


@needs_vectors
def test_an_example_without_a_word_has_no_vector(embedder):
    found = embedder.embed([Example(id="x", messages=(), source="s"), example("red")])
    assert np.isnan(found).all(axis=1).tolist() == [True, False]


@needs_vectors
def test_no_examples_have_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 256)


@needs_vectors
def test_the_identity_is_that_of_the_table(embedder):
    assert embedder.key == StaticEmbedder().key
    assert len(embedder.key) == 32
