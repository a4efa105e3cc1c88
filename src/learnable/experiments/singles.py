"""What one of several equal trainings is worth: their mean, and the best of them, chosen on other items than it is judged on."""

import polars as pl

SINGLE, BEST = "single", "best single"
_KEYS = ("seed", "evaluation", "id")


def single_of(copies: pl.DataFrame) -> pl.DataFrame:
    """Return the mean over the trainings of each item, as the arm ``single``: one training, whichever it is.

    Args:
        copies: Results of trainings that differ in chance alone: ``arm``, ``budget_tokens``, ``seed``, ``evaluation``,
            ``id``, ``source``, ``value``, ``answer``, ``why``. The mean is NaN where one is.
    """
    found = copies.group_by(_KEYS, maintain_order=True).agg(
        pl.col("budget_tokens").first(),
        pl.col("source").first(),
        pl.col("value").mean(),
        pl.lit("").alias("answer"),
        pl.col("why").max(),
    )
    return found.with_columns(pl.lit(SINGLE).alias("arm")).select(copies.columns)


def best_of(copies: pl.DataFrame, *, higher_is_better: dict[str, bool]) -> pl.DataFrame:
    """Return the grades of the best training, as the arm ``best single``.

    It is chosen by one half of the items and judged on the other, and the other way around: what is best on the items
    that it is chosen by is so by luck too. The two halves may have different trainings. ``copies`` are those of
    ``single_of``, and ``higher_is_better`` is by evaluation.
    """
    order = pl.struct("id").rank("dense").over("seed", "evaluation")
    halves = copies.with_columns(half=order % 2)
    chosen = []
    for (seed, evaluation, half), _ in halves.group_by("seed", "evaluation", "half", maintain_order=True):
        here = (pl.col("seed") == seed) & (pl.col("evaluation") == evaluation)
        graded = halves.filter(here & (pl.col("half") != half) & pl.col("value").is_finite())
        means = graded.group_by("arm", maintain_order=True).agg(pl.col("value").mean())
        ranked = means.sort("value", descending=higher_is_better[str(evaluation)], maintain_order=True)
        best = ranked["arm"][0] if ranked.height else copies["arm"][0]
        chosen.append(halves.filter(here & (pl.col("half") == half) & (pl.col("arm") == best)))
    return pl.concat(chosen).with_columns(pl.lit(BEST).alias("arm")).select(copies.columns)


def arms_of_singles(copies: pl.DataFrame) -> pl.DataFrame:
    """Return the lines of both arms in a table of arms: one training's figures, and those of all that had to be made."""
    each = [name for name in copies.columns if name not in ("arm", "seed", "steps", "seconds", "model")]
    found = []
    for name, taken in ((SINGLE, pl.Expr.mean), (BEST, pl.Expr.sum)):
        both = copies.group_by("seed", maintain_order=True).agg(
            *(pl.col(column).first() for column in each),
            taken(pl.col("steps")).round().cast(pl.Int64),
            taken(pl.col("seconds").cast(pl.Float64)),
            pl.lit(None, pl.String).alias("model"),
        )
        found.append(both.with_columns(pl.lit(name).alias("arm")).select(copies.columns))
    return pl.concat(found)
