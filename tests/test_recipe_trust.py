"""A recipe file is text: it runs no code, asks no server and writes nowhere but in its run, unless the user says so."""

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from learnable import data, recipe
from learnable.cli import app as cli
from learnable.commands import VERBS
from learnable.errors import UsageError
from learnable.names import component
from learnable.runs.records import DONE
from learnable.testing import toy_examples, write_messages

EVIL = """
from dataclasses import dataclass
from pathlib import Path
Path("imported").touch()
@dataclass
class Thing:
    needs = ("loss_before",)
    needs_vectors = needs_examples = needs_generator = higher_is_better = False
    kind, unit, sampling = "likelihood", "nats", None
    x: int = 1
    def __post_init__(self): Path("called").touch()
    def read(self, path): return []
    def __call__(self, frame, *, k=0, n=0, draw=None, **_): return frame["loss_before"].to_numpy()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with rows, and with a module that tells when it is imported."""
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(8), tmp_path / "rows.jsonl")
    (tmp_path / "outside_code.py").write_text(EVIL)
    yield tmp_path
    sys.modules.pop("outside_code", None)


def ran(here):
    return sorted(path.name for path in here.iterdir() if path.name in ("imported", "called"))


def written(here, *, name="theirs", parameters=None, **steps):
    """Write a recipe file."""
    content = {"name": name, "about": "", "parameters": parameters or {}, "steps": steps}
    path = here / "theirs.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def texts_of(verb):
    """Return the arguments of a verb that are text, with a value that means something for what it must have."""
    usual = {"data": ["rows.jsonl"], "task": ["rows.jsonl"], "method": "self_sample", "scores": "s"}
    taken = inspect.signature(VERBS[verb]).parameters.values()
    needed = {each.name: usual.get(each.name, "x") for each in taken if each.default is each.empty}
    needed |= {"model": "no/model"} if any(each.name == "model" for each in taken) else {}
    return needed, [each.name for each in taken if "str" in str(each.annotation) and each.name != "output"]


PLACES = [(verb, name) for verb in VERBS for name in texts_of(verb)[1]]
FORMS = (
    "outside_code:Thing",
    "outside_code:Thing@x=1",
    "loss/outside_code:Thing",
    "outside_code:Thing:rows.jsonl",
    ["outside_code:Thing"],
)


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--dry-run", "--allow-code")])
@pytest.mark.parametrize(("verb", "place"), PLACES)
def test_no_place_of_a_recipe_runs_code(here, verb, place, words):
    for form in FORMS:
        step = {"verb": verb, **texts_of(verb)[0], place: form}
        if verb != "load":  # reads rows, also in a dry run
            cli.call(["run", written(here, step=step), *words])
        assert ran(here) == []


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("verb", "argument", "value"),
    [
        ("diversify", "method", "subprocess:getoutput@cmd=touch called"),
        ("diversify", "generator", "openai:https://example.com/v1#m"),
        ("diversify", "avoid", ["judge:p.jsonl@server=http://10.0.0.1/v1,model=m"]),
        ("score", "scorers", ["loss", "outside_code:Thing"]),
        ("score", "on", "ray:10.0.0.1:6379"),
        ("score", "loading", {"trust_remote_code": "yes"}),
        ("select", "selector", "outside_code:Thing"),
        ("compare", "by", ["ifd", "loss/outside_code:Thing"]),
        ("compare", "evaluate", ["lm_eval:task.yaml"]),
        ("teach", "evaluate", ["translation:t.jsonl@to=English,metric=comet,weights=w,python=./python"]),
        ("evaluate", "evaluations", ["outside_code:Thing:rows.jsonl"]),
    ],
)
def test_what_is_not_ours_is_named_and_refused(here, capsys, verb, argument, value, words):
    step = {"verb": verb, **texts_of(verb)[0], argument: value}
    assert cli.call(["run", written(here, bad=step), *words]) == 2
    said = capsys.readouterr().err
    assert "bad: " in said
    assert "--allow-code" in said
    assert ran(here) == []
    assert not (here / "runs").exists()


def scoring(here, **more):
    step = {"verb": "score", "data": ["rows.jsonl"], "model": "${model}", "scorers": "${scorers}", **more}
    step["loading"] = {"dtype": "float32"}
    return written(here, parameters={"model": None, "scorers": ["outside_code:Thing"]}, scores=step)


def test_allowed_code_runs_but_not_in_a_dry_run(here, tiny, capsys):
    words = ["run", scoring(here), f"model={tiny}", "--allow-code"]
    assert cli.call([*words, "--dry-run"]) == 0
    assert "not priced" in capsys.readouterr().err
    assert ran(here) == []
    assert cli.call(words) == 0
    assert ran(here) == ["called", "imported"]


def test_a_dry_run_of_a_recipe_whose_every_step_has_code_ends_well(here, tiny, capsys):
    steps = {}
    for verb in VERBS:
        step = {"verb": verb, **texts_of(verb)[0]}
        if "model" in step:
            step["model"] = str(tiny)
        if "loading" in inspect.signature(VERBS[verb]).parameters:
            step["loading"] = {"trust_remote_code": True}
        steps[verb] = step
    path = written(here, **steps)
    for form in ((), ("--json",)):
        assert cli.call(["run", path, "--dry-run", "--allow-code", "-o", "x", *form]) == 0
    assert capsys.readouterr().err.count("loading.trust_remote_code") >= 5
    assert not (here / "x").exists()


def test_code_that_the_user_names_needs_no_leave(here, tiny):
    words = [f"model={tiny}", "scorers=[outside_code:Thing]"]
    assert cli.call(["run", scoring(here), *words]) == 0
    assert ran(here) == ["called", "imported"]


def test_code_that_the_user_replaces_is_not_in_the_way(here, tiny):
    assert cli.call(["run", scoring(here), f"model={tiny}", "scorers=[loss]"]) == 0
    assert ran(here) == []


def test_a_name_inside_another_name_is_not_the_one_that_the_user_gave(here, tiny):
    words = [f"model={tiny}", "scorers=[my_outside_code:Thing, outside_code:Things, outside_code:Thing.x]"]
    path = scoring(here, vectors="none")
    second = yaml.safe_load(Path(path).read_text())
    second["steps"]["more"] = {**second["steps"]["scores"], "scorers": ["outside_code:Thing"]}
    Path(path).write_text(yaml.safe_dump(second))
    assert cli.call(["run", path, *words]) == 2
    assert ran(here) == []


def test_a_server_of_this_machine_is_no_stranger(here):
    step = {"verb": "diversify", "data": ["rows.jsonl"], "method": "paraphrase"}
    for host in ("127.0.0.1:9", "localhost:9", "[::1]:9"):
        path = written(here, words=step | {"generator": f"openai:http://{host}/v1#m"})
        assert recipe._brought(recipe.find(path), allowed=True) == {}
    for host in ("localhost@evil.example", "127.0.0.1.evil.example", "evil.example#127.0.0.1", "[::1"):
        path = written(here, words=step | {"generator": f"openai:http://{host}/v1#m"})
        assert list(recipe._brought(recipe.find(path), allowed=True)) == ["words"]


def test_a_file_cannot_say_what_the_user_has_set(here):
    path = written(here, pool={"verb": "load", "data": "rows.jsonl"})
    Path(path).write_text(Path(path).read_text() + "settings: [outside_code:Thing]\n")
    with pytest.raises(UsageError, match="is not a recipe"):
        recipe.find(path)


OUTSIDE = ("..", ".", "", "../x", "../../../x", "/tmp/x", "a/b", "a/", "./a", "x\0y")


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_recipes_and_steps_stay_in_the_output_folder(here, name):
    step = {"verb": "load", "data": "rows.jsonl"}
    for path in (written(here, name=name, pool=step), written(here, **{name: step})):
        with pytest.raises(UsageError, match="cannot be the name of"):
            recipe.find(path)
    for made in ({"name": name, "steps": {"pool": step}}, {"name": "mine", "steps": {name: step}}):
        with pytest.raises(UsageError, match="cannot be the name of"):
            recipe.run(recipe.Recipe(about="", parameters={}, **made), root=here / "in" / "runs")
    assert not (here / "in").exists()


@pytest.mark.parametrize("given", [{"output": "../x"}, {"store": "../x"}, {"store": "${place}"}])
def test_a_step_does_not_say_where_it_writes(here, given):
    step = {"verb": "score", "data": ["rows.jsonl"], **given}
    with pytest.raises(UsageError, match="says where it writes"):
        recipe.run(recipe.find(written(here, parameters={"place": "../x"}, scores=step)), root=here / "runs")


@pytest.mark.parametrize("name", ["a", "a.b", "a b", "..a", "a..b", "-", "ü", ".a"])
def test_other_names_are_taken(name):
    assert component(name, "it") == name


def test_records_that_lead_elsewhere_are_not_followed(here):
    (here / "mine").write_text("mine")
    folder = here / "pool"
    assert cli.call(["load", "rows.jsonl", "-o", str(folder)]) == 0
    record = json.loads((folder / DONE).read_text())
    record["outputs"]["../mine"] = {"size": 9, "modified": 1, "digest": ""}
    (folder / DONE).write_text(json.dumps(record))
    assert cli.call(["load", "rows.jsonl", "-o", str(folder)]) == 2
    assert (here / "mine").read_text() == "mine"


def test_a_pool_that_names_a_folder_above_is_not_written_there(here):
    pool = data.read(["rows.jsonl"])
    above = replace(pool.files[0], kind="datasets", path=str(here / "x" / ".."))
    with pytest.raises(UsageError, match="cannot be the name of"):
        data.write_rows(replace(pool, files=(above,)), [pool.examples["id"][0]], here / "out" / "selected")
