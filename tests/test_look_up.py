"""A wrong name of a model is noticed before any row is read, in every command and recipe that takes both."""

import pytest

from learnable import commands
from learnable.commands.inputs import look_up
from learnable.errors import ModelError, StoreError
from learnable.models import source
from learnable.recipes import RECIPES, Run
from learnable.recipes.delia import Rewording
from learnable.settings import Loading, Reference
from learnable.types import ModelRef

NONE, ROWS = "./no-model", "./no-rows.jsonl"
GIVEN = Reference(model=NONE)

COMMANDS = {
    "train": lambda _: commands.train([ROWS], model=NONE),
    "train, reference": lambda tiny: commands.train([ROWS], model=tiny, reference=GIVEN),
    "score": lambda _: commands.score([ROWS], model=NONE),
    "score, reference": lambda tiny: commands.score([ROWS], model=tiny, reference=NONE),
    "show": lambda _: commands.show([ROWS], model=NONE),
    "show, reference": lambda tiny: commands.show([ROWS], model=tiny, reference=NONE),
    "doctor": lambda _: commands.doctor([ROWS], model=NONE),
    "doctor, reference": lambda tiny: commands.doctor([ROWS], model=tiny, reference=NONE),
    "evaluate": lambda _: commands.evaluate([f"heldout:{ROWS}"], model=NONE),
    "evaluate, adapter": lambda tiny: commands.evaluate([f"heldout:{ROWS}"], model=tiny, adapter=NONE),
    "compare": lambda _: commands.compare([ROWS], model=NONE),
    "compare, reference": lambda tiny: commands.compare([ROWS], model=tiny, reference=GIVEN),
    "teach": lambda _: commands.teach([ROWS], model=NONE),
    "diversify": lambda _: commands.diversify([ROWS], model=NONE, method="paraphrase"),
    "diversify, generator": lambda tiny: commands.diversify(
        [ROWS], model=tiny, generator=f"vllm:{NONE}", method="paraphrase"
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_looks_models_up_first(command, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"there is no model '{NONE}'"):
        COMMANDS[command](str(tiny))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lobass", {"model": NONE}),
        ("lobass", {"model": "TINY", "reference": GIVEN}),
        ("compare", {"model": NONE}),
        ("compare", {"model": "TINY", "reference": GIVEN}),
        ("delia", {"model": NONE}),
        ("delia", {"model": "TINY", "rewording": Rewording(generator=f"vllm:{NONE}")}),
    ],
)
def test_a_recipe_looks_the_models_of_all_its_steps_up_first(name, settings, dry_run, tiny, tmp_path):
    given = {key: str(tiny) if value == "TINY" else value for key, value in settings.items()}
    with pytest.raises(ModelError, match=f"there is no model '{NONE}'"):
        RECIPES[name]([ROWS], **given, run=Run(output=str(tmp_path / "runs"), dry_run=dry_run))
    assert not (tmp_path / "runs").exists()


def test_a_gguf_file_is_not_converted_to_look_it_up(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "converted", lambda _: pytest.fail("converted"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    look_up(str(tmp_path / "m.gguf"), Loading())
    source.look_up(ModelRef(name=str(tmp_path / "m.gguf")))


def test_a_reference_may_be_a_step_an_adapter_or_a_model(tiny, tmp_path):
    look_up(str(tiny), Loading(), reference=True)
    (tmp_path / "adapter_config.json").write_text("{}")
    look_up(str(tmp_path), Loading(), reference=True)
    with pytest.raises(ModelError, match="LoRA adapter"):
        look_up(str(tmp_path), Loading())


def test_the_folder_of_another_command_is_no_reference(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    pool = commands.load([str(rows)], output=str(tmp_path / "pool"))
    with pytest.raises(StoreError, match="output of `learnable load`"):
        look_up(str(pool.folder), Loading(), reference=True)
