"""Does PDS find the rows that a training from scratch learns most from? A small model, and a pool of which 40 % is corrupted.

Builds a tokenizer (BPE, 4,000 pieces) and a Llama of 2.6 million parameters from the pool itself: 3,000 rows of dolly, gpteacher, t0
and tldr, of which 40 % have the words of the answer shuffled, or the answer of another row. The target is 200 clean dolly rows,
the test 400 others. After a warm start of 100 steps, ``pds`` scores all rows (25 steps, valued at every fifth), and 40 %
are drawn by it. Then models are trained from the start on that choice, on a choice without curvature, on the lowest losses,
on a random 40 %, and on all rows: 400 steps of 1,024 tokens, three seeds. Prints the corrupted share of each choice, the
test loss at the end, and how many steps each takes to the final loss of all rows. A run that is stopped goes on with the next model.

    python benchmarks/pds.py --data DIRECTORY

DIRECTORY holds ``train/`` with dolly_15k, gpteacher_10k, t0_p3_sample and tldr_nl2cmd as parquet tables.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from targeted import Row, rows_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import learnable as ln
from learnable.experiments import difference
from learnable.models.loading import load_network
from learnable.testing import CHATML
from learnable.training.batches import batch_of
from learnable.training.passes import TrainingPasses
from learnable.types import ModelRef, Rendered

POOL = {"dolly": 1_200, "gpteacher": 800, "t0": 600, "tldr": 400}
TABLES = {"dolly": "dolly_15k", "gpteacher": "gpteacher_10k", "t0": "t0_p3_sample", "tldr": "tldr_nl2cmd"}
CORRUPTED, KEPT, TARGET_ROWS, TEST_ROWS = 0.4, 0.4, 200, 400
WARM_STEPS, STEPS, BATCH_TOKENS, EVERY, RATE = 100, 400, 1_024, 25, 1e-3
ARMS = ("pds", "pds without curvature", "lowest loss", "random", "all")


def corrupted(rows: list[Row], *, seed: int) -> list[Row]:
    """Return rows with the column ``kind``: 40 % have the words of their answer shuffled, or the answer of another."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(rows))[: round(CORRUPTED * len(rows))]
    found = [row | {"kind": "clean"} for row in rows]
    for place in chosen[::2]:
        words = found[place]["output"].split()
        found[place] |= {"output": " ".join(rng.permutation(words)), "kind": "shuffled words"}
    swapped = chosen[1::2]
    answers = [found[place]["output"] for place in swapped]
    for place, answer in zip(swapped, np.roll(answers, 1), strict=True):
        found[place] |= {"output": str(answer), "kind": "swapped answers"}
    return found


def build(rows: list[Row], folder: Path, *, pieces: int, layers: int, width: int) -> Path:
    """Write an untrained model with a tokenizer of the pool's own words; a folder that is there is kept."""
    if (folder / "config.json").is_file():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{row['instruction']} {row['output']}" for row in rows], trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def batches(rows: Sequence[Rendered], *, steps: int, seed: int) -> Iterator[list[Rendered]]:
    """Yield batches of about 1,024 tokens, the rows in another random order each time round."""
    rng, order = np.random.default_rng(seed), list[int]()
    for _ in range(steps):
        batch: list[Rendered] = []
        while sum(len(row.ids) for row in batch) < BATCH_TOKENS:
            order = order or rng.permutation(len(rows)).tolist()
            batch.append(rows[order.pop()])
        yield batch


def trained(
    folder: Path,
    rows: Sequence[Rendered],
    test: Sequence[Rendered],
    *,
    steps: int,
    seed: int,
    save: Path | None,
) -> NDArray[np.float64]:
    """Train from an untrained model; return the loss of each test row after each ``EVERY`` steps, (checks, rows).

    The model is saved if asked to.
    """
    network = load_network(ModelRef(name=str(folder), dtype="float32")).train()
    passes = TrainingPasses(network, longest=512, packs=False, mixed=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.1)
    losses = []
    for number, batch in enumerate(batches(rows, steps=steps, seed=seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, number / 20)
        counted = sum(int(row.mask[1:].sum()) for row in batch)
        members = sorted(batch_of(list(enumerate(batch))), key=lambda each: -len(each.example.ids))
        for part in passes.pieces(members):
            with passes.over(part, network, count=len(batch)) as (nll, _):
                (nll.sum() / counted).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number % EVERY == 0:
            losses.append(_losses(network, passes, test))
    if save is not None:
        network.save_pretrained(save)
    return np.array(losses)


def _losses(
    network: torch.nn.Module, passes: TrainingPasses, rows: Sequence[Rendered]
) -> NDArray[np.float64]:
    """Return the loss of each row per response token, in nats, (rows,)."""
    members = sorted(batch_of(list(enumerate(rows))), key=lambda each: -len(each.example.ids))
    total = torch.zeros(len(rows))
    with torch.no_grad():
        for part in passes.pieces(members):
            with passes.over(part, network, count=len(rows)) as (nll, _):
                total += nll
    counted = torch.tensor([int(row.mask[1:].sum()) for row in rows])
    return np.asarray((total / counted).double().numpy())


def choices(scored: dict[str, pl.DataFrame], *, seed: int) -> dict[str, list[str]]:
    """Return the ids that each arm trains on."""
    frame = scored["pds"]
    # Another stream than that of the corruption.
    keep, rng = round(KEPT * frame.height), np.random.default_rng([seed, 1])
    found = {"all": frame["id"].to_list(), "random": rng.permutation(frame["id"].to_list())[:keep].tolist()}
    found["lowest loss"] = frame.sort("loss", nulls_last=True)["id"].head(keep).to_list()
    for name, table in scored.items():
        noisy = table["pds"].fill_nan(-np.inf).to_numpy() / 0.1 + rng.gumbel(size=table.height)
        found[name] = table["id"].to_numpy()[np.argsort(-noisy)[:keep]].tolist()
    return found


def shown(losses: dict[str, list[NDArray[np.float64]]], shares: dict[str, NDArray[np.float64]]) -> list[str]:
    """Return the table, as Markdown; ``losses`` are (checks, rows) for each seed of an arm, ``shares`` (3,)."""
    curves = {name: [each.mean(axis=1) for each in own] for name, own in losses.items()}
    goal = float(np.mean([curve[-1] for curve in curves["all"]]))
    lines = [
        "| rows | corrupted, % | dolly, % | response tokens of 100 | final test loss | against random | steps to that of all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ends = {name: np.array([each[-1] for each in own]) for name, own in losses.items()}  # (seeds, rows)
    for name in ARMS:
        steps = [
            next((EVERY * (n + 1) for n, loss in enumerate(c) if loss <= goal), None) for c in curves[name]
        ]
        reached = ", ".join("not reached" if step is None else str(step) for step in steps)
        found = difference(ends[name], ends["random"], higher_is_better=False, comparisons=len(ARMS) - 1)
        against = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}) {found.verdict}"
        lines.append(
            f"| {name} | {' | '.join(f'{100 * share:.0f}' for share in shares[name])} | {ends[name].mean():.3f} "
            f"| {'' if name == 'random' else against} | {reached} |"
        )
    return lines


def main() -> None:
    """Run the benchmark and print its table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything, to try the script")
    parser.add_argument("--output", type=Path, default=Path("runs/pds"))
    options = parser.parse_args()
    started, part = time.monotonic(), 20 if options.quick else 1
    tables = {
        name: rows_of(options.data / "train" / f"{table}.parquet", seed=0) for name, table in TABLES.items()
    }
    pool = corrupted([row for name, count in POOL.items() for row in tables[name][: count // part]], seed=0)
    clean = tables["dolly"][POOL["dolly"] :]
    target, test = clean[: TARGET_ROWS // part], clean[TARGET_ROWS : TARGET_ROWS + TEST_ROWS // part]
    folder = build(
        pool,
        options.output / "model",
        pieces=400 if part > 1 else 4_000,
        layers=4,
        width=192 // (4 if part > 1 else 1),
    )
    kinds = [row.pop("kind") for row in pool]
    rows = ln.read(pool)
    first = dict(zip([row["instruction"] for row in pool], kinds, strict=True))
    corrupt = {each.id: first[each.messages[0].content] != "clean" for each in rows.examples}
    base = ln.Model(str(folder), dtype="float32")
    renderer = base.opened().renderer
    rendered = {row.id: row for row in renderer.render(rows.examples, max_length=512) if row.mask[1:].any()}
    tests = [row for row in renderer.render(ln.read(test).examples, max_length=512) if row.mask[1:].any()]
    warm = options.output / "warm"
    if not (warm / "config.json").is_file():
        trained(folder, list(rendered.values()), tests, steps=WARM_STEPS // part, seed=0, save=warm)
        renderer.tokenizer.save_pretrained(warm)
    scored = dict[str, pl.DataFrame]()
    for name, curvature in (("pds", True), ("pds without curvature", False)):
        kept = options.output / f"{name}.parquet"
        if kept.is_file():
            scored[name] = pl.read_parquet(kept)
            continue
        aim = ln.Aim(space="full", rate=0.05, curvature=curvature, steps=25 if part == 1 else 5)
        table = ln.score(
            rows,
            ln.Model(str(warm), dtype="float32"),
            target=[{key: row[key] for key in ("instruction", "output")} for row in target],
            scorers=["pds", "loss"],
            aim=aim,
            store=options.output / "store",
        )
        scored[name] = table.frame.filter(pl.col("id").is_in(list(rendered)))
        scored[name].write_parquet(kept)
        print(
            f"{name}: {json.dumps({key: table.facts[key] for key in table.facts if 'target' in key or 'halves' in key})}"
        )
    losses: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ARMS}
    dolly = {row["instruction"] for row in tables["dolly"]}
    of = {each.id: each.messages[0].content in dolly for each in rows.examples}
    shares = {name: np.zeros(3) for name in ARMS}
    for seed in range(options.seeds):
        for name, ids in choices(scored, seed=seed).items():
            done = options.output / f"{name}-{seed}.npy"
            if not done.is_file():
                chosen, steps = [rendered[one] for one in ids], max(STEPS // part, EVERY)
                np.save(done, trained(folder, chosen, tests, steps=steps, seed=seed, save=None))
                print(f"{name}, seed {seed}: trained", flush=True)
            losses[name].append(np.load(done))
            counted = sum(int(rendered[one].mask.sum()) for one in ids)
            answers = counted / sum(len(rendered[one].ids) for one in ids)
            kinds_of = [float(np.mean([each[one] for one in ids])) for each in (corrupt, of)]
            shares[name] += np.array([*kinds_of, answers]) / options.seeds
    print(f"\n{date.today()}, {platform.processor() or platform.machine()}, {len(rendered):,} rows\n")
    print("\n".join(shown(losses, shares)))
    print(f"\n{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
