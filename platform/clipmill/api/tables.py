"""Verbs that make tables: the evidence of a family, the models of a family."""

from collections.abc import Sequence
from typing import Any

from clipmill.api.shared import Progress


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
