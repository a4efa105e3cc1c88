"""What the shell offers on TAB: names of recipes, methods and settings, and files; and the script that asks for it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from cyclopts import App, Parameter, completion

from learnable.cli import listing
from learnable.data import FORMATS
from learnable.errors import UsageError
from learnable.experiments import UNTUNED

Shell = Literal["bash", "zsh", "fish"]
STARTERS = {"model": ("starter",), "data": ("starter", "starter-task"), "task": ("starter-task",)}
EVALUATED = ("evaluate", "evaluations")
NAMED: Mapping[str, Collection[str]] = {
    "what": listing.KINDS,
    "scorers": ("scorers",),
    "by": ("scorers", "selectors", "methods", "mergers"),
    "mergers": ("mergers",),
    "selector": ("selectors",),
    "method": ("diversifiers",),
    "paraphrase": ("diversifiers",),
    "arms": ("mixtures",),
    **dict.fromkeys(EVALUATED, ("evaluators",)),
}
"""The kinds of things that an option takes, as ``learnable list`` calls them."""
_BREAK = ":"
"""Where bash cuts a word: what stands before such a sign arrives as a word of its own."""
_SPACING = """
# No space after what goes on: heldout: or a folder.
_learnable_open() {
  _learnable
  [[ "${COMPREPLY[0]}" == *[:/] ]] && compopt -o nospace
}
complete -F _learnable_open learnable
"""


def complete(context: completion.CompletionContext) -> Mapping[str, str]:
    """Return what may stand where the cursor is, with a description of each."""
    argument, typed = context.argument, context.incomplete
    if choices := argument.get_choices(force=True):
        return dict.fromkeys(choices, "")
    name = argument.field_info.name
    before = [token.value for token in argument.tokens]
    if typed == _BREAK:
        before, typed = [*before, typed], ""
    if name in EVALUATED and (before[-1:] == [_BREAK] or _BREAK in typed):
        head, colon, path = typed.rpartition(_BREAK)
        return {f"{head}{colon}{found}": "" for found in _files(path)}
    return _values(name, typed) if "str" in str(argument.hint) else {}  # nothing stands for a number


OFFERED = Parameter(negative_iterable=(), completer=complete)
"""What all options have in common."""


def install(app: App, shell: Shell | None, output: Path | None) -> dict[str, str]:
    """Write the script by which a shell completes our command, and have the shell read it when it starts.

    Without a shell it is the one that this process runs in; without an output, it goes where the shell looks.
    """
    hint = "learnable --install-completion bash, zsh or fish"
    if shell is None:
        try:
            found = completion.detect_shell()
        except completion.ShellDetectionError as error:
            raise UsageError("cannot tell which shell this is", hint=hint) from error
        if found == "powershell":
            raise UsageError("completion is for bash, zsh and fish, and this is PowerShell", hint=hint)
        shell = found
    path = (output or completion.get_default_completion_path(shell, "learnable")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    script = app.generate_completion(prog_name="learnable", shell=shell)
    path.write_text(script + (_SPACING if shell == "bash" else ""), encoding="utf-8")
    facts = {"shell": shell, "script": str(path)}
    if shell != "fish" and completion.add_to_rc_file(path, "learnable", shell):
        facts["added to"] = {"bash": "~/.bashrc", "zsh": "~/.zshrc"}[shell]
    return facts | {"next": f"start a new shell, or say: exec {shell}"}


def _values(name: str, typed: str) -> dict[str, str]:
    """Return the names that an option or a parameter takes; where it takes none of ours, files."""
    if name == "format":
        return dict.fromkeys(FORMATS, "")
    if name not in NAMED:
        return dict.fromkeys(STARTERS.get(name, ()), "comes with learnable") | dict.fromkeys(
            _files(typed), ""
        )
    kinds, behind = NAMED[name], _BREAK if name in EVALUATED else ""
    found = {entry.name + behind: entry.about for kind in kinds for entry in listing.entries(kind)}
    beside = {"what": dict.fromkeys(listing.KINDS, "all of them"), "arms": {UNTUNED: "The model as it is."}}
    return beside.get(name, {}) | found


def _files(typed: str) -> list[str]:
    """Return the files and folders that a path may go on to; a folder ends with a slash."""
    folder, slash, start = typed.rpartition("/")
    base = Path(folder + slash).expanduser()
    if not base.is_dir():
        return []
    shown = (entry for entry in base.iterdir() if start.startswith(".") or not entry.name.startswith("."))
    return sorted(f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in shown)
