"""A run file is text: it runs no code, asks no server and writes nowhere but in its run, unless the user says so."""

import json
import sys
from dataclasses import replace

import pytest
import yaml
from cyclopts import CycloptsError

from learnable import data
from learnable.cli import app as cli
from learnable.cli import running
from learnable.commands import load
from learnable.errors import LearnableError, UsageError
from learnable.names import component
from learnable.recipes import RECIPES, Run
from learnable.recipes.run import options_of
from learnable.recipes.trust import brought
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


def written(here, recipe="lobass", **options):
    """Write a run file."""
    path = here / "theirs.yaml"
    path.write_text(yaml.safe_dump({recipe: options}))
    return str(path)


FORMS = (
    "outside_code:Thing",
    "outside_code:Thing@x=1",
    "loss/outside_code:Thing",
    "outside_code:Thing:rows.jsonl",
    ["outside_code:Thing"],
    {"outside_code:Thing": 1},
)
PLACES = [(name, option) for name in RECIPES for option in options_of(RECIPES[name])]
KINDS = list({(each.name, repr(each.default)): (name, each) for name, each in PLACES}.values())
"""Each option in one recipe; several recipes and groups of settings have the same ones."""


def given(here, name, option, form):
    """Return the name of a run file that has a form of code in this place."""
    inside = {option.name: form}
    return written(
        here, name, **{"model": "no/model", **({option.group: inside} if option.group else inside)}
    )


@pytest.mark.parametrize(("name", "option"), KINDS, ids=lambda each: getattr(each, "flag", each))
def test_no_form_of_code_in_a_run_file_is_run(here, name, option):
    for form, *words in (*((form,) for form in FORMS), (FORMS[0], "--dry-run")):
        with pytest.raises((LearnableError, CycloptsError)):
            running.launch(given(here, name, option, form), *words)
        assert ran(here) == []


@pytest.mark.parametrize("name", RECIPES)
def test_no_place_of_a_run_file_runs_code(here, name):
    for option in options_of(RECIPES[name]):
        with pytest.raises((LearnableError, CycloptsError)):
            running.launch(given(here, name, option, FORMS[0]))
        assert ran(here) == [], option.flag


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("lobass", "scorers", ["loss", "outside_code:Thing"]),
        ("lobass", "scorers", "outside_code:Thing"),
        ("lobass", "selector", "outside_code:Thing"),
        ("lobass", "on", "ray:10.0.0.1:6379"),
        ("lobass", "trust_remote_code", True),
        ("lobass", "trust_remote_code", "yes"),
        ("lobass", "--trust-remote-code", True),
        ("lobass", "trust-remote-code", "true"),
        ("lobass", "Scorers", ["outside_code:Thing"]),
        ("delia", "paraphrase", "subprocess:getoutput@cmd=touch called"),
        ("delia", "buffer", "outside_code:Thing"),
        ("delia", "generator", "openai:https://example.com/v1#m"),
        ("delia", "evaluate", ["translation:t.jsonl@to=English,metric=comet,weights=w,python=./python"]),
        ("compare", "by", ["ifd", "loss/outside_code:Thing"]),
        ("compare", "by", ["outside_code:Thing@x=1"]),
        ("compare", "evaluate", ["lm_eval:task.yaml"]),
        ("compare", "evaluate", ["outside_code:Thing:rows.jsonl"]),
        ("compare", "evaluate", ["judge:p.jsonl@server=http://10.0.0.1/v1,model=m"]),
        ("./outside_code.py:Thing", "data", ["rows.jsonl"]),
        ("outside_code:Thing", "data", ["rows.jsonl"]),
    ],
)
def test_what_is_not_ours_is_named_and_refused(here, capsys, name, option, value, words):
    assert cli.call(["run", written(here, name, **{option: value}), *words]) == 2
    said = capsys.readouterr().err
    assert "--allow-code" in said or "has no option" in said
    assert ran(here) == []
    assert not (here / "runs").exists()


@pytest.fixture
def scoring(here, tiny):
    """Return the words that run a file of somebody else, which scores by code of theirs."""
    code = {"scorers": ["outside_code:Thing"], "by": "outside_code:Thing"}
    path = written(here, data=["rows.jsonl"], model=str(tiny), dtype="float32", budget="2", **code)
    return ["run", path]


def test_allowed_code_runs(here, scoring):
    assert cli.call([*scoring, "--allow-code", "--dry-run"]) == 0
    assert not (here / "runs").exists()
    assert cli.call([*scoring, "--allow-code"]) == 0
    assert ran(here) == ["called", "imported"]


def test_code_that_the_user_names_needs_no_leave(here, scoring):
    assert cli.call([*scoring, "--scorers", "outside_code:Thing"]) == 0
    assert ran(here) == ["called", "imported"]


def test_code_that_the_user_replaces_is_not_in_the_way(here, scoring):
    assert cli.call([*scoring, "--scorers", "loss", "--by", "loss"]) == 0
    assert ran(here) == []


def test_a_name_inside_another_name_is_not_the_one_that_the_user_gave(here, scoring):
    words = ["my_outside_code:Thing", "outside_code:Things", "outside_code:Thing.x"]
    assert cli.call([*scoring, "--where", " ".join(words)]) == 2
    assert ran(here) == []


def test_a_server_of_this_machine_is_no_stranger():
    for host in ("127.0.0.1:9", "localhost:9", "[::1]:9"):
        assert brought({"generator": f"openai:http://{host}/v1#m"}, []) == []
    for host in ("localhost@evil.example", "127.0.0.1.evil.example", "evil.example#127.0.0.1", "[::1"):
        server = f"openai:http://{host}/v1#m"
        assert brought({"generator": server}, []) == [server]


@pytest.mark.parametrize("option", ["output", "dry_run", "run", "store", "name", "command", "outcomes", "-o"])
def test_a_run_file_does_not_say_where_it_writes(here, capsys, option):
    assert cli.call(["run", written(here, **{option: "../x"})]) == 2
    assert "has no option" in capsys.readouterr().err


def test_a_run_file_of_another_recipe_is_refused(here, capsys):
    assert cli.call(["run", "delia", "--config", written(here, budget="5%")]) == 2
    assert "is of a run of lobass" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "- a", "a: 1", "lobass:\n", "a: {}\nb: {}", "{", "1: {}", "lobass: {1: 2}"]
)
def test_what_is_no_run_file_is_refused(here, text):
    (here / "odd.yaml").write_text(text)
    assert cli.call(["run", "odd.yaml"]) == 2


def test_a_recipe_of_an_earlier_version_is_refused_with_what_to_do(here, capsys):
    (here / "recipe.yaml").write_text("name: lobass\nabout: x\nparameters: {}\nsteps: {}\n")
    assert cli.call(["run", "recipe.yaml"]) == 2
    assert "earlier version" in capsys.readouterr().err


OUTSIDE = ("..", ".", "", "../x", "../../../x", "/tmp/x", "a/b", "a/", "./a", "x\0y")


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_recipes_and_steps_stay_in_the_output_folder(here, name):
    for run, step in ((Run(output="in", name=name), "pool"), (Run(output="in", name="mine"), name)):
        with pytest.raises(UsageError, match="cannot be the name of"):
            run.step(step, load, ["rows.jsonl"])
    assert not (here / "in").exists()


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
