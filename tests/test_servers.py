"""Servers with OpenAI's interface: what is sent, what comes back, and what goes wrong; against a server of our own."""

import gzip
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace

import polars as pl
import pytest

from learnable.commands import diversify, leakage
from learnable.commands.leak_search import Detecting
from learnable.data import read
from learnable.diversifiers.drawing import Drawing
from learnable.errors import DataError, ModelError, UsageError
from learnable.evaluators import build_evaluator, parse
from learnable.runs.store import Store
from learnable.servers import GIVE_UP, ServerGenerator
from learnable.settings import Sampling
from learnable.testing import tiny_model
from learnable.types import Answer, Message
from serving import asked_of, completion, serving

SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=7)


def questions(count):
    return [(Message(role="user", content=f"question {number}"),) for number in range(count)]


def generator(server, **settings):
    return ServerGenerator(url=server.url, name="m", **{"retries": 0, **settings})


def answered(server, count=3, **settings):
    only = settings.pop("only", None)
    asked = generator(server, **settings).answers(
        questions(count), sampling=SAMPLING, seeds=range(count), only=only
    )
    return {place: answer for batch in asked for place, answer in zip(*batch, strict=True)}


def test_how_a_server_is_written():
    written = ServerGenerator.parse("openai:http://localhost:8000/v1#org/name")
    assert written == ServerGenerator(url="http://localhost:8000/v1", name="org/name")


@pytest.mark.parametrize(
    "written",
    ["", "openai:", "openai:http://localhost:8000/v1", "openai:localhost:8000#m", "http://localhost:8000#m"],
)
def test_what_is_no_server_gets_an_example(written):
    with pytest.raises(UsageError, match="cannot read the generator") as error:
        ServerGenerator.parse(written)
    assert "openai:http://127.0.0.1:8000/v1#" in error.value.hint


@pytest.mark.parametrize(
    "settings", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}, {"url": "localhost:8000"}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UsageError):
        ServerGenerator(**{"url": "http://localhost", "name": "m", **settings})


def test_identity_is_url_and_name():
    one = ServerGenerator(url="http://localhost/v1", name="m")
    assert one.key == ServerGenerator(url="http://localhost/v1/", name="m", concurrency=1, timeout_s=1).key
    assert one.key != ServerGenerator(url="http://localhost/v1", name="other").key
    assert one.key != ServerGenerator(url="http://localhost:1/v1", name="m").key


def test_what_is_sent(server):
    turns = (Message(role="system", content="be brief"), Message(role="user", content="why?"))
    list(generator(server).answers([turns], sampling=SAMPLING, seeds=[2**40 + 5]))
    (body,) = server.asked
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "why?"},
    ]
    sent = [body[name] for name in ("model", "temperature", "top_p", "max_tokens", "seed")]
    assert sent == ["m", 0.5, 0.9, 7, 5]


def test_answers_by_position_and_whether_they_finished(server):
    server.reply = lambda body: (
        200,
        completion(asked_of(body), "length" if "1" in asked_of(body) else "stop"),
    )
    assert answered(server) == {
        0: Answer("question 0", finished=True),
        1: Answer("question 1", finished=False),
        2: Answer("question 2", finished=True),
    }


@pytest.mark.parametrize("finish", ["content_filter", "abort"])
def test_what_a_server_broke_off_is_not_finished(server, finish):
    server.reply = lambda body: (200, completion("It is", finish))
    assert answered(server, 1) == {0: Answer("It is", finished=False)}


def test_only_some_are_asked(server):
    assert sorted(answered(server, 5, only={1, 3})) == [1, 3]
    assert {asked_of(body) for body in server.asked} == {"question 1", "question 3"}


def test_answers_come_while_others_are_waited_for(server):
    waiting = threading.Event()

    def reply(body):
        if "0" in asked_of(body):
            waiting.wait(5)
        return 200, completion("x")

    server.reply = reply
    asked = generator(server).answers(questions(2), sampling=SAMPLING, seeds=range(2))
    assert next(asked)[0] == [1]
    waiting.set()
    assert next(asked)[0] == [0]


def test_an_error_of_the_server_is_retried(server):
    statuses = iter([500, 200])
    server.reply = lambda _: (next(statuses), completion("at last"))
    assert answered(server, 1, retries=1) == {0: Answer("at last", finished=True)}


def test_a_server_that_is_down():
    absent = ServerGenerator(url="http://127.0.0.1:9/v1", name="m", retries=0)
    with pytest.raises(ModelError, match=r"cannot reach the server at http://127.0.0.1:9/v1") as error:
        list(absent.answers(questions(3), sampling=SAMPLING, seeds=range(3)))
    assert error.value.hint == "is the server running?"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_or_model_that_is_refused(server, status):
    server.reply = lambda _: (status, {"error": {"message": "not you"}})
    with pytest.raises(ModelError, match=r"the server m at .* refuses: .*not you"):
        answered(server)


def test_one_that_takes_too_long_is_left_out_and_said(server, capsys):
    waiting = threading.Event()

    def reply(body):
        if "1" in asked_of(body):
            waiting.wait(5)
        return 200, completion("x")

    server.reply = reply
    assert sorted(answered(server, timeout_s=2)) == [0, 2]
    waiting.set()
    assert "did not answer 1 requests: 1 x no answer within 2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (b"{not json", "sent no chat completion"),
        (b"<html>", "sent no chat completion: '<html>'"),
        ({"choices": []}, "sent no chat completion"),
        ({"choices": [3]}, "sent no text"),
        ([], "sent no chat completion"),
        (completion(None, "length"), "sent no text (finish_reason 'length')"),
    ],
)
def test_junk_is_left_out_and_said(server, capsys, junk, reason):
    server.reply = lambda body: (200, junk if "1" in asked_of(body) else completion("x"))
    assert sorted(answered(server)) == [0, 2]
    assert reason in capsys.readouterr().err


def test_a_server_that_answers_nothing_is_an_error_with_the_reason(server):
    server.reply = lambda _: (400, {"error": {"message": "no seeds here"}})
    with pytest.raises(ModelError, match=r"left \d+ requests in a row without an answer.*no seeds here"):
        answered(server, 3 * GIVE_UP, concurrency=1)
    assert len(server.asked) < 3 * GIVE_UP


def test_requests_that_a_server_will_never_take_do_not_stop_a_run_that_goes_on(server, capsys):
    server.reply = lambda _: (400, {"error": {"message": "too long"}})
    assert answered(server, 3 * GIVE_UP, only=set(range(2 * GIVE_UP))) == {}
    assert "too long" in capsys.readouterr().err


def test_a_server_that_breaks_on_the_way_is_given_up(server):
    server.reply = lambda body: (
        (200, completion("x")) if asked_of(body) == "question 0" else (503, {"error": {"message": "broken"}})
    )
    with pytest.raises(ModelError, match=r"in a row.*broken"):
        answered(server, 4 * GIVE_UP, concurrency=1)


def test_requests_run_at_the_same_time_but_not_too_many(server):
    lock, now, most = threading.Lock(), [0], [0]
    meeting = threading.Barrier(2, timeout=5)

    def reply(_):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meeting.wait()
        with lock:
            now[0] -= 1
        return 200, completion("x")

    server.reply = reply
    assert len(answered(server, 6, concurrency=2)) == 6
    assert most == [2]


def test_what_was_not_answered_is_asked_again_in_the_next_run(server, tmp_path):
    draw = Drawing(generator=generator(server), sampling=SAMPLING, store=Store(tmp_path))
    server.reply = lambda body: (400 if "1" in asked_of(body) else 200, completion("x"))
    first = draw.answers(questions(3), seeds=range(3), label="test")
    assert first == [Answer("x", True), Answer("", False), Answer("x", True)]
    server.asked.clear()
    server.reply = lambda _: (200, completion("y"))
    again = draw.answers(questions(3), seeds=range(3), label="test")
    assert [answer.text for answer in again] == ["x", "y", "x"]
    assert [asked_of(body) for body in server.asked] == ["question 1"]


def test_a_server_that_ignores_the_temperature_is_found_out(server, capsys):
    alike = [questions(1)[0]] * 4
    list(generator(server).answers(alike, sampling=SAMPLING, seeds=range(4)))
    assert "the same answer whatever the seed" in capsys.readouterr().err
    list(generator(server).answers(alike, sampling=Sampling(temperature=0.0), seeds=range(4)))
    numbers = iter(range(4))
    server.reply = lambda _: (200, completion(f"answer {next(numbers)}"))
    list(generator(server).answers(alike, sampling=SAMPLING, seeds=range(4)))
    assert capsys.readouterr().err == ""


KEY = "sk-proj-0123456789abcdef"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost/v1",
        "https://hunter2@localhost/v1",
        "http://localhost/v1?api_key=hunter2",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_and_not_shown(url):
    for make in (
        lambda: ServerGenerator(url=url, name="m"),
        lambda: ServerGenerator(url=url.removeprefix("http:"), name="m"),
        lambda: ServerGenerator.parse(f"openai:{url}#m"),
        lambda: ServerGenerator.parse(f"openai:{url}"),
        lambda: build_evaluator(parse(f"judge:p.jsonl@server={url},model=m")),
        lambda: diversify(["rows.jsonl"], method="paraphrase", generator=f"openai:{url}#m"),
    ):
        with pytest.raises(UsageError) as error:
            make()
        assert "hunter2" not in str(error.value)


def test_a_secret_in_the_address_of_rows_is_not_shown():
    with pytest.raises(DataError) as error:
        read(["https://user:hunter2@localhost/my.jsonl?token=hunter2"])
    assert "hunter2" not in str(error.value)
    assert "then give my.jsonl" in error.value.hint


def echo(status):
    """Answer with all headers of the request, as servers do that are being debugged."""

    def write(handler):
        said = json.dumps({"error": {"message": str(dict(handler.headers))}}).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    return write


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_key_that_the_server_repeats_is_not_shown(server, capsys, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.reply = lambda _: (0, echo(status))
    with pytest.raises(ModelError) as error:
        answered(server, 1)
    assert server.heard[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(error.value) + capsys.readouterr().err


def test_a_key_in_an_answer_is_not_kept(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.reply = lambda _: (200, completion(f"it is {KEY}"))
    assert answered(server, 1)[0].text == "it is ***"
    monkeypatch.setenv("OPENAI_API_KEY", "it")  # no secret, but a word
    server.reply = lambda _: (200, completion("it is it"))
    assert answered(server, 1)[0].text == "it is it"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_rows_are_not_sent_after_a_redirect(server, status):
    def write(handler):
        handler.send_response(status)
        handler.send_header("Location", f"{elsewhere.url}/chat/completions?token=hunter2")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.reply = lambda _: (0, write)
    with serving() as elsewhere:
        with pytest.raises(ModelError, match="sends requests elsewhere") as error:
            answered(server, 1)
        assert str(elsewhere.server_address[1]) in str(error.value)
    assert "hunter2" not in str(error.value)
    assert elsewhere.asked == []


def dripping(handler):
    """Send an answer byte by byte, and never end; each comes in time."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    send_until_left(handler, b" ", 0.02)


def dripping_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    send_until_left(handler, b"x", 0.02)


def flooding(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    send_until_left(handler, b" " * (1 << 20), 0)


def send_until_left(handler, piece, pause_s):
    try:
        while True:
            handler.wfile.write(piece)
            time.sleep(pause_s)
    except OSError:
        pass


@pytest.mark.parametrize("write", [dripping, dripping_headers])
def test_the_time_of_an_answer_ends_although_it_goes_on_coming(server, capsys, write):
    server.reply = lambda body: (0, write) if "1" in asked_of(body) else (200, completion("x"))
    started = time.monotonic()
    assert sorted(answered(server, timeout_s=2)) == [0, 2]
    assert time.monotonic() - started < 20
    assert "no answer within 2 s" in capsys.readouterr().err


def test_an_answer_without_end_is_left_out(server, capsys):
    server.reply = lambda body: (0, flooding) if "1" in asked_of(body) else (200, completion("x"))
    assert sorted(answered(server, retries=4)) == [0, 2]
    assert "longer than 16 MiB" in capsys.readouterr().err
    assert len(server.asked) == 3


def test_an_answer_that_may_unfold_is_left_out(server, capsys):
    def write(handler):
        content = gzip.compress(json.dumps(completion("y")).encode())
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    server.reply = lambda body: (0, write) if "1" in asked_of(body) else (200, completion("x"))
    assert sorted(answered(server)) == [0, 2]
    assert "compressed" in capsys.readouterr().err
    assert server.heard[0]["Accept-Encoding"] == "identity"


def test_what_is_not_waited_for_any_more_ends(server):
    server.reply = lambda body: (0, dripping) if "1" in asked_of(body) else (200, completion("x"))
    started = time.monotonic()
    asked = generator(server, timeout_s=60).answers(questions(2), sampling=SAMPLING, seeds=range(2))
    assert next(asked)[0] == [0]
    asked.close()
    assert time.monotonic() - started < 20


def test_a_key_that_travels_unencrypted_is_said(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    far = ServerGenerator(url="http://far.invalid:1/v1", name="m", retries=0, timeout_s=2)
    with pytest.raises(ModelError):
        list(far.answers(questions(1), sampling=SAMPLING, seeds=[0]))
    said = capsys.readouterr().err
    assert "unencrypted" in said
    assert KEY not in said


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")):
        pytest.skip('transformers serve needs more packages: pip install "transformers[serving]"')
    tiny = tiny_model(tmp_path_factory.mktemp("served"))
    settings = tiny / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "do_sample": True}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny), "--device", "cpu"]
    with subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)]) as process:
        try:
            yield ServerGenerator(url=_ready(process, port), name=str(tiny), concurrency=2)
        finally:
            process.terminate()


def _ready(process, port):
    for _ in range(600):
        assert process.poll() is None, "transformers serve has ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return f"http://127.0.0.1:{port}/v1"
    raise AssertionError("transformers serve did not start")


@pytest.mark.slow
def test_a_real_server_answers_and_keeps_to_the_length(real_server):
    batches = real_server.answers(questions(3), sampling=SAMPLING, seeds=range(3))
    found = {place: answer for batch in batches for place, answer in zip(*batch, strict=True)}
    assert sorted(found) == [0, 1, 2]
    assert all(answer.text for answer in found.values())


@pytest.mark.slow
def test_a_real_server_keeps_to_the_seed_of_requests_that_come_one_by_one(real_server):
    # transformers serve seeds one generator for all, so that requests at the same time disturb each other.
    one_by_one = replace(real_server, concurrency=1)

    def drawn(seeds):
        wild = Sampling(temperature=2.0, top_p=1.0, max_new_tokens=12)
        batches = one_by_one.answers(questions(1) * 2, sampling=wild, seeds=seeds)
        found = {place: answer.text for batch in batches for place, answer in zip(*batch, strict=True)}
        return found[0], found[1]

    one, other = drawn([1, 2])
    assert one != other
    assert drawn([1, 1]) == (one, one)


@pytest.mark.slow
def test_a_real_server_that_does_not_know_the_model(real_server):
    stranger = ServerGenerator(url=real_server.url, name="nobody/nothing", retries=0)
    with pytest.raises(ModelError, match="nobody/nothing"):
        list(stranger.answers(questions(2), sampling=SAMPLING, seeds=range(2)))


def echoed(body):
    """A completion of a given text: its words are tokens, and one is as likely as it has characters."""
    text = body["prompt"]
    offsets = [place for place in range(len(text)) if place == 0 or text[place - 1] in " \n"]
    lengths = [end - start for start, end in zip(offsets, [*offsets[1:], len(text)], strict=True)]
    logprobs = {
        "text_offset": [*offsets, len(text)],
        "token_logprobs": [None, *(-n / 10 for n in lengths[1:]), -9],
    }
    choice = {"index": 0, "finish_reason": "length", "text": text + " more", "logprobs": logprobs}
    return 200, {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}


def test_a_given_text_is_scored_from_a_character_on(server):
    server.reply = echoed
    ((place, reply),) = [
        each for batch in generator(server).scored([("one two six", 4)], only={0}) for each in batch
    ]
    assert (place, reply.tokens) == (0, 2)
    assert reply.nll == pytest.approx((len("two ") + len("six")) / 10)
    assert server.asked[0]["echo"] is True


def test_a_server_without_log_probabilities_is_refused(server):
    server.reply = lambda body: (
        200,
        {**echoed(body)[1], "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]},
    )
    with pytest.raises(ModelError, match="no log-probabilities"):
        list(generator(server).scored([("one two", 4)], only={0}))


@pytest.mark.parametrize("how", ["orders", "ngram"])
def test_a_leak_is_looked_for_on_a_server(server, tmp_path, how):
    def reply(body):
        if body.get("echo"):
            return echoed(body)
        given = body["prompt"].rsplit("\n", 1)[0]
        known = {"who is it": "sun", "who is it\nA. sun": "sea"}
        choice = {"index": 0, "finish_reason": "stop", "text": f" {known.get(given, 'no idea')}"}
        return 200, {**echoed(body)[1], "choices": [choice]}

    server.reply = reply
    rows = [{"question": "who is it", "choices": ["sun", "sea", "moon"]}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(output):
        return leakage(
            str(tmp_path / "items.jsonl"),
            model=f"openai:{server.url}#m",
            detecting=Detecting(by=how),
            store=str(tmp_path / "store"),
            output=str(tmp_path / output),
        )

    frame = pl.read_parquet(ask("one").folder / "items.parquet")
    if how == "ngram":
        assert frame["sums"][0].to_list() == [1.0, 1.0, 0.0]
        assert frame["hit"][0] == 1
    else:
        assert len(frame["sums"][0]) == 6
        assert frame["sums"][0][0] == pytest.approx(-len("A. sun\nB. sea\nC. moon") / 10)
    asked = len(server.asked)
    ask("again")
    assert len(server.asked) == asked


def test_a_server_that_fails_many_times_in_a_row_is_given_up(server, tmp_path):
    server.reply = lambda _: (400, {"error": {"message": "no"}})
    rows = [{"question": f"who {number}", "choices": ["sun", "sea", "moon"]} for number in range(9)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ModelError, match="in a row without an answer"):
        leakage(
            str(tmp_path / "items.jsonl"),
            model=f"openai:{server.url}#m",
            store=str(tmp_path / "store"),
            output=str(tmp_path / "out"),
        )
