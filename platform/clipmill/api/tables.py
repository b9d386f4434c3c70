"""Verbs that make tables: the evidence and the models of a family, what a run is worth to others."""

import itertools
import shlex
from collections.abc import Sequence
from typing import Any

from clipmill.api.shared import Progress, model_of


def evidence(
    source: Any,
    *,
    folder: str = "evidence",
    only: Sequence[str] = (),
    seeds: int | None = None,
    part: tuple[int, int] = (1, 1),
    run: bool = True,
    into: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the trials that a family's claims need, and judge the claims; the same call goes on.

    `only` names worlds and models, `part` is such as (1, 2), the first of two. Without `run` it
    tells what is there. Writes tables and a picture into the folder, and the tables `into` a file
    with their marks.
    """
    from clipmill import evidence as showing
    from clipmill import storage
    from clipmill.evidence.picture import drawn
    from clipmill.video import sheet

    asked = showing.read(source)
    parts = showing.Parts(tuple(only), seeds, part, none=not run)
    told = showing.run(asked, folder, parts, progress=progress)
    command = f"clipmill evidence {asked.name}"
    text = showing.results_tables(told, command)
    home = storage.join(storage.absolute(folder), asked.name)
    if into:
        showing.placed(into, command, text)
    files = {kind: f"{home}.{kind}" for kind in ("json", "md", "png")}
    storage.put_json(files["json"], told)
    storage.put(files["md"], f"# What {asked.name} can do\n\n{text}\n".encode())
    storage.put(files["png"], sheet.encoded(drawn(told), ".png"))
    return {**told, "files": files}


def plugins_table(family: str, *, classes: int = 101, into: str | None = None) -> dict[str, Any]:
    """The models of a family: what each is, sees, costs and needs; as Markdown into a file, too."""
    from clipmill import evidence as showing

    rows = showing.model_rows(family, classes)
    command = f"clipmill plugins table {family}"
    text = showing.models_table(rows, command)
    if into:
        showing.placed(into, command, text)
    return {"family": family, "rows": rows, "markdown": text}


def transfer(
    target: str,
    data: str,
    overrides: Sequence[str] = (),
    *,
    protocols: Sequence[str] = ("probe", "finetune"),
    labels: Sequence[float] = (0.01, 0.1, 1.0),
    seeds: int = 3,
    out: str = "transfer",
    part: tuple[int, int] = (1, 1),
    run: bool = True,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train probes and fine-tunes of a run or a version on fractions of the labels of a dataset.

    Each beside the same network from random weights, under the same budget; the same call goes on
    where it was. `part` is such as (1, 2), the first of two; without `run` it tells what is there.
    Overrides may be for one protocol, such as `probe.model.learning_rate=0.01`. Writes runs, trials,
    the table and the plot into `out`.
    """
    from clipmill import storage
    from clipmill import transfer as transferring
    from clipmill.video import sheet

    model, source = model_of(target, folder, tracking)
    name = source.get("run") or f"{source['name']}/{source['version']}"
    asked = transferring.read(
        model, name, data, protocols=protocols, shares=labels, seeds=seeds, overrides=overrides,
        out=out,
    )  # fmt: skip
    told = transferring.run(asked, part=part, train=run, progress=progress)
    files = transferring.files_of(asked)
    asked_for = [",".join(protocols), ",".join(f"{share:g}" for share in labels), str(seeds)]
    options = zip(("--protocol", "--labels", "--seeds"), asked_for, strict=True)
    words = ["clipmill", "transfer", target, data, *overrides, *itertools.chain(*options)]
    text = transferring.page(told, shlex.join(words))
    storage.put_json(files["json"], told)
    storage.put(files["md"], f"# What {name} is worth to others\n\n{text}\n".encode())
    storage.put(files["png"], sheet.encoded(transferring.drawn(told), ".png"))
    return {**told, "files": files}
