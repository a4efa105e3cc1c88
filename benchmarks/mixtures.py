"""In what proportions should several sources be mixed? ADO beside the natural and the uniform mixture, at equal tokens.

Three parts. *Planted*: two sources, real rows and rows whose answers are words drawn at random out of 50, half and half; a
small Llama from scratch with ADO, where the share of the noise should fall, as it is soon learned as far as it can be.
Two shorter designs came before: noise of many words, and 160 steps. In both the loss of the noise still fell, and it gained share.
*From scratch*: six sources (dolly, gpteacher, t0, tldr, gsm8k, code), sizes 50:20:15:8:5:2 of 3,000 rows; the small Llama
with a tokenizer of the pool's words, 220 steps of about 12 rows. *LoRA*: the same sources, a third as many rows, which are
short, on the starter, 120 steps of about 4 rows. The last two with the mixtures ado, natural and uniform, three seeds, and
the loss of held-out rows of each source and of equally many of all. Prints the shares, and the losses with intervals. A run
that is stopped goes on where it was.

    python benchmarks/mixtures.py --data DIRECTORY

DIRECTORY holds ``train/`` with dolly_15k, gpteacher_10k, t0_p3_sample, tldr_nl2cmd, gsm8k_train and code_alpaca_2k as
parquet tables.
"""

import argparse
import json
import platform
import time
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from pds import build
from targeted import MOST_CHARACTERS, Row, rows_of

from learnable.commands import load
from learnable.commands.experiment import tried
from learnable.commands.mixtures import SourceArms, mix
from learnable.settings import Loading, Reading, Tuning
from learnable.training.power_law import fit, smoothed

SOURCES = {
    "dolly": ("dolly_15k", 0.50),
    "gpteacher": ("gpteacher_10k", 0.20),
    "t0": ("t0_p3_sample", 0.15),
    "tldr": ("tldr_nl2cmd", 0.08),
    "gsm8k": ("gsm8k_train", 0.05),
    "code": ("code_alpaca_2k", 0.02),
}
ROWS, PLANTED_ROWS, LORA_PART, HELDOUT_ROWS = 3_000, 6_400, 3, 40
NOISE_WORDS, SHORT = 50, 300
PIECES, LAYERS, WIDTH, RATE = 4_000, 4, 192, 1e-3
SCRATCH = Tuning(method="full", learning_rate=RATE, batch_size=12, schedule="constant")
LORA = Tuning(batch_size=4)
STEPS = {"planted": 800, "from scratch": 220, "LoRA": 120}
QUICK_STEPS, QUICK = 66, 10


def six(data: Path, rows: int, *, characters: int) -> list[Row]:
    """Return rows of six sources, of so many characters at most, and of each a few more, which will be held out."""
    found: list[Row] = []
    for source, (table, share) in SOURCES.items():
        own = [
            row
            for row in rows_of(data / "train" / f"{table}.parquet", seed=0)
            if len(row["instruction"]) + len(row["output"]) <= characters
        ]
        found += [row | {"source": source} for row in own[: round(share * rows) + HELDOUT_ROWS]]
    return found


def planted(data: Path, rows: int) -> list[Row]:
    """Return rows of dolly, and as many whose answers are words drawn at random from its most common ones."""
    own = rows_of(data / "train" / "dolly_15k.parquet", seed=0)[:rows]
    rng, counts = np.random.default_rng(0), Counter(word for row in own for word in row["output"].split())
    words = [word for word, _ in counts.most_common(NOISE_WORDS)]
    real = [row | {"source": "real"} for row in own[: rows // 2]]
    noise = [
        row | {"output": " ".join(rng.choice(words, len(row["output"].split()))), "source": "noise"}
        for row in own[rows // 2 :]
    ]
    return real + noise


def done(
    part: str, rows: list[Row], model: str, arms: SourceArms, tuning: Tuning, dtype: Loading, folder: Path
) -> Path:
    """Train and evaluate the mixtures of one part; return the folder of its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [{name: row[name] for name in ("instruction", "output", "source")} for row in rows]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    pool = load(
        [str(folder / "pool.jsonl")], reading=Reading(source_column="source"), output=str(folder / "pool")
    )
    print(f"{part}: {pool.facts['examples']} rows", flush=True)
    return tried(
        mix,
        [pool.path],
        model=model,
        mixing=arms,
        tuning=tuning,
        loading=dtype,
        max_length=256,
        store=str(folder / "store"),
        output=str(folder / "mixtures"),
    ).folder


def fit_milliseconds(points: int) -> list[float]:
    """Return the processor time of fits to curves of so many points with 2 % of noise, of 1, 2 and 3 nats above the floor."""
    tokens, rng, found = np.linspace(1_000, 1_000 * points, points), np.random.default_rng(0), list[float]()
    for height in (1, 2, 3):
        losses = (1 + height * (tokens / 1_000) ** -0.2) * np.exp(0.02 * rng.normal(size=points))
        began = time.process_time()
        fit(tokens, smoothed(losses))
        found.append(1_000 * (time.process_time() - began))
    return found


def shares(folder: Path) -> list[str]:
    """Return what was drawn, as Markdown: the proportions of the first and the last step, and how often rows were seen."""
    lines = [
        "| mixture | source | first share, % | last share, % | of all tokens, % | times seen |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in pl.read_parquet(folder / "shares.parquet").iter_rows(named=True):
        figures = [f"{100 * row[name]:.1f}" for name in ("first", "last", "share")]
        lines.append(f"| {row['arm']} | {row['source']} | {' | '.join(figures)} | {row['times']:.1f} |")
    return lines


def course(folder: Path) -> list[str]:
    """Return how ADO's share of the noise went, and the noise's loss, by seed, as Markdown."""
    noise = pl.read_parquet(folder / "proportions.parquet").filter(arm="ado", source="noise")
    last = int(noise["step"].max())  # type: ignore[arg-type]
    steps = [*range(0, last, max(1, last // 8)), last]
    lines = [
        f"| share of the noise, % (its loss) at step | {' | '.join(map(str, steps))} |",
        f"| --- |{' ---: |' * len(steps)}",
    ]
    for (seed,), part in noise.sort("seed", "step").group_by("seed", maintain_order=True):
        at = {row["step"]: row for row in part.iter_rows(named=True)}
        figures = [f"{100 * at[step]['pi']:.1f} ({at[step]['L']:.2f})" for step in steps]
        lines.append(f"| seed {seed} | {' | '.join(figures)} |")
    return lines


def losses(folder: Path) -> list[str]:
    """Return the losses on held-out rows beside the natural mixture, as Markdown."""
    lines = [
        "| held-out rows of | items | mixture | loss | against natural | verdict |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for row in pl.read_parquet(folder / "table.parquet").iter_rows(named=True):
        known = row["difference"] is not None and row["low"] is not None
        between = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" if known else ""
        lines.append(
            f"| {row['evaluation'].removeprefix('loss on ')} | {row['items']} | {row['arm']} | {row['value']:.3f} "
            f"| {between} | {row['verdict'] or ''} |"
        )
    costs = pl.read_parquet(folder / "cost.parquet").iter_rows(named=True)
    trained = [
        f"{row['arm']} {row['trained']:,.0f} tokens, {row['seconds']:.0f} s"
        for row in costs
        if row["trained"]
    ]
    return [*lines, "", f"A training, on average: {'; '.join(trained)}."]


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rows, few steps, to try the script"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/mixtures"))
    options = parser.parse_args()
    started, part = time.monotonic(), QUICK if options.quick else 1
    float32 = Loading(dtype="float32")
    for name in options.parts:
        began, folder = time.monotonic(), options.output / name.replace(" ", "-")
        steps = QUICK_STEPS if options.quick else STEPS[name]
        mixtures = SourceArms(steps=steps, rows=HELDOUT_ROWS, seeds=options.seeds)
        if name == "LoRA":
            rows = six(options.data, ROWS // LORA_PART // part, characters=SHORT)
            found = done(name, rows, "starter", mixtures, LORA, Loading(), folder)
        else:
            mixed = name != "planted"
            rows = (
                six(options.data, ROWS // part, characters=MOST_CHARACTERS)
                if mixed
                else planted(options.data, PLANTED_ROWS // min(part, 2))
            )
            sizes = {"pieces": 400, "layers": 1, "width": 48} if options.quick else {}
            small = build(
                rows, folder / "model", **{"pieces": PIECES, "layers": LAYERS, "width": WIDTH} | sizes
            )
            arms = mixtures if mixed else SourceArms(steps=steps, arms=("ado",), seeds=options.seeds)
            found = done(name, rows, str(small), arms, SCRATCH, float32, folder)
        table = ["", *(course(found) if name == "planted" else losses(found))]
        print(f"\n{date.today()}, {platform.processor() or platform.machine()}, {name}, {steps} steps\n")
        print("\n".join([*shares(found), *table]))
        print(f"\n{time.monotonic() - began:,.0f} s in this run\n", flush=True)
    took = fit_milliseconds(500)
    print(f"A fit of 500 points: {min(took):.0f} to {max(took):.0f} ms of a processor.")
    print(f"{time.monotonic() - started:,.0f} s in all")


if __name__ == "__main__":
    main()
