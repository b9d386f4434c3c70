"""The package alone: its wheel, installed away from the sources, answers through MLflow."""

import json
from pathlib import Path

import pytest

from clipmill import api, catalog, track
from test_template import run
from tiny import run_recipe

REPOSITORY = Path(__file__).resolve().parent.parent
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
OFFLINE = ("--no-deps", "--no-index")

ASK = """
import json, sys
import mlflow, pandas
uri, name, video = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(name)
answer = model.predict(pandas.DataFrame({"video": [open(video, "rb").read()]}))["answer"][0]
ours = [module for name, module in sys.modules.items() if name.startswith("clipmill")]
print(json.dumps({"answer": json.loads(answer), "files": [f for each in ours if (f := each.__file__)]}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it into a folder of its own."""
    work = tmp_path_factory.mktemp("installed")
    wheel = (*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", "wheels", str(REPOSITORY))
    run(*wheel, cwd=work)
    (made,) = (work / "wheels").glob("clipmill-*.whl")
    run(*PIP, "install", *OFFLINE, "--target", "site", str(made), cwd=work)
    return work / "site"


@pytest.mark.slow
def test_mlflow_answers_with_a_champion_where_only_the_package_is(
    site: Path, dataset: str, tmp_path: Path
) -> None:
    api.train(run_recipe(dataset, tmp_path / "runs", "packed", steps=3))
    promoted = api.promote("packed", name="packed", folder=str(tmp_path / "runs"))
    data = catalog.load(dataset)
    video = tmp_path / "video.mp4"
    video.write_bytes(data.read(data.table.to_pylist()[0]))
    uri = track.uri_of(None, str(tmp_path / "runs"))
    (tmp_path / "elsewhere").mkdir()
    ask = ("-P", "-c", ASK, uri, promoted["uri"], str(video))
    told = json.loads(run(*ask, cwd=tmp_path / "elsewhere", path=site).splitlines()[-1])
    assert any(file.endswith("network.py") for file in told["files"]), "no plugin was loaded"
    assert [file for file in told["files"] if not file.startswith(f"{site}/")] == []
    (ours,) = api.predict("packed@champion", [str(video)], folder=str(tmp_path / "runs"))["videos"]
    assert [c["name"] for c in told["answer"]["classes"]] == [c["name"] for c in ours["classes"]]
    for one, two in zip(told["answer"]["classes"], ours["classes"], strict=True):
        assert one["probability"] == pytest.approx(two["probability"], abs=1e-5)
