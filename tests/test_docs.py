"""The pages agree with the program: the generated reference, every command line shown, every link, the site's table of pages."""

import re
import runpy
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from learnable.cli import app as cli
from learnable.cli import running
from learnable.diversifiers.table import DIVERSIFIERS
from learnable.mixing import MIXTURES
from learnable.recipes import RECIPES
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.testing import toy_examples, write_messages
from learnable.types import Budget

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METHODS = sorted((DOCS / "methods").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "METHODS.md",
    *sorted(DOCS.glob("*.md")),
    *METHODS,
]
COMMANDS = [name for name in cli.app if not name.startswith("-")]

FENCE = re.compile(r"^( *)(```+|~~~+) *(\w*)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
SHELL = ("sh", "bash", "console", "shell")
BETWEEN_COMMANDS = {"&&", "||", "|", ";", "&"}
REDIRECTIONS = {">", ">>", "<", "2>"}


def blocks(text, languages):
    for match in FENCE.finditer(text):
        if match.group(3) in languages:
            yield match.group(3), match.group(4)


def shell_lines(language, block):
    """Yield the command lines of a block; in a ``console`` block only what follows a prompt, if it has prompts."""
    joined = re.sub(r"\\\n\s*(?:> )?", " ", block)
    lines = [line.strip() for line in joined.splitlines()]
    if language == "console" and any(line.startswith("$ ") for line in lines):
        lines = [line for line in lines if line.startswith("$ ")]
    yield from (line.removeprefix("$ ") for line in lines)


def commands_in(line):
    """Yield the words after ``learnable`` of each such command in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command = []
    for word in [*lexer, ";"]:
        if word not in BETWEEN_COMMANDS:
            command.append(word)
            continue
        while command and re.fullmatch(r"\w+=.*", command[0]):
            command = command[1:]
        if command and Path(command[0]).name == "learnable":
            end = next((i for i, known in enumerate(command) if known in REDIRECTIONS), len(command))
            yield command[1:end]
        command = []


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def questions():
    """Return each question of the README with the command line beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]+\?|I have losses already) \| `(learnable [^`]+)` \|", text, re.MULTILINE)


def shown_commands():
    found = [
        pytest.param(words, id=f"README.md: {question} {words[0]}")
        for question, line in questions()
        for words in commands_in(line)
    ]
    for page in PAGES:
        for language, block in blocks(page.read_text(encoding="utf-8"), SHELL):
            for line in shell_lines(language, block):
                found += [pytest.param(words, id=f"{name_of(page)}: {line}") for words in commands_in(line)]
    return found


def slug(heading):
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found, times = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)), {}
    for heading in HEADING.findall(text):
        name = slug(heading)
        times[name] = times.get(name, -1) + 1
        found.add(f"{name}-{times[name]}" if times[name] else name)
    return found


def links(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def test_the_command_reference_is_what_the_commands_say():
    generated = runpy.run_path(str(DOCS / "generate_cli.py"))["reference"]()
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == generated, "run: make docs"


@pytest.fixture
def example_scorer(tmp_path, monkeypatch):
    """Put the scorer that add-a-scorer.md writes where its commands find it."""
    page = (ROOT / "docs" / "add-a-scorer.md").read_text(encoding="utf-8")
    (tmp_path / "total_difference.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("words", shown_commands())
@pytest.mark.usefixtures("example_scorer")
def test_every_command_shown_is_understood(words):
    words = [word for word in cli._as_flags(words) if word not in ("--debug", "--json", "--quiet")]
    if "--help" in words or "--version" in words:  # shown by the library, whatever else is there
        return
    run = words[:1] == [running.NAME] and len(words) > 1 and not words[1].startswith("-")
    if run and (words[1] not in RECIPES or "--config" in words):  # a file, which is not there
        return
    if run:
        _, bound = running.understood(cli._joined(words)[1:])
        if "choosing" in bound.arguments:
            bound.apply_defaults()
            bound.arguments["choosing"].check(bound.arguments["scorers"])
    else:
        _, bound, _ = cli.app.parse_args(cli._joined(words), exit_on_error=False, print_error=False)
    budgets = bound.arguments.get("budget", [])
    for budget in [budgets] if isinstance(budgets, str) else budgets:
        Budget.parse(budget)


def test_every_question_of_the_readme_has_a_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| question | type |")[2].partition("\n\n")[0]
    assert len(questions()) == len(table.strip().splitlines()) - 2 > 9


def test_the_readme_begins_with_the_two_commands_of_make():
    language, block = next(blocks((ROOT / "README.md").read_text(encoding="utf-8"), SHELL))
    assert [line.split()[:2] for line in shell_lines(language, block)] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_make_and_python_are_told_is_there(page):
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for language, block in blocks(text, SHELL) for line in shell_lines(language, block)]
    for target in re.findall(r"^make (?:[A-Z]\S+ )*([a-z-]+)", "\n".join(lines), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for script in re.findall(r"\b(?:benchmarks|scripts)/\w+\.py", text):
        assert (ROOT / script).is_file(), script


@cache
def names_of(command, recipe):
    """Return what may follow a command, or a recipe behind it."""
    described = running.run[recipe] if command == running.NAME and recipe else cli.app[command]
    names = {name for each in described.assemble_argument_collection() for name in each.names}
    return names | {"--json", "--quiet", "--debug", "--help", "--config", "--allow-code", "--budget.tokens"}


@pytest.mark.parametrize(
    "place", [*PAGES, *sorted((ROOT / "src" / "learnable").rglob("*.py"))], ids=lambda place: name_of(place)
)
def test_commands_within_a_sentence_have_names_and_options_that_exist(place):
    """Pages and hints leave out what is clear from the context, such as a required file: names alone are checked."""
    for line in re.findall(r"`(learnable [^`\n{]*)`", FENCE.sub("", place.read_text(encoding="utf-8"))):
        for command, *rest in filter(None, commands_in(line.replace("...", ""))):
            if command in ("help", "version") or command.startswith("-"):
                continue
            assert command in COMMANDS, line
            names = names_of(command, rest[0] if rest and rest[0] in RECIPES else None)
            for flag in (word for word in rest if re.match(r"--?[a-z]", word)):
                assert any(name.startswith(flag) for name in names), f"{line}: {flag}"


def test_extras_are_named_as_they_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    for page in PAGES:
        for named in re.findall(r"(?:learnable|\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= extras, f"{name_of(page)}: {named}"
    table = (DOCS / "install.md").read_text(encoding="utf-8").partition("| extra |")[2]
    assert set(re.findall(r"\| `([a-z]+)` \|$", table, re.MULTILINE)) == extras


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learnable load a.jsonl  # a comment", [["load", "a.jsonl"]]),
        ("PYTHONPATH=. learnable list > all.txt", [["list"]]),
        ("cd x && .venv/bin/learnable list", [["list"]]),
        (
            "learnable run lobass --where 'tokens < 800'",
            [["run", "lobass", "--where", "tokens < 800"]],
        ),
        ("make demo", []),
    ],
)
def test_commands_are_found_in_shell(line, expected):
    assert list(commands_in(line)) == expected


def test_outputs_and_continued_lines_are_told_apart():
    block = "$ learnable load \\\n    a.jsonl\nlearnable: 3\n"
    assert list(shell_lines("console", block)) == ["learnable load  a.jsonl"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has {sorted(anchors(target))}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page(command):
    assert (DOCS / f"{command}.md").is_file()


def test_every_page_is_linked_from_the_index():
    linked = {link.partition("#")[0] for link in links(DOCS / "index.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= linked


def test_python_shown_compiles():
    for page in PAGES:
        for _, block in blocks(page.read_text(encoding="utf-8"), ("python", "py")):
            compile(block, page.name, "exec")


@pytest.mark.parametrize("name", [*SCORERS, *SELECTORS, *DIVERSIFIERS])
def test_every_method_has_a_page(name):
    assert DOCS / "methods" / f"{name}.md" in METHODS


@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_train_leads_to_a_page(name):
    assert re.search(
        rf"^\| \[`{name}`\]\(methods/\w+\.md\)", (DOCS / "teach.md").read_text(encoding="utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize("page", METHODS, ids=name_of)
def test_a_method_page_says_what_it_is_when_it_fails_and_what_it_costs(page):
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    assert headings[1] in ("What it measures", "What it does")
    assert headings[2:] == ["When it fails", "Cost", "Source"]


def test_every_method_page_is_listed():
    linked = {link.partition("#")[0] for link in links(ROOT / "METHODS.md")}
    assert {name_of(page) for page in METHODS} <= linked


def site_pages(nav):
    """Yield the pages of a table of pages, and of those in it."""
    for entry in nav:
        for value in entry.values():
            yield from site_pages(value) if isinstance(value, list) else [value]


def test_the_site_lists_every_page_once():
    listed = list(site_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    mounted = runpy.run_path(str(DOCS / "hooks.py"))["ROOT_PAGES"]
    here = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(here | set(mounted.values()))
    assert all((ROOT / path).is_file() for path in mounted)


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    loaded = re.compile(r"""<(?:link|script|img|iframe)[^>]*\s(?:href|src)=["']?(?:https?:)?//""")
    assert not [
        page.name for page in tmp_path.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))
    ]


def tutorial_commands():
    """Return the commands of the tutorial from rows to an evaluated model, on the starter set."""
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    part = page[page.index("## 2.") : page.index("## 10.")]
    lines = [line for language, block in blocks(part, ("sh",)) for line in shell_lines(language, block)]
    return [words for line in lines for words in commands_in(line)]


def test_the_tutorial_runs(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(40), tmp_path / "starter.jsonl")
    for words in tutorial_commands():
        before = ["", *words]
        ours = {"--model": str(tiny), "load": "starter.jsonl"}
        replaced = [
            ours[last] if word == "starter" else word for last, word in zip(before, words, strict=False)
        ]
        assert cli.call(replaced) == 0, f"{replaced}: {capsys.readouterr().err}"
    assert (tmp_path / "selection" / "selected" / "starter.jsonl").read_text()
    assert capsys.readouterr().out.count("nats per token") == 3


def test_the_python_of_the_readme_runs(tiny, tmp_path, monkeypatch, capsys):
    (code,) = [block for _, block in blocks((ROOT / "README.md").read_text(encoding="utf-8"), ("python",))]
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(40), tmp_path / "my.jsonl")
    exec(compile(code.replace('"starter"', repr(str(tiny))), "README.md", "exec"), {})
    assert "2 of 40 examples" in capsys.readouterr().out
