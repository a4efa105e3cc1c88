"""The judge, against a small server of our own."""

import json
import math
import threading

import pytest

from learnable.errors import ModelError
from learnable.evaluators import build_evaluator, parse
from learnable.evaluators.judge import Judge
from serving import asked_of, completion


@pytest.fixture
def server(server):
    """Return a server whose judge says ``verdict(text) -> (status, text)``."""

    def reply(body):
        status, text = server.verdict(asked_of(body))
        return status, completion(text) if status == 200 else {"error": {"message": text}}

    server.reply, server.verdict = reply, lambda _: (200, "[[C]]")
    return server


@pytest.fixture
def prompts(tmp_path):
    rows = [{"text": f"question {number}", "gold": f"gold {number}"} for number in range(4)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def of(server, **settings):
    return Judge(server=server.url, model="m", retries=0, **settings)


def prefers(word):
    """Reply for a server that finds the answer with a word in it better."""

    def reply(text):
        first, second = (
            word in text.split(f"<{name}>")[1].split("</")[0] for name in ("Answer A", "Answer B")
        )
        return 200, "Because.\n" + ("[[C]]" if first == second else "[[A]]" if first else "[[B]]")

    return reply


def test_wins_losses_and_ties(server, prompts):
    server.verdict = prefers("good")
    judge = of(server)
    grades = judge.judge_pairs(
        judge.read(prompts), ["good", "bad", "bad", "good"], ["bad", "good", "bad", "good"]
    )
    assert [grade.value for grade in grades] == [1.0, 0.0, 0.5, 0.5]
    assert [grade.answer for grade in grades] == ["win", "loss", "tie", "tie"]
    assert len(server.asked) == 8
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.asked} == {
        ("m", 0.0, 512)
    }


def test_a_judge_that_prefers_the_first_answer_says_nothing(server, prompts):
    server.verdict = lambda _: (200, "The first. [[A]]")
    judge = of(server)
    (grade,) = judge.judge_pairs(judge.read(prompts)[:1], ["x"], ["y"])
    assert (grade.value, grade.why) == (0.5, "A then A: the order decided")


def test_the_last_verdict_counts_and_none_is_ungradable(server, prompts):
    replies = {"question 0": "[[A]] would be wrong: [[C]]", "question 1": "I cannot tell"}
    server.verdict = lambda text: (200, next(reply for word, reply in replies.items() if word in text))
    judge = of(server)
    grades = judge.judge_pairs(judge.read(prompts)[:2], ["x", "x"], ["y", "y"])
    assert grades[0].value == 0.5
    assert math.isnan(grades[1].value)
    assert "I cannot tell" in grades[1].why


def test_what_the_judge_reads(server, prompts):
    judge = of(server, answer="gold")
    judge.judge_pairs(judge.read(prompts)[:1], ["one"], ["other"])
    texts = sorted(body["messages"][-1]["content"] for body in server.asked)
    assert all("<Request>\nquestion 0\n</Request>" in text for text in texts)
    assert all("<Reference answer>\ngold 0\n</Reference answer>" in text for text in texts)
    assert "<Answer A>\none\n</Answer A>\n\n<Answer B>\nother\n</Answer B>" in texts[0]
    assert "<Answer A>\nother\n</Answer A>\n\n<Answer B>\none\n</Answer B>" in texts[1]
    assert judge.prompt(judge.read(prompts)[0])[-1].content == "question 0"


def test_errors_of_the_server_are_retried_then_ungradable(server, prompts):
    failures = iter([500, 429, *[500] * 100])
    server.verdict = lambda text: (next(failures), "busy") if "question 1" in text else (200, "[[C]]")
    judge = of(server)
    grades = judge.judge_pairs(judge.read(prompts)[:2], ["x", "x"], ["y", "y"])
    assert grades[0].value == 0.5
    assert math.isnan(grades[1].value)
    assert "busy" in grades[1].why
    server.asked.clear()
    once = iter([500, *[200] * 100])
    server.verdict = lambda _: (next(once), "[[C]]")
    patient = Judge(server=server.url, model="m", retries=1)
    assert patient.judge_pairs(patient.read(prompts)[:1], ["x"], ["y"])[0].value == 0.5
    assert len(server.asked) == 3


def test_a_server_that_takes_too_long_is_ungradable(server, prompts):
    waiting = threading.Event()

    def reply(_):
        waiting.wait(5)
        return 200, "[[C]]"

    server.verdict = reply
    judge = of(server, timeout_s=0.2)
    (grade,) = judge.judge_pairs(judge.read(prompts)[:1], ["x"], ["y"])
    waiting.set()
    assert math.isnan(grade.value)
    assert grade.why == "no verdict within 0.2 s"


def test_a_key_that_is_refused_and_a_server_that_is_not_there(server, prompts, monkeypatch):
    server.verdict = lambda _: (401, "wrong key")
    judge = of(server)
    examples = judge.read(prompts)[:1]
    with pytest.raises(ModelError, match=r"refuses.*wrong key"):
        judge.judge_pairs(examples, ["x"], ["y"])
    assert {each["Authorization"] for each in server.heard} == {"Bearer none"}
    absent = Judge(server="http://127.0.0.1:9/v1", model="m", retries=0)
    with pytest.raises(ModelError, match="cannot reach the judge"):
        absent.judge_pairs(examples, ["x"], ["y"])


def test_requests_run_at_the_same_time_but_not_too_many(server, prompts):
    lock, now, most = threading.Lock(), [0], [0]
    meeting = threading.Barrier(2, timeout=5)

    def reply(_):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meeting.wait()
        with lock:
            now[0] -= 1
        return 200, "[[C]]"

    server.verdict = reply
    judge = of(server, concurrency=2)
    judge.judge_pairs(judge.read(prompts), ["x"] * 4, ["y"] * 4)
    assert most == [2]


def test_written_on_the_command_line(server, prompts):
    judge = build_evaluator(parse(f"judge:{prompts}@server={server.url},model=org/m,n=2"))
    assert (judge.server, judge.model, len(judge.read(prompts))) == (server.url, "org/m", 2)
