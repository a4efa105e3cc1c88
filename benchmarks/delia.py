"""Does DELIA teach the task and not the template? The formatted-text task of its authors, with a small model.

The task: rows of their reproduction set (is there a hallucination in an answer), asked for in a format that only the
new token ``<sep>`` names: a Python dictionary with the keys ``thought`` and ``hallucination``. Common tuning sees one
wording of the instruction; DELIA sees 49 (those of the authors' file that are not in their evaluation file) and a buffer
of questions and answers that the model wrote itself, swept over its ratio to the task. ``repeated`` has as many tokens as
``delia`` of the same ratio, without wordings and buffer. All arms are asked on 110 rows of another file (1,506 of the same
origin) in the wording of the training and in the 11 wordings of the evaluation file, which no training saw.

Two arms have rows of ``<sep>`` that learn at 30 times the rate of the adapters: at that rate itself they hardly moved in a
first run (32 test rows, three seeds, ratio 3.5).

Prints accuracy (the format; the format with the right label), what each half of DELIA is worth, the distance between the representations of ``<sep>`` and
of ``json`` and ``thought``, what was forgotten (loss on general rows), and how the gradients of task and buffer add up;
then what the paper reports.
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from condition_tables import values_of

from learnable.commands import diversify, teach
from learnable.commands.teach import Teaching
from learnable.data.overlap import contamination
from learnable.experiments import difference
from learnable.runs.identity import example_id
from learnable.settings import Reading, Tuning
from learnable.types import Message

ARMS = (
    "common",
    "no_buffer",
    "repeated@ratio=3.5",
    "no_paraphrases@ratio=3.5",
    "delia@ratio=3.5",
    "repeated@ratio=3.5,token_rate=30",
    "delia@ratio=3.5,token_rate=30",
    "repeated@ratio=10",
    "delia@ratio=10",
)
FORMAT = "format@syntax=python,keys=thought,hallucination,max_new_tokens=128"
PAPER = """
The paper's figures (read off its overview picture; Llama-2-7b-chat, 100 rows, 260 buffer rows for each):

| L2 distance of <sep> to | random | mean | instruction tuning | DELIA |
| --- | ---: | ---: | ---: | ---: |
| json, layer 1 | 1.80 | 1.73 | about 1.35 | 0.93 to 1.2 |
| json, layer 2 | 382.5 | 328.1 | about 330 | about 4 to 6 |
| thought, layer 1 | 1.75 | 1.61 | not shown | about 1.07 |
| thought, layer 2 | 387.4 | 327.9 | not shown | about 5 |

Accuracy on formatted text: DELIA +36.1 % over common instruction tuning (relative or absolute is not stated).
Its position and pooling are not stated, so only the order of the arms can be compared, not the numbers.
"""


Row = dict[str, Any]


def write_task(data: Path, folder: Path, *, rows: int, longest: int, tests: int) -> dict[str, Path]:
    """Write task, paraphrases, test and general rows; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    train = _rows(data / "train" / "delia_halu_sep_train.jsonl")
    asked = [_cut(row)[1] for row in _rows(data / "eval" / "delia_halu_sep_eval.jsonl")]
    known = list(dict.fromkeys(_cut(row)[1] for row in train))
    wordings = [wording for wording in known if wording not in asked]
    usual, task, paraphrases = wordings[0], list[Row](), list[Row]()
    for row in train:
        content, _ = _cut(row)
        messages = _messages(content + usual, row[1]["content"])
        task.append({"messages": messages, "source": "task"})
        parent = _parent(task[-1])
        paraphrases += [
            {
                "messages": _messages(content + wording, row[1]["content"]),
                "source": "task",
                "parent": parent,
                "by": "authors",
                "seed": 0,
                "instruction": wording,
                "original": usual,
            }
            for wording in wordings[1:]
        ]
    task = [row for row in task if _size(row) <= longest][:rows]
    kept = {_parent(row) for row in task}
    paraphrases = [row for row in paraphrases if row["parent"] in kept]
    unseen = []
    for found in pl.read_parquet(data / "eval" / "halu_cot_json_test.parquet").iter_rows(named=True):
        content = found["prompt"].partition("Consider the following task:\n")[2].strip()
        label = found["response"].strip().lower()
        if content and label in ("yes", "no") and len(content) <= longest - 600:
            unseen.append((content, label))
    known_texts = [_cut(row)[0] for row in train]
    shared = contamination(_texts(known_texts), _texts([content for content, _ in unseen]))["item"].to_list()
    print(f"{len(shared):,} of {len(unseen):,} test rows share a text with the task, and are left out")
    unseen = [pair for number, pair in enumerate(unseen) if str(number) not in set(shared)]
    random.Random(0).shuffle(unseen)
    half = (
        tests // 2
    )  # as many with a hallucination as without: a constant answer gets half of the labels right
    drawn = [
        pair
        for label in ("yes", "no")
        for pair in [each for each in unseen if each[1] == label][: half if label == "yes" else tests - half]
    ]
    test = [
        {
            "messages": _messages(
                f"\n{content}\n\n\n{asked[number % len(asked)]}",
                "{'thought': '', 'hallucination': '" + label + "'}",
            ),
            "source": label,
        }
        for number, (content, label) in enumerate(drawn)
    ]
    dolly = pl.read_parquet(data / "train" / "dolly_15k.parquet").filter(
        pl.col("output").str.len_chars().is_between(40, 500),
        pl.col("input").fill_null("").str.len_chars() < 10,
    )
    general = [
        {"messages": _messages(each["instruction"], each["output"]), "source": "dolly"}
        for each in dolly.sample(100, seed=0).iter_rows(named=True)
    ]
    paths = {}
    sets = {"task": task, "paraphrases": paraphrases, "test": test, "general": general}
    for name, lines in sets.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(
        f"{len(task)} rows of the task (at most {longest:,} characters), {len(wordings)} wordings to train on, "
        f"{len(test)} test rows in {len(asked)} unseen wordings, {len(general)} general rows (Dolly)"
    )
    return paths


def _parent(row: Row) -> str:
    return example_id(Message(role=turn["role"], content=turn["content"]) for turn in row["messages"])


def _texts(texts: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"id": [str(number) for number in range(len(texts))], "text": texts})


def _rows(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def _cut(messages: Sequence[dict[str, str]]) -> tuple[str, str]:
    content, gap, wording = messages[0]["content"].rpartition("\n\n\n")
    return content + gap, wording


def _messages(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _size(row: Row) -> int:
    return sum(len(turn["content"]) for turn in row["messages"])


def show(lesson: Path) -> None:
    """Print what came of it."""
    table = pl.read_parquet(lesson / "table.parquet")
    arms = table.unique("arm", maintain_order=True)
    print("\n| arm | examples | of the task | tokens | steps | training, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in arms.iter_rows(named=True):
        print(
            f"| {row['arm']} | {row['examples']:,.0f} | {row['task_examples']:,.0f} | {row['tokens']:,.0f} | "
            f"{row['steps']:,.0f} | {row['training_s']:,.0f} |"
        )
    for part in table.partition_by("evaluation", maintain_order=True):
        better = "higher" if part["higher_is_better"][0] else "lower"
        print(
            f"\n{part['evaluation'][0]} ({part['unit'][0]}, {better} is better, {part['items'][0]} items)\n"
        )
        print("| arm | seeds | value | difference to common tuning | |")
        print("| --- | ---: | ---: | ---: | --- |")
        for row in part.iter_rows(named=True):
            against = (
                ""
                if row["difference"] is None
                else f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            )
            print(
                f"| {row['arm']} | {row['seeds']} | {row['value']:.3f} ({row['value_low']:.3f} to "
                f"{row['value_high']:.3f}) | {against} | {row['verdict'] or ''} |"
            )
    results = pl.read_parquet(lesson / "results.parquet")
    _show_halves(results, dict(table.select("evaluation", "higher_is_better").iter_rows()))
    _show_answers(results)
    _show_concepts(pl.read_parquet(lesson / "concepts.parquet"))
    if (lesson / "buffering.parquet").is_file():
        _show_gradients(pl.read_parquet(lesson / "buffering.parquet"))
    print(PAPER)


def _show_halves(results: pl.DataFrame, higher_is_better: dict[str, bool]) -> None:
    """Print DELIA beside as many tokens of the task alone, and beside itself without either of its halves."""
    arms = results["arm"].unique().to_list()
    whole = [arm for arm in ARMS if arm.startswith("delia") and arm in arms]
    pairs = [
        (arm, beside)
        for arm in whole
        for beside in (arm.replace("delia", "repeated"), arm.replace("delia", "no_paraphrases"), "no_buffer")
        if beside in arms
    ]
    print(
        "\nDELIA against as many tokens of the task alone, and against itself without one of its halves "
        "(intervals hold for all differences of an evaluation)\n"
    )
    print("| evaluation | arm | against | difference | p | |")
    print("| --- | --- | --- | ---: | ---: | --- |")
    for evaluation, better in higher_is_better.items():
        part = results.filter(pl.col("evaluation") == evaluation)
        for arm, beside in pairs:
            found = difference(
                values_of(part, arm),
                values_of(part, beside),
                higher_is_better=better,
                comparisons=len(pairs),
            )
            interval = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            print(f"| {evaluation} | {arm} | {beside} | {interval} | {found.p:.2g} | {found.words} |")


def _show_answers(results: pl.DataFrame) -> None:
    """Print what each seed reached in the format, which labels were given, and why answers were wrong."""
    asked = results.filter(~pl.col("evaluation").str.contains("label="), pl.col("answer").is_not_null())
    asked = asked.filter(pl.col("evaluation").str.starts_with("format"))
    label = pl.col("answer").str.to_lowercase()
    why = (
        pl.when(pl.col("why").str.contains("unterminated"))
        .then(pl.lit("ends within a text"))
        .when(pl.col("why").str.contains("lacks|beside"))
        .then(pl.lit("other keys"))
        .otherwise(pl.lit("no dictionary"))
    )
    wrong = asked.filter(pl.col("value") == 0).with_columns(why=why)
    print("\nAnswers in the format: by seed, those that say yes, and what is wrong with the others\n")
    print(
        "| evaluation | arm | seeds | in the format | say yes | ends within a text | other keys | no dictionary |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for part in asked.partition_by("evaluation", "arm", maintain_order=True):
        where, arm = part["evaluation"][0], part["arm"][0]
        seeds = part.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"]
        right = part.filter(pl.col("value") == 1)
        yes = right.filter(label.str.contains("['\"]hallucination['\"]: ['\"]yes['\"]")).height
        reasons = wrong.filter(evaluation=where, arm=arm)["why"].to_list()
        counts = [reasons.count(name) for name in ("ends within a text", "other keys", "no dictionary")]
        cells = [" ".join(f"{seed:.2f}" for seed in seeds), str(right.height), str(yes), *map(str, counts)]
        print(f"| {where.rpartition(', ')[2]} | {arm} | " + " | ".join(cells) + " |")


def _show_concepts(distances: pl.DataFrame) -> None:
    last = int(distances["layer"].max() or 0)  # type: ignore[arg-type]
    shown = sorted({0, 1, 2, last // 2, last})
    print("\nL2 distance between the hidden states of <sep> and of a word (mean of seeds, and their range)\n")
    print("| word | layer | " + " | ".join(distances["arm"].unique(maintain_order=True)) + " |")
    print("| --- | ---: |" + " ---: |" * distances["arm"].n_unique())
    for words in distances["words"].unique(maintain_order=True):
        for layer in shown:
            cells = []
            for arm in distances["arm"].unique(maintain_order=True):
                found = distances.filter(words=words, layer=layer, arm=arm)["distance"].to_numpy()
                spread = f" ({found.min():.3g} to {found.max():.3g})" if len(found) > 1 else ""
                cells.append(f"{found.mean():.3g}{spread}")
            print(f"| {words} | {layer} | " + " | ".join(cells) + " |")


def _show_gradients(found: pl.DataFrame) -> None:
    print(
        "\nGradients before training: do they agree (coherence), and with the task (cosine)? debiased ± error\n"
    )
    print("| wording of the task | buffer : task | coherence | cosine to the task | step along the task |")
    print("| --- | ---: | ---: | ---: | ---: |")
    wanted = ("coherence", "cosine_to_task", "along_task")
    some = found.filter(pl.col("estimate") == "debiased", pl.col("quantity").is_in(wanted))
    for (wording, ratio), part in some.group_by("wording", "ratio", maintain_order=True):
        cells = {
            row["quantity"]: f"{row['value']:.3f} ± {row['error']:.3f}" for row in part.iter_rows(named=True)
        }
        print(f"| {wording} | {ratio:g} | " + " | ".join(cells[name] for name in wanted) + " |")


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", (__doc__ or "").split("\n\n", 1)[0]))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/ and eval/")
    parser.add_argument("--output", type=Path, default=Path("delia"))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=46, help="rows of the task, at most")
    parser.add_argument("--buffer", type=int, default=460, help="rows to sample from the model")
    parser.add_argument("--buffer-tokens", type=int, default=320, help="longest question and longest answer")
    parser.add_argument("--longest", type=int, default=1_200, help="longest row of the task in characters")
    parser.add_argument("--tests", type=int, default=110)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument(
        "--lesson", type=Path, help="show the tables of this finished lesson, and run nothing"
    )
    chosen = parser.parse_args()
    if chosen.lesson is not None:
        show(chosen.lesson)
        return
    paths = write_task(
        chosen.data, chosen.output / "rows", rows=chosen.rows, longest=chosen.longest, tests=chosen.tests
    )
    buffer = diversify(
        method="self_sample@tries=4",
        model=chosen.model,
        n=chosen.buffer,
        max_new_tokens=chosen.buffer_tokens,
        reading=Reading(avoid=tuple(str(paths[name]) for name in ("task", "test", "general"))),
        store=str(chosen.output / "store"),
        output=str(chosen.output / "buffer"),
    )
    print(
        f"buffer: {buffer.facts['kept']} kept, {buffer.facts['refused']} refused: {buffer.facts['refused because']}"
    )
    taught = teach(
        [str(paths["task"])],
        model=chosen.model,
        paraphrases=str(paths["paraphrases"]),
        buffer=buffer.path,
        test=str(paths["test"]),
        general=str(paths["general"]),
        teaching=Teaching(
            arms=chosen.arms,
            tokens=["<sep>=JSON, a thought first"],
            init="random",
            words=["json", "thought"],
            evaluate=[f"{FORMAT}", f"{FORMAT},label=hallucination"],
            seeds=chosen.seeds,
        ),
        tuning=Tuning(epochs=chosen.epochs, learning_rate=chosen.learning_rate, batch_size=chosen.batch_size),
        store=str(chosen.output / "store"),
        output=str(chosen.output / "lesson-{fingerprint}"),
    )
    show(taught.folder)


if __name__ == "__main__":
    main()
