"""The whole way: trained, promoted, served by the command line, its champion swapped under load."""

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clipmill import api, infer
from serving import numbers_in, visitor, walk
from tiny import run_recipe

RUN = "from clipmill.cli import main; main()"


@pytest.mark.slow
def test_the_champion_is_swapped_under_load_and_no_request_fails(
    dataset: str, tmp_path: Path
) -> None:
    folder, clip = str(tmp_path), walk()
    for seed, name in enumerate(("one", "two")):
        api.train(run_recipe(dataset, tmp_path, name, steps=3, seed=seed))
    right = [
        numbers_in(infer.answer(infer.load(f"{folder}/{n}/model"), clip)["classes"])
        for n in ("one", "two")
    ]
    api.promote("one", name="race", folder=folder)
    options = ["--runs", folder, "--port", "0", "--json", "--refresh-seconds", "0.3"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "serve", "race@champion", *options], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        with visitor(told["address"], {"Authorization": f"Bearer {told['token']}"}) as client:
            lineage = client.get("/v1/models").json()["models"][0]["lineage"]
            assert lineage["data"] == [dataset] and lineage["run_id"]
            over, seen = threading.Event(), []

            def ask() -> None:
                while not over.is_set():
                    answer = client.post("/v1/models/race/predict", files={"video": clip})
                    assert answer.status_code == 200, answer.text
                    seen.append(answer.json()["version"])
                    wanted: Any = right[int(seen[-1]) - 1]
                    assert numbers_in(answer.json()["classes"]) == pytest.approx(wanted, abs=1e-5)

            with ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(ask) for _ in range(4)]
                api.promote("two", name="race", folder=folder, force=True)
                for _ in range(600):
                    if "2" in seen or any(each.done() for each in asking):
                        break
                    over.wait(0.1)
                over.set()
                for each in asking:
                    each.result()
        assert set(seen) == {"1", "2"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()  # closes its output, too
