"""``NAME[:PATH][@key=value,...]`` in, an evaluator with typed settings out."""

import pytest

from learnable.errors import UsageError
from learnable.evaluators import Specification, build_evaluator, parse
from learnable.evaluators.exact_match import ExactMatch
from learnable.evaluators.format import Format
from learnable.evaluators.heldout import Heldout


@pytest.mark.parametrize(
    ("written", "name", "path", "given", "label"),
    [
        ("heldout:a.jsonl", "heldout", "a.jsonl", {}, "heldout:a.jsonl"),
        ("ifeval", "ifeval", None, {}, "ifeval"),
        ("ifeval@n=5", "ifeval", None, {"n": "5"}, "ifeval@n=5"),
        (
            "exact_match:/data/gsm8k.parquet@n=100,max_new_tokens=128",
            "exact_match",
            "/data/gsm8k.parquet",
            {"n": "100", "max_new_tokens": "128"},
            "exact_match:gsm8k.parquet@n=100,max_new_tokens=128",
        ),
        (
            "heldout:me@home/a:b.jsonl@n=1",
            "heldout",
            "me@home/a:b.jsonl",
            {"n": "1"},
            "heldout:a:b.jsonl@n=1",
        ),
        ("heldout:data@v2.jsonl", "heldout", "data@v2.jsonl", {}, "heldout:data@v2.jsonl"),
        ("heldout:owner/name:test", "heldout", "owner/name:test", {}, "heldout:name:test"),
        (
            "judge:p.jsonl@server=http://me@127.0.0.1:8000/v1,model=a/b",
            "judge",
            "p.jsonl",
            {"server": "http://me@127.0.0.1:8000/v1", "model": "a/b"},
            "judge:p.jsonl@server=http://me@127.0.0.1:8000/v1,model=a/b",
        ),
        (
            "format:a.jsonl@keys=x,y,label=y",
            "format",
            "a.jsonl",
            {"keys": "x,y", "label": "y"},
            "format:a.jsonl@keys=x,y,label=y",
        ),
        ("heldout:a@max-x=3", "heldout", "a", {"max_x": "3"}, "heldout:a@max_x=3"),
        ("my.module:Mine:a.jsonl@n=1", "my.module:Mine", "a.jsonl", {"n": "1"}, "my.module:Mine:a.jsonl@n=1"),
    ],
)
def test_parse(written, name, path, given, label):
    assert parse(written) == Specification(name=name, path=path, settings=given, label=label)


@pytest.mark.parametrize("written", ["", ":a.jsonl", "@n=1", "held out:x", "ifeval@strict"])
def test_what_cannot_be_read(written):
    with pytest.raises(UsageError, match="cannot read"):
        parse(written)


def test_build_gives_settings_their_types():
    assert build_evaluator(parse("heldout:a@n=5,seed=2,source=topic")) == Heldout(
        n=5, seed=2, source_column="topic"
    )
    assert build_evaluator(parse("exact_match:a@prompt=q,answer=a")) == ExactMatch(
        prompt_column="q", answer="a"
    )
    assert build_evaluator(parse("format:a@keys=x, y")) == Format(keys=("x", "y"))
    assert build_evaluator(parse("lm_eval:a.yaml@chat=true,fewshot=0")).chat is True
    assert build_evaluator(parse("judge:p@server=http://x,model=m,timeout_s=1.5")).timeout_s == 1.5
    assert build_evaluator(parse("learnable.evaluators.heldout:Heldout:a")) == Heldout()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("heldot:a", "no evaluator called 'heldot'.*did you mean 'heldout'"),
        ("heldout:a@nn=1", "heldout has no setting 'nn'.*did you mean 'n'"),
        ("heldout:a@n=many", "does not take n=many.*integer"),
        ("translation:a@metric=rouge", "metric=rouge.*chrf"),
        ("judge:a", "needs a server and a model"),
        ("judge:a@server=http://x,model=y,concurrency=0", "concurrency must be"),
        ("reasoning_gym:chain_sum@n=0", "n must be 1"),
        ("no.such:Evaluator:a", "cannot import"),
    ],
)
def test_what_cannot_be_built(written, words):
    with pytest.raises(UsageError, match=f"(?s){words}"):
        build_evaluator(parse(written))
