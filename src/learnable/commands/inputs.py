"""What a command is given, found: a pool, a reference, an earlier step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from learnable import data as rows
from learnable.commands.load import HELDOUT, load
from learnable.deferred import models
from learnable.errors import UsageError
from learnable.evaluators import Evaluation, evaluations_of, wants_heldout
from learnable.objects.given import finished, is_step
from learnable.objects.rows import Rows, read
from learnable.pools import Pool
from learnable.runs.records import BEGUN, DONE, Outcome
from learnable.settings import Loading, Reading, Reference
from learnable.types import ModelRef


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Rows that were loaded: what became of each, and the ``step`` that read them."""

    pool: Pool
    step: Outcome

    @property
    def rows(self) -> Rows:
        """The pool as the Python objects take it."""
        return Rows(pool=self.pool, given={}, reading=Reading(on_error=self.step.facts["on_error"]))

    @property
    def target_rows(self) -> Rows:
        """A target as it was loaded: what was held back of it is no row to choose either."""
        aside = self.step.folder / HELDOUT
        held_back = read(str(aside)).examples if aside.is_file() and aside.stat().st_size else []
        return replace(self.rows, set_aside=held_back)

    def evaluations(self, asked: Sequence[str]) -> list[Evaluation]:
        """Return the evaluations that are asked, `heldout` alone on the rows that were set aside."""
        return evaluations_of(asked, heldout=heldout_of(self.step) if wants_heldout(asked) else None)


def loaded_in(step: Outcome) -> Loaded:
    """Return what `learnable load` left."""
    return Loaded(pool=rows.load_pool(step.folder), step=step)


def pool_of(
    data: list[str],
    reading: Reading,
    output: str,
    *,
    holdout: float = 0.0,
    dry_run: bool = False,
    pairs: bool = False,
) -> Loaded:
    """Return the pool that a command works on: loaded before, or loaded now into ``<output>-pool``, see ``load``.

    Where ``{fingerprint}`` stands in the output, the pool's folder ends with the pool's own fingerprint.
    ``pairs`` says that the command works on preference pairs; a ``DataError`` where they are the other kind.
    """
    if len(data) == 1 and (rows.is_pool(Path(data[0])) or (Path(data[0]) / DONE).is_file()):
        step = finished(data[0], "load")
        if reading != Reading():
            raise UsageError(
                f"{data[0]} was loaded before: settings of reading have no effect on it",
                hint="give them to `learnable load`",
            )
    else:
        base = output.replace("{fingerprint}", "").rstrip("/-")
        # Two names, so that asking for held-out rows later does not run into the pool without them.
        suffix = "-pool-heldout" if holdout else "-pool"
        own = "-{fingerprint}" if "{fingerprint}" in output else ""
        step = load(data, reading=reading, holdout=holdout, output=base + suffix + own, dry_run=dry_run)
    loaded = loaded_in(step)
    loaded.pool.check_kind(pairs=pairs)
    return loaded


def heldout_of(loaded: Outcome) -> Path:
    """Return the rows that a load set aside."""
    path = loaded.folder / HELDOUT
    if not path.is_file():
        raise UsageError(
            f"{loaded.folder} was loaded without rows to evaluate on",
            hint="load it with --holdout 0.1, or name a file: heldout:FILE",
        )
    return path


def look_up(name: str | None, loading: Loading, *, reference: bool = False) -> None:
    """Notice a wrong name of a model before rows are read, which can take long; None is no model.

    A ``reference`` may be an adapter too, or what `learnable train` wrote.
    """
    if name is None:
        return
    if reference and is_step(name):
        finished(name, "train")
        return
    loading = replace(loading, revision=None) if reference else loading
    models.source.look_up(ModelRef(name=name, **asdict(loading)), adapter=reference)


def trusted_of(reference: Reference, output: str, *, dry_run: bool) -> Loaded | None:
    """Return the trusted rows that a reference names, loaded beside the output of a command; None where it names none."""
    if reference.trusted is None:
        return None
    own = "-{fingerprint}" if "{fingerprint}" in output else ""
    beside = output.replace("{fingerprint}", "").rstrip("/-") + "-trusted" + own
    return pool_of([reference.trusted], Reading(), beside, dry_run=dry_run)


def is_made(path: str | Path) -> bool:
    """Tell whether what a step reads is there: in a dry run of a recipe, what earlier steps make is not."""
    return Path(path).exists() and not ((Path(path) / BEGUN).is_file() and not (Path(path) / DONE).is_file())
