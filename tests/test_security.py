"""What holds of all code at once: nothing runs what others wrote, and the page of threats names real tests."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmill import video
from tiny import moving

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "SECURITY.md"

# Modules that run what they read, and calls that do so unless they are told not to.
RUNNERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops", "imp"}
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
NEVER = {
    "eval", "exec", "os.system", "os.popen", "torch.save", "torch.hub.load", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
NEVER_OF_ANYTHING = {"extractall", "read_pickle", "unsafe_load"}


def dotted(node: ast.expr) -> str:
    """The name of what is called, as it is written: `np.load`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"  # of a call's result, `?.eval`
    return node.id if isinstance(node, ast.Name) else ""


def faults(code: str) -> list[str]:
    """What of a module could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            of = getattr(node, "module", None) or ""
            found += [name for name in (*names, of) if name.split(".")[0] in RUNNERS]
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            given = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
            rule = NEEDS.get(called)
            if called.split(".")[-1] in NEVER_OF_ANYTHING:
                found.append(called)
            if called in NEVER or (rule and given.get(rule[0], ...) is not rule[1]):
                found.append(called)
            if given.get("shell") is True or given.get("allow_pickle") is True:
                found.append(f"{called} with a shell or pickles")
    return found


def modules() -> Iterator[Path]:
    for folder in ("platform", "plugins", "pipelines", "deploy"):
        yield from (REPOSITORY / folder).rglob("*.py")


def test_no_module_runs_what_it_reads() -> None:
    told = {str(path): faults(path.read_text()) for path in modules()}
    assert len(told) > 100
    assert {path: found for path, found in told.items() if found} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "np.load(f, allow_pickle=True)",
        "torch.load(path, weights_only=False)", "np.load(f)", "yaml.load(text, Loader=L)", "eval(text)",
        "subprocess.run(text, shell=True)", "archive.extractall(folder)", "x.save(a, allow_pickle=True)",
    ],
)  # fmt: skip
def test_such_code_is_seen(code: str) -> None:
    assert faults(code)
    assert not faults(
        "torch.load(p, weights_only=True)\nnp.load(f, allow_pickle=False)\nm().eval()"
    )


ANSWER = """
import sys
from pathlib import Path
from clipmill import infer
import clipmill_classify.meters, mlflow.pyfunc, safetensors.torch, torch
def refuse(event, what):
    if event == "pickle.find_class":
        raise SystemExit(f"a pickle wants {what}")
sys.addaudithook(refuse)
print(infer.answer(infer.load(sys.argv[1]), Path(sys.argv[2]).read_bytes())["label"])
try:
    import pickle
    pickle.loads(pickle.dumps(Path("x")))
except SystemExit as told:
    print(told)
"""


def test_a_model_answers_where_no_pickle_may_be_opened(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    video.encode(str(tmp_path / "v.mp4"), moving(7, 2), fps=15)
    words = [sys.executable, "-c", ANSWER, f"{trained['folder']}/model", str(tmp_path / "v.mp4")]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    label, guard = ran.stdout.splitlines()
    assert label in ("left", "right") and guard.startswith("a pickle wants"), "the guard sleeps"


def test_the_page_of_threats_names_tests_that_there_are() -> None:
    named = re.findall(r"`([\w/]+)\.py::(\w+)`", PAGE.read_text())
    assert len(named) > 30
    for file, name in named:
        code = (REPOSITORY / "tests" / f"{file}.py").read_text()
        assert f"def {name}(" in code, f"{file}.py has no {name}"
