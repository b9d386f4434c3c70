"""The command line: light help, one JSON object, one line for a mistake, and a clean end by Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner

from clipmill import ingest, recipe, video
from clipmill.cli import app
from clipmill.worlds import WORLDS
from tiny import moving, recipe_of, write_videos

CLI = [sys.executable, "-c", "from clipmill.cli import main; main()"]
SPLITS = {"train": 4, "val": 1, "test": 2}


def invoke(*words: object) -> tuple[int, str, str]:
    """Run a command in this process: exit code, standard output, standard error."""
    ran = CliRunner().invoke(app, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.stdout, ran.stderr


def told(*words: object, code: int = 0) -> dict[str, Any]:
    """Run a command with `--json`: its one JSON object, with nothing else beside it."""
    exit_code, out, err = invoke(*words, "--json")
    assert exit_code == code, err
    assert out.endswith("\n") and out.count("\n") == 1
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder; a lock that nobody holds does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".held"
    }


def refused(code: int, *words: object, unchanged: Path) -> str:
    """Run a command that must be refused: one line, its exit code, nothing changed on the disk."""
    before = contents(unchanged)
    value = told(*words, code=code)
    assert set(value) == {"error"}
    exit_code, out, err = invoke(*words)
    lines = [line for line in err.splitlines() if not line.startswith("looking at videos: ")]
    assert (exit_code, out, lines) == (code, "", [f"clipmill: {value['error']}"])
    assert contents(unchanged) == before
    return str(value["error"])


def brightness(folder: Path) -> None:
    """Write videos of two classes that one frame tells apart."""
    for place, (split, count) in enumerate(SPLITS.items()):
        for name, add in (("bright", 192), ("dark", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                frames = [f // 4 + add for f in moving(100 * place + 10 * number + add, 2)]
                video.encode(str(folder / split / name / f"{number}.mp4"), frames, fps=15)


STEPS = 60


class Home:
    """A folder with videos, a dataset of them, a recipe, and two runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.videos, self.data = folder / "videos", folder / "data"
        brightness(self.videos)
        self.video = sorted(self.videos.glob("test/bright/*.mp4"))[0]
        self.ingested = told("ingest", self.videos, "--out", self.data)
        self.recipe = folder / "tiny.yaml"
        plain = recipe_of(
            run={"name": "good", "folder": str(self.runs)},
            data={"path": str(self.data)},
            model={"learning_rate": 0.003},
            train={"steps": STEPS},
        )
        self.recipe.write_text(yaml.safe_dump(plain))
        self.good = told("train", self.recipe)
        barely = ("train.steps=1", "model.learning_rate=1e-9", "run.name=bad")
        self.bad = told("train", self.recipe, *barely)


@pytest.fixture(scope="module")
def home(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


# --- help

# typer itself takes pydantic for some kinds of options.
HEAVY = (
    "torch torchvision ray mlflow av cv2 numpy pyarrow pandas fastapi uvicorn sklearn "
    "yaml rich webdataset"
).split()

HELPS = f"""
import sys
from clipmill.cli import app
for words in ([], ["train"], ["worlds"], ["worlds", "make"], ["plugins"]):
    try:
        app([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
print("loaded", *[name for name in {HEAVY} if name in sys.modules])
"""


def test_help_loads_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", HELPS], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == ""
    assert ran.stdout.count("Usage: ") == 5
    assert ran.stdout.splitlines()[-1] == "loaded"


LOOKS = """
import sys
from clipmill.cli import app
for words in (["runs"], ["show", "a", "--runs"], ["clean"]):
    try:
        app([*words, sys.argv[1]])
    except SystemExit as end:
        assert end.code == 0
print("loaded", *[name for name in ("torch", "ray", "mlflow", "cv2") if name in sys.modules])
"""


def test_looking_at_runs_loads_no_network(tmp_path: Path) -> None:
    made = recipe.parse(recipe_of(run={"name": "a", "folder": str(tmp_path)}))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.json").write_text(json.dumps({"recipe": made.plain()}))
    asked = [sys.executable, "-c", LOOKS, str(tmp_path)]
    ran = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded"


def verbs(group: Any = None, above: str = "") -> dict[str, Any]:
    """All verbs by their words."""
    group = group or typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        whole = f"{above} {name}".strip()
        found |= verbs(command, whole) if hasattr(command, "commands") else {whole: command}
    return found


def test_the_verbs_are_those_of_the_stages_that_exist() -> None:
    assert " ".join(sorted(verbs())) == (
        "browse clean compare embed evaluate evidence features feed forget gallery enrol gallery list gallery match gallery remove ingest inspect jobs list jobs logs jobs stop jobs wait look picture plan plugins check plugins list "
        "plugins show plugins table predict promote resume runs schema serve show stats submit sweep trace train transfer verify worlds make"
    )


@pytest.mark.parametrize("name", sorted(verbs()))
def test_every_verb_has_help_and_json(name: str) -> None:
    code, out, _ = invoke(*name.split(), "--help")
    assert code == 0
    assert verbs()[name].help.strip() and "--json" in out
    assert all(getattr(option, "help", None) for option in verbs()[name].params), "an option unsaid"


def test_the_help_of_worlds_tells_them_all() -> None:
    (told,) = [each.help for each in verbs()["worlds make"].params if each.name == "name"]
    assert sorted(re.findall(r"[a-z]+(?:-[a-z]+)?", told.replace(" or ", " "))) == sorted(WORLDS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train', 'transfer', 'trace'?"),
        (["train"], "Missing argument"),
        (["ingest", "x"], "Missing option '--out'"),
        (["runs", "--jsn"], "No such option: --jsn"),
        (["worlds", "make", "order", "--out", "w", "--videos", "many"], "valid integer"),
        (["worlds", "make", "order", "--out", "w", "--videos", "0"], "greater than or equal to 1"),
        (["serve", "x", "--port", "70000"], "less than or equal to 65535"),
    ],
)
def test_words_that_are_none_are_wrong_use(words: list[str], line: str) -> None:
    code, out, err = invoke(*words)
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]


# --- what the verbs give


def test_worlds_make_and_inspect(tmp_path: Path) -> None:
    out = tmp_path / "w"
    words = ("--out", out, "--videos", 8, "--size", 32, "--difficulty", "easy")
    made = told("worlds", "make", "direction", *words)
    assert json.loads((out / "world.json").read_text())["difficulty"] == "easy"
    assert Path(made["table"]).read_text().startswith("path,label,split")
    assert (made["videos"], len(made["classes"]), made["chance"]) == (8, 8, 1 / 8)
    seen = told("inspect", next(out.rglob("*.mp4")))
    assert {"streams", "frames", "duration_seconds", "fps", "faults"} <= set(seen)
    assert [stream["kind"] for stream in seen["streams"]] == ["video", "audio"]
    assert (seen["faults"], seen["frames_from"]) == ([], "decode")
    assert seen["frames"] == pytest.approx(seen["duration_seconds"] * seen["fps"])


def test_ingest_and_verify(home: Home) -> None:
    keys = "sources taken quarantined duplicates filtered records shards bytes seconds".split()
    assert set(keys) <= set(home.ingested)
    assert (home.ingested["sources"], home.ingested["shards"]) == (14, 3)
    assert told("ingest", home.videos, "--out", home.data)["nothing_to_do"] is True
    assert told("verify", home.data)["faults"] == []
    assert told("verify", home.data, "--deep")["faults"] == []


def test_verify_fails_where_there_are_faults(home: Home, tmp_path: Path) -> None:
    import shutil

    spoilt = Path(shutil.copytree(home.data, tmp_path / "spoilt"))
    shard = next(spoilt.glob("train-*.tar"))
    shard.unlink()
    value = told("verify", spoilt, code=1)
    assert len(value["faults"]) == 1 and shard.name in value["faults"][0]
    code, out, _ = invoke("verify", spoilt)
    assert code == 1 and shard.name in out


def test_plan(home: Home, tmp_path: Path) -> None:
    dump = tmp_path / "takes.parquet"
    value = told("plan", home.recipe, "--ranks", 2, "--epochs", 3, "--dump", dump)
    assert {"takes", "steps", "batches", "bytes", "warnings"} <= set(value)
    assert (value["takes"], value["batches"], value["steps"]) == (8, 2, STEPS)
    columns = pq.read_table(dump).to_pydict()
    assert list(columns) == ["epoch", "position", "rank", "keys", "spans", "seed"]
    assert columns["position"] == list(range(24))
    assert columns["epoch"] == [0] * 8 + [1] * 8 + [2] * 8
    assert columns["rank"] == [0, 0, 1, 1] * 6
    assert len({key for (key,) in columns["keys"]}) == 8
    fewer = told("plan", home.recipe, "train.batch=3")
    assert fewer["takes"] == 6 and fewer["warnings"][0].startswith("2 takes of each epoch")


def test_train_runs_and_show(home: Home) -> None:
    keys = {"run_id", "steps", "metrics", "weights_sha256", "takes_sha256"}
    assert keys <= set(home.good) and home.good["steps"] == STEPS
    listed = told("runs", home.runs)["runs"]
    assert [run["name"] for run in listed] == ["bad", "good"]
    for run in (*listed, told("show", "good", "--runs", home.runs)):
        assert keys <= set(run) and run["status"] == "finished"
    assert told("show", home.good["run_id"], "--runs", home.runs)["name"] == "good"
    assert told("runs", home.folder / "nowhere") == {"runs": []}


def test_train_print_gives_a_recipe_that_is_the_same(home: Home, tmp_path: Path) -> None:
    before = contents(home.folder)
    words = ("train", home.recipe, "train.steps=7", "model.dropout=0.25", "run.name=other")
    code, out, _ = invoke(*words, "--print")
    assert code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    wanted = recipe.load(home.recipe, [str(word) for word in words[2:]])
    assert recipe.load(printed).plain() == wanted.plain()
    assert yaml.safe_load(out) == wanted.plain() == told(*words, "--print")["recipe"]
    assert out.startswith("run:"), "sections in another order than they are written"
    assert contents(home.folder) == before


def test_evaluate(home: Home) -> None:
    good, bad = (told("evaluate", run, "--runs", home.runs) for run in ("good", "bad"))
    assert {"protocol", "metrics", "videos"} <= set(good) and good["videos"] == 4
    assert good["metrics"]["accuracy"] > bad["metrics"]["accuracy"]
    elsewhere = told("evaluate", "good", home.data, "--runs", home.runs)
    assert elsewhere["metrics"] == good["metrics"]


def test_evaluate_by_another_protocol_with_pictures(home: Home, tmp_path: Path) -> None:
    words = ("evaluate", "good", "--runs", home.runs, "--split", "train", "--clips", 2)
    value = told(*words, "--originals", "--pictures", tmp_path / "p", "--where", "label == 'dark'")
    assert (value["videos"], value["clips"], value["protocol"]["clips"]) == (4, 8, 2)
    assert value["originals"]["videos"] == 4 and value["originals"]["gone"] == 0
    assert {Path(file).name for file in value["pictures"]} == {
        path.name for path in (tmp_path / "p").iterdir()
    }
    spread = told(*words, "--workers", 2, "--where", "label == 'dark'")
    assert spread["answers"] == value["answers"]


def test_compare(home: Home) -> None:
    words = ("--runs", home.runs)
    value = told("compare", "bad", "good", *words)
    assert [row["model"] for row in value["rows"]] == ["good", "bad"] and value["best"] == "good"
    (pair,) = value["pairs"]
    assert pair["better"] is None and "no difference can be told" in pair["verdict"]
    assert pair["low"] <= pair["difference"] <= pair["high"]
    more = told("compare", "good", "bad", *words, "--split", "train")
    assert more["videos"] == 8
    code, out, err = invoke("compare", "good", "bad", *words)
    assert code == 0 and "accuracy on" in out and pair["verdict"] in out, err


def test_promote_refuses_a_worse_model_unless_forced(home: Home, tmp_path: Path) -> None:
    def promote(run: str, *more: str, code: int = 0) -> dict[str, Any]:
        return told("promote", run, "--name", "light", "--runs", home.runs, *more, code=code)

    first = promote("good")
    assert (first["name"], first["version"], first["alias"]) == ("light", "1", "champion")
    line = promote("bad", code=1)["error"]
    assert "light@champion accuracy 1.0000; wanted a model that is not worse; use --force" in line
    assert promote("good")["nothing_to_do"] is True
    answered = told("predict", "light@champion", home.video, "--runs", home.runs)
    assert (answered["version"], answered["videos"][0]["label"]) == ("1", "bright")
    assert promote("bad", "--force")["version"] == "2"
    tested = told("evaluate", "models:/light@champion", "--runs", home.runs)
    assert (tested["version"], tested["run_id"]) == ("2", home.bad["run_id"])


def test_predict_tells_classes_with_probabilities(home: Home) -> None:
    value = told("predict", "good", home.video, home.video, "--runs", home.runs)
    first, second = value["videos"]
    assert first == second and first["video"] == str(home.video)
    assert [each["name"] for each in first["classes"]] == ["bright", "dark"]
    assert sum(each["probability"] for each in first["classes"]) == pytest.approx(1)


def test_predict_keeps_the_good_answers_beside_a_bad_file(home: Home, tmp_path: Path) -> None:
    gone = tmp_path / "nowhere.mp4"
    value = told("predict", "good", gone, home.video, "--runs", home.runs, code=1)
    bad, good = value["videos"]
    assert "is not there" in bad["error"] and bad["video"] == str(gone)
    assert good["label"] == "bright"


def test_plugins() -> None:
    listed = told("plugins", "list")["plugins"]
    assert {"c3d", "single_frame"} <= {each["name"] for each in listed}
    assert all(set(each) == {"name", "family", "package", "version"} for each in listed)
    shown = told("plugins", "show", "c3d")
    assert {"fields", "paper", "parameters"} <= set(shown)
    fewer = told("plugins", "show", "c3d", "--classes", 1)
    last = next(f["default"] for f in shown["fields"] if f["name"] == "width")
    assert shown["parameters"] - fewer["parameters"] == 100 * (round(4096 * last) + 1)


def test_schema_is_one_of_recipes() -> None:
    value = told("schema")
    assert {"run", "data", "model", "train", "feed", "track"} == set(value["properties"])


def test_a_person_sees_tables(home: Home, tmp_path: Path) -> None:
    bracketed = tmp_path / "[red][bold]x.mp4"
    bracketed.write_bytes(home.video.read_bytes())
    for words, shown in (
        (("runs", home.runs), "good"),
        (("show", "good", "--runs", home.runs), home.good["weights_sha256"]),
        (("plugins", "list"), "single_frame"),
        (("plugins", "show", "c3d"), "Tran"),
        (("inspect", bracketed), "[red][bold]x.mp4"),
        (("predict", "good", bracketed, "--runs", home.runs), "[red][bold]x.mp4"),
        (("evaluate", "good", "--runs", home.runs), "accuracy"),
        (("verify", home.data), "none"),
        (("plan", home.recipe), "takes"),
    ):
        code, out, err = invoke(*words)
        assert code == 0, err
        assert shown in out and "{" not in out


# --- mistakes

Mistake = tuple[int, list[str], str]

MISTAKES: dict[str, Mistake] = {
    "missing folder": (1, ["ingest", "{}/nowhere", "--out", "{}/d"], "nowhere is not there"),
    "empty folder": (1, ["ingest", "{}/empty", "--out", "{}/d"], "empty holds no videos"),
    "a file as folder": (1, ["ingest", "{}/text.mp4", "--out", "{}/d"], "text.mp4 is a file"),
    "only text": (1, ["ingest", "{}/letters", "--out", "{}/d"], "none of 1 videos could be taken"),
    "cases": (1, ["ingest", "{}/cases", "--out", "{}/d"], "'Cat' and 'cat' differ only in case"),
    "no column": (1, ["ingest", "{}/file.csv", "--out", "{}/d"], "wanted a column `path`"),
    "outside": (1, ["ingest", "{}/outside.csv", "--out", "{}/d"], "leads outside of"),
    "layout": (2, ["ingest", "{}/cases", "--out", "{}/d", "--layout", "heap"], "layout 'heap'"),
    "profile": (2, ["ingest", "{}/cases", "--out", "{}/d", "--profile", "hd"], "profile 'hd'"),
    "out is foreign": (1, ["ingest", "{}/cats", "--out", "{}/mine"], "'thesis.txt', which is none"),
    "out is a file": (1, ["ingest", "{}/cats", "--out", "{}/text.mp4"], "text.mp4 is a file"),
    "out in a file": (1, ["ingest", "{}/cats", "--out", "{}/text.mp4/d"], "Not a directory"),
    "world is foreign": (1, ["worlds", "make", "order", "--out", "{}/mine"], "something else"),
    "no world": (2, ["worlds", "make", "disorder", "--out", "{}/w"], "no world 'disorder'"),
    "world's size": (2, ["worlds", "make", "order", "--out", "{}/w", "--size", "17"], "size 17"),
    "world's difficulty": (2, ["worlds", "make", "order", "--out", "{}/w", "--difficulty", "soft"], "difficulty 'soft'"),
    "inspect text": (1, ["inspect", "{}/text.mp4"], "{}/text.mp4: a video of 12 bytes: Invalid"),
    "inspect nothing": (1, ["inspect", "{}/nowhere.mp4"], "nowhere.mp4 is not there"),
    "inspect a folder": (1, ["inspect", "{}/cats"], "is no plain file"),
    "inspect the unreadable": (1, ["inspect", "/proc/self/mem"], "cannot be read"),
    "verify nothing": (1, ["verify", "{}/nowhere"], "nowhere has no dataset.json"),
    "no recipe": (2, ["train", "demo_c4d"], "no recipe demo_c4d; wanted a YAML file or one of"),
    "recipe is text": (2, ["train", "{}/text.mp4"], "text.mp4 holds no keys; wanted a recipe"),
    "recipe is broken": (2, ["train", "{}/broken.yaml"], "broken.yaml cannot be read: "),
    "recipe's type": (2, ["train", "{}/wrong.yaml"], "train.steps is 'many'; wanted "),
    "recipe's key": (2, ["train", "{}/typo.yaml"], "unknown key train.stpes"),
    "override's type": (2, ["plan", "{}/fine.yaml", "train.batch=-1"], "train.batch is -1"),
    "override's key": (2, ["plan", "{}/fine.yaml", "tarin.batch=1"], "did you mean train?"),
    "no override": (2, ["plan", "{}/fine.yaml", "batch"], "the override 'batch'; wanted dotted"),
    "no plugin": (1, ["plan", "{}/fine.yaml", "model.plugin=c4d"], "did you mean c3d?"),
    "no data": (1, ["train", "{}/fine.yaml"], "no_data has no dataset.json"),
    "no run": (1, ["show", "none", "--runs", "{}/runs"], "no run 'none' in"),
    "resume no run": (1, ["resume", "none", "--runs", "{}/runs"], "no run 'none' in"),
    "evaluate no run": (1, ["evaluate", "none", "--runs", "{}/runs"], "no run 'none' in"),
    "compare one": (2, ["compare", "a", "--runs", "{}/runs"], "one model; wanted two at the least"),
    "promote no run": (
        1, ["promote", "none", "--name", "x", "--runs", "{}/runs"], "no run 'none' in",
    ),
    "no registry": (1, ["predict", "a@b", "x.mp4", "--runs", "{}/runs"], "no registry at sqlite:"),
    "no store": (1, ["evaluate", "a@b", "--track", "ftp://x"], "MLflow at ftp://x: "),
    "show no plugin": (1, ["plugins", "show", "c4d"], "no plugin 'c4d'"),
    "check no plugin": (1, ["plugins", "check", "c4d"], "no plugin 'c4d'"),
}  # fmt: skip


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    """Hold a folder with all that is not as it should be."""
    for name in ("empty", "mine", "letters", "cases/Cat", "cases/cat", "cats/cat"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("text.mp4", "letters/text.mp4", "cases/Cat/1.mp4", "cases/cat/2.mp4"):
        (tmp_path / name).write_text("not a video.")
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    video.encode(str(tmp_path / "cats" / "cat" / "1.mp4"), moving(1, 1), fps=15)
    (tmp_path / "file.csv").write_text("file,label\na.mp4,x\n")
    (tmp_path / "outside.csv").write_text("path,label\n../a.mp4,x\n")
    (tmp_path / "broken.yaml").write_text("run: {name: [")
    plain = recipe_of(
        run={"folder": str(tmp_path / "runs")}, data={"path": str(tmp_path / "no_data")}
    )
    for name, train in (("fine", {}), ("wrong", {"steps": "many"}), ("typo", {"stpes": 1})):
        text = yaml.safe_dump({**plain, "train": {**plain["train"], **train}})
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(
    mess: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words, line = MISTAKES[name]
    monkeypatch.chdir(mess)
    here = [word.replace("{}", str(mess)) for word in words]
    assert line.replace("{}", str(mess)) in refused(code, *here, unchanged=mess)


def test_mistakes_with_runs_and_versions(home: Home, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video.")
    at = ("--runs", home.runs)
    for words, line in (
        (("train", home.recipe), "the run 'good' in"),
        (("resume", "good", *at), "has finished; wanted a new name"),
        (("train", home.recipe, "run.name=x", "data.train=tst"), "the split 'tst' of"),
        (("plan", home.recipe, "train.batch=9"), "train.batch is 9, an epoch has 8 takes"),
        (("promote", "good", "--name", "a/b", *at), "the name 'a/b'; wanted letters"),
        (("predict", "good", text, *at), f"{text}: a video of 12 bytes: Invalid data"),
        (("predict", "good", tmp_path / "nowhere.mp4", *at), "is not there"),
        (("predict", "light@none", home.video, *at), "no version light@none in"),
        (("predict", "light/99", home.video, *at), "no version light/99 in"),
        (("evaluate", "good", tmp_path, *at), "has no dataset.json"),
        (("serve", "none", "--port", 0, *at), "no run 'none' in"),
    ):
        assert line in refused(1, *words, unchanged=home.folder)
    for words, line in (
        (("plan", home.recipe, "--ranks", 5), "5 ranks; wanted at most train.batch = 4"),
        (("plan", home.recipe, "data.where=colour == 1"), "the filter 'colour == 1'"),
        (("plan", home.recipe, "data.where=label > 3"), "the filter 'label > 3'"),
    ):
        assert line in refused(2, *words, unchanged=home.folder)


def test_a_run_in_a_folder_of_something_else_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    words = ("train", home.recipe, f"run.folder={tmp_path}", "run.name=mine")
    assert "holds 'thesis.txt' and no run" in refused(1, *words, unchanged=tmp_path)


def test_a_port_in_use_is_told_before_any_model_is_loaded(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(1, "serve", "none", "--port", port, unchanged=tmp_path)
    assert line == (
        f"port {port} on 127.0.0.1 is in use; wanted a free port; "
        "choose another --port, 0 takes any free one"
    )


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put a distribution on the path whose plugin raises when it is imported."""
    (tmp_path / "strange_cli.py").write_text("raise RuntimeError('no\\nlicence')\n")
    info = tmp_path / "strange_cli-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-cli\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[clipmill.plugins]\nstrange = strange_cli:Strange\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "strange"
    sys.modules.pop("strange_cli", None)


def test_a_plugin_that_raises_is_told_and_hides_nothing(broken_plugin: str, mess: Path) -> None:
    value = told("plugins", "list")
    fault = {"name": "strange", "package": "strange-cli", "fault": "RuntimeError: no licence"}
    assert value["broken"] == [fault] and "c3d" in {each["name"] for each in value["plugins"]}
    code, out, err = invoke("plugins", "list")
    assert code == 0 and "c3d" in out
    line = "clipmill: plugin strange of strange-cli is broken: RuntimeError: no licence\n"
    assert err == line
    wanted = "plugin 'strange' of strange-cli 3 cannot be used (RuntimeError: no licence)"
    for words in (
        ("plugins", "show", broken_plugin),
        ("plugins", "check", broken_plugin),
        ("train", mess / "fine.yaml", f"model.plugin={broken_plugin}"),
    ):
        assert refused(1, *words, unchanged=mess).startswith(wanted)


# --- Ctrl-C


def stopped(
    words: list[str], under_way: Callable[[], bool], which: signal.Signals = signal.SIGINT
) -> str:
    """Run a command as a terminal would, press Ctrl-C when it is under way, and see it end."""
    process = subprocess.Popen(
        [*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not under_way():
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        time.sleep(0.005)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, which)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive, "processes were left behind"
    assert "Traceback" not in err
    return err.splitlines()[-1]


STOPPED = "clipmill: stopped; what was finished is kept, the same command goes on from there"


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_worlds_make_cleanly(tmp_path: Path, which: signal.Signals) -> None:
    out = tmp_path / "w"
    words = ["worlds", "make", "order", "--out", str(out), "--videos", "4000"]
    assert stopped(words, lambda: len(list(out.rglob("*.mp4"))) > 20, which) == STOPPED
    assert not list(out.rglob("*.part")) and not (out / "world.json").exists()
    for path in list(out.rglob("*.mp4"))[-10:]:
        assert video.probe(path, decode=True).faults == ()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_ctrl_c_ends_ingest_cleanly(tmp_path: Path) -> None:
    write_videos(tmp_path / "v", {"train": 100, "val": 20, "test": 20})
    out = tmp_path / "d"
    words = ["ingest", str(tmp_path / "v"), "--out", str(out)]
    assert stopped(words, lambda: bool(list(out.glob(".*.part")))) == STOPPED
    assert not list(out.rglob("*.part")), "half of a shard was left"
    assert not (out / "dataset.json").exists()
    assert ingest.run(str(tmp_path / "v"), str(out))["taken"] == 280
    assert ingest.verify(str(out)) == []
