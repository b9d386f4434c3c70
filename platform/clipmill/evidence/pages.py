"""Tables as Markdown, and their place between two marks of a file.

Takes plain rows; knows nothing of how they were made.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmill import storage
from clipmill.errors import UsageError

Row = Mapping[str, Any]

UNITS = ("", " k", " M", " G", " T")


def results_tables(told: Row, command: str) -> str:
    """The figures of an evidence, then its claims, and the command that made them."""
    done = f"{told['trials_done']} of {told['trials']} trials"
    head = (
        f"Made by `{command}` ({done}). Means over seeds on the test split ± standard deviation;"
        " clips a second with decoding, on the machine that ran it; a multiply-add is two FLOPs."
    )
    figures = (
        "world", "model", "result", "chance", "seeds", "test videos", "parameters", "FLOPs a clip",
        "clips/s training", "clips/s test",
    )  # fmt: skip
    rows = [_result(row) for row in told["rows"]]
    claims = [[_verdict(row), row["claim"], row["figures"]] for row in told["claims"]]
    return "\n\n".join(
        (head, table(figures, rows), table(("", "claim", "figures behind it"), claims))
    )


def _result(row: Row) -> list[str]:
    return [
        row["world"],
        row["model"],
        percent(row),
        "" if row["chance"] is None else f"{row['chance']:.1%}",
        str(len(row["values"])),
        str(row["videos"]),
        short(row["parameters"]),
        short(row["flops"]),
        short(row["training_clips_per_second"]),
        short(row["test_clips_per_second"]),
    ]


def percent(row: Row) -> str:
    """A mean with its spread, as far as there are several seeds; in percent where it is a share."""
    form = ".1%" if is_share(row["mean"]) else ".4g"
    spread = f" ± {row['spread']:{form}}" if len(row["values"]) > 1 else ""
    named = "" if row["metric"] == "accuracy" else f" {row['metric'].replace('_', ' ')}"
    return f"{row['mean']:{form}}{spread}{named}"


def is_share(mean: float) -> bool:
    """Whether a mean may be one of a metric that counts shares, and no loss or pixels."""
    return 0 <= mean <= 1


def _verdict(claim: Row) -> str:
    return f"**{verdict_words(claim)}**" if claim["verdict"] == "refuted" else verdict_words(claim)


def verdict_words(claim: Row) -> str:
    """A verdict; one of fewer seeds than were asked for says so."""
    if claim["verdict"] == "not run" or claim["is_whole"]:
        return str(claim["verdict"])
    seeds = claim["seeds"]
    return f"{claim['verdict']} so far ({seeds} seed{'s' if seeds > 1 else ''})"


def models_table(rows: Sequence[Row], command: str) -> str:
    """The models of a family, and the command that made the table."""
    columns = ("model", "recipe", "frames x stride", "size", "parameters", "FLOPs a clip",
               "sees", "may start from", "paper")  # fmt: skip
    classes = rows[0]["classes"] if rows else 0
    head = (
        f"Made by `{command}`: at {classes} classes, strides in frames of 30 a second, a"
        " multiply-add is two FLOPs."
    )
    return f"{head}\n\n{table(columns, map(_model, rows))}"


def _model(row: Row) -> list[str]:
    return [
        f"`{row['name']}`",
        f"`{row['recipe']}`" if row["recipe"] else "",
        f"{row['frames']} x {row['stride']:.3g}" if row["frames"] > 1 else "1",
        f"{row['size']} x {row['size']}",
        short(row["parameters"]),
        short(row["flops"]),
        ", ".join(row["streams"]),
        ", ".join(f"`{name}`" for name in row["files"]),
        row["paper"],
    ]


def short(number: float | None) -> str:
    """A large number in three digits."""
    if number is None:
        return ""
    thousands = 0
    while abs(number) >= 999.5 and thousands < len(UNITS) - 1:
        number, thousands = number / 1000, thousands + 1
    return f"{number:.3g}{UNITS[thousands]}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def placed(path: str, name: str, text: str) -> None:
    """Put a text between the two marks of a name in a file; all else in it stays."""
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"no file {path}", "one with the marks of a table in it")
    before, begin, rest = file.read_text().partition(begin_of(name))
    _, end, after = rest.partition(end_of(name))
    if not (begin and end):
        raise UsageError(
            f"{path} has no place for {name}", f"a line {begin_of(name)} and one {end_of(name)}"
        )
    storage.put(path, f"{before}{begin}\n{text}\n{end}{after}".encode())


def begin_of(name: str) -> str:
    """The mark before a table."""
    return f"<!-- {name}: begin -->"


def end_of(name: str) -> str:
    """The mark after a table."""
    return f"<!-- {name}: end -->"
