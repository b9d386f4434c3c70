"""The demo: videos are made, sharded, trained on, registered, and a new one is answered.

    python pipelines/demo.py [FOLDER]

Everything lands in one folder; run again, it goes on where it was.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

from clipmill import api
from clipmill.cli import screen

WORLD = "direction"
VIDEOS = 1000
MODELS = ("single_frame", "c3d")


def main() -> None:
    """Run all stages and end with a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="demo")
    home = Path(parser.parse_args().folder).resolve()
    started, show = time.monotonic(), screen.Screen()
    try:
        _run(home, show)
    finally:
        show.close()
    say(f"all of it took {time.monotonic() - started:.0f} s and lies in {home}")


def say(text: str) -> None:
    """Announce a stage."""
    screen.console().print(f"\n[bold]{text}[/bold]")


def _run(home: Path, show: screen.Screen) -> None:
    videos, data, runs = str(home / "videos"), str(home / "data"), str(home / "runs")
    say(f"1  make {VIDEOS} videos of a moving digit: which of 8 directions?")
    world = api.worlds_make(WORLD, videos, videos=VIDEOS, progress=show.progress)
    show.close()
    say("2  ingest them: shards and a catalog")
    shown(api.ingest(videos, data, progress=show.progress), show)
    say("3  verify: read everything back")
    shown(api.verify(data, progress=show.progress), show)
    rows = [_trained(number, name, home, show) for number, name in enumerate(MODELS, 4)]
    say("6  promote the better one")
    best = max(rows, key=lambda row: row["accuracy"])
    made = api.promote(best["run"], name=WORLD, folder=runs, progress=show.progress)
    shown({key: made[key] for key in ("uri", "version", "metrics")}, show)
    say("7  answer a video it has never seen")
    answered = _answered(home, runs)
    page = _page(home, rows, world["chance"], answered)
    _table(rows, world["chance"])
    say("your own video")
    print(f"  clipmill predict {made['uri']} YOUR.mp4 --runs {runs}")
    print(f"  clipmill serve {made['uri']} --runs {runs}")
    print(f"  the page to look at: {page}")


def shown(result: dict[str, Any], show: screen.Screen) -> None:
    """Print what a stage gave."""
    show.close()
    screen.pairs(result)


def _trained(number: int, name: str, home: Path, show: screen.Screen) -> dict[str, Any]:
    """Train and test one model, or take what an earlier demo trained."""
    runs = str(home / "runs")
    say(f"{number}  train {name}")
    overrides = [f"data.path={home / 'data'}", f"run.folder={runs}"]
    finished = home / "runs" / f"demo_{name}" / "result.json"
    if finished.exists():
        run = api.show(f"demo_{name}", folder=runs)
    else:
        run = api.train(f"demo_{name}", overrides, progress=show.progress)
    tested = api.evaluate(run["name"], folder=runs, progress=show.progress)
    accuracy = tested["metrics"]["accuracy"]
    shown({"run": run["name"], "test accuracy": accuracy, "test videos": tested["videos"]}, show)
    return {"model": name, "run": run["name"], "accuracy": accuracy, **tested}


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson)."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return middle - half, middle + half


def _row(row: dict[str, Any], chance: float) -> list[str]:
    low, high = interval(row["accuracy"], row["videos"])
    verdict = "at chance" if low <= chance <= high else "above chance" if low > chance else "below"
    return [row["model"], f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", verdict]


def _table(rows: list[dict[str, Any]], chance: float) -> None:
    title = f"{WORLD}: {rows[0]['videos']} test videos, chance {chance:.1%}"
    columns = ("model", "test accuracy", "95 % interval", "")
    print()
    screen.table(title, columns, [_row(row, chance) for row in rows])


def _answered(home: Path, runs: str) -> dict[str, Any]:
    """Make a video from another seed and answer it with the champion."""
    fresh = home / "new"
    api.worlds_make(WORLD, str(fresh), videos=16, seed=20_000)
    video = sorted(fresh.glob("test/*/*.mp4"))[0]
    answer: dict[str, Any] = api.predict(f"{WORLD}@champion", [str(video)], folder=runs)["videos"][
        0
    ]
    print(f"  {video.relative_to(home)} shows: {video.parent.name}")
    for each in answer["classes"][:3]:
        print(f"  {each['probability']:7.1%}  {each['name']}")
    return {**answer, "truth": video.parent.name, "video": str(video.relative_to(home))}


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>clipmill demo</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 3rem auto; padding: 0 1rem }}
 table {{ border-collapse: collapse }} td, th {{ text-align: left; padding: .3rem 1.2rem .3rem 0 }}
 video {{ width: 256px; image-rendering: pixelated; border-radius: 8px }}
 meter {{ width: 12rem }} .clips {{ display: flex; gap: 1.5rem; align-items: start }}
</style>
<h1>Which way does the digit move?</h1>
<p>One frame cannot tell, a clip can. {videos} test videos, chance {chance:.1%}.</p>
<table><tr><th>model<th>test accuracy<th>95 % interval<th></tr>{table}</table>
<h2>A video that no model has seen</h2>
<div class="clips"><video src="{video}" autoplay loop muted controls></video>
<table>{answer}</table></div><p>It moves: {truth}.</p></html>
"""


def _page(home: Path, rows: list[dict[str, Any]], chance: float, answer: dict[str, Any]) -> Path:
    """Write a page with the table and the answered video."""
    cells = ["".join(f"<td>{cell}" for cell in _row(row, chance)) for row in rows]
    bars = [
        f"<tr><td>{c['name']}<td><meter value={c['probability']}></meter> {c['probability']:.1%}"
        for c in answer["classes"]
    ]
    text = PAGE.format(
        videos=rows[0]["videos"], chance=chance, table="".join(f"<tr>{cell}" for cell in cells),
        video=answer["video"], answer="".join(bars), truth=answer["truth"],
    )  # fmt: skip
    (home / "index.html").write_text(text)
    return home / "index.html"


if __name__ == "__main__":
    main()
