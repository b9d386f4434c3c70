"""The files of deploy/: valid by the strictest means at hand, closed, and true to the code they start."""

import configparser
import contextlib
import functools
import importlib.util
import json
import mmap
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose.yaml"
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(*words: str | Path, code: int = 0, **environment: str) -> str:
    """Run a command; what it printed."""
    whole = {**os.environ, "PATH": TOOLS, **environment}
    ran = subprocess.run([str(word) for word in words], env=whole, capture_output=True, text=True)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@functools.cache
def composed(*more: str) -> dict[str, Any]:
    """The services as compose itself resolves them, those of profiles too."""
    files = [word for name in ("compose.yaml", *more) for word in ("-f", str(DEPLOY / name))]
    told = run("docker-compose", *files, "--profile", "serve", "config", "--format", "json")
    services: dict[str, Any] = json.loads(told)["services"]
    return services


@functools.cache
def manifests() -> list[dict[str, Any]]:
    """All Kubernetes objects."""
    files = [path for path in sorted(KUBERNETES.glob("*.yaml")) if path.stem != "kustomization"]
    return [each for path in files for each in yaml.safe_load_all(path.read_text())]


def below(value: Any, name: str) -> Iterator[Any]:
    """Whatever lies under a name, however deep."""
    if isinstance(value, dict):
        yield from (value[name] for _ in range(name in value))
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from below(each, name)


# --- the image


def test_hadolint_finds_nothing() -> None:
    assert run("hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile") == ""


def test_the_image_takes_only_files_that_are_there_and_let_in() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert copied == let_in and "*" in ignored
    assert all((REPOSITORY / name).exists() for name in copied)
    assert os.access(DEPLOY / "enter", os.X_OK)


def test_the_image_runs_as_nobody_special() -> None:
    *_, last = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")
    assert "\nUSER 1000:1000\n" in last and 'ENTRYPOINT ["tini", "-g", "--", "enter"]' in last


def test_secrets_are_in_no_file_that_is_kept() -> None:
    ignored = run("git", "-C", REPOSITORY, "check-ignore", "deploy/secrets/ray_token")
    assert ignored.strip() == "deploy/secrets/ray_token"
    for path in (DEPLOY / "Dockerfile", *DEPLOY.rglob("*.yaml"), DEPLOY / "mlflow_auth.ini"):
        for name, value in re.findall(r"(\w+)\s*[:=]\s*(\S+)", path.read_text()):
            if re.search(r"(?i)(password|token|secret|access_key|secret_key)(_id)?$", name):
                harmless = ("/run/secrets/", "/home/", "deploy/secrets/", "false", "{", "[")
                assert value.startswith(harmless), f"{path.name}: {name}"


# --- tokens, and the way they take into a container


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    run(DEPLOY / "tokens", folder)
    return folder


def test_tokens_are_random_kept_and_closed(secrets: Path, tmp_path: Path) -> None:
    names = {path.name for path in secrets.iterdir()}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert names == set(yaml.safe_load(COMPOSE.read_text())["secrets"])
    drawn = {
        path.read_text() for path in secrets.iterdir() if re.search("token|key|pass", path.name)
    }
    assert len(drawn) == len(names) - 2 and {len(each) for each in drawn} == {64}
    before = (secrets / "ray_token").read_text()
    (secrets / "store_secret_key").unlink()
    assert (
        run(DEPLOY / "tokens", secrets).count("made ") == 2
    )  # the key, and the store's own form of it
    assert (secrets / "ray_token").read_text() == before
    (identity,) = json.loads((secrets / "store_identities").read_text())["identities"]
    (keys,) = identity["credentials"]
    assert keys["secretKey"] == (secrets / "store_secret_key").read_text()
    assert run(DEPLOY / "tokens", secrets) == ""


SHOW = "import os; print(os.environ.get('CLIPMILL_TOKEN'), os.environ.get('CLIPMILL_TOKEN_FILE'))"


def test_a_secret_file_becomes_a_variable(secrets: Path, tmp_path: Path) -> None:
    asked = [DEPLOY / "enter", sys.executable, "-c", SHOW]
    told = run(*asked, CLIPMILL_TOKEN_FILE=str(secrets / "serve_token"))
    assert told == f"{(secrets / 'serve_token').read_text()} None\n"
    assert run(*asked) == "None None\n"
    assert "cannot be read" in run(*asked, code=2, CLIPMILL_TOKEN_FILE=str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    assert "is empty" in run(*asked, code=2, CLIPMILL_TOKEN_FILE=str(tmp_path / "empty"))


def entered() -> set[str]:
    """The variables that `enter` reads from files."""
    (listed,) = re.findall(r"for name in (.*?); do", (DEPLOY / "enter").read_text(), re.DOTALL)
    return set(listed.replace("\\", " ").split())


# --- compose


def test_services_are_closed() -> None:
    for name, service in composed("compose.cuda.yaml").items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0 and not service.get("privileged"), name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        assert "healthcheck" in service and ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name
        mounted = {secret["source"] for secret in service.get("secrets", ())}
        named = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        assert named <= mounted, f"{name} reads what it is not given"


def test_only_mlflow_reaches_the_database() -> None:
    beside = {name for name, each in composed().items() if "tracking" in each["networks"]}
    assert beside == {"mlflow", "postgres"}
    assert list(composed()["postgres"]["networks"]) == ["tracking"]


def test_serving_reaches_mlflow_alone() -> None:
    (network,) = composed()["serve"]["networks"]
    assert {name for name, each in composed().items() if network in each["networks"]} == {
        "mlflow",
        "serve",
    }


def test_workers_get_gpus_only_where_they_are_asked_for() -> None:
    asked = composed("compose.cuda.yaml")["worker"]["deploy"]["resources"]["reservations"]
    assert asked["devices"][0]["driver"] == "nvidia"
    assert "reservations" not in composed()["worker"]["deploy"]["resources"]


def test_mlflow_in_compose_and_kubernetes_is_the_same() -> None:
    told = configparser.ConfigParser()
    told.read(DEPLOY / "mlflow_auth.ini")
    assert told["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert "admin_password" not in told["mlflow"]
    uri = told["mlflow"]["database_uri"]
    starts = [" ".join(words) for words in commands() if words[:2] == ["mlflow", "server"]]
    assert len(starts) == 2
    for start in starts:
        assert uri in start and "basic-auth" in start and "--allowed-hosts" in start


# --- `ray up`


def test_ray_takes_the_cluster_file(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    plain = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    validate_config(prepare_config(plain))
    options = plain["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    (token,) = [each for each in options if "RAY_AUTH_TOKEN_PATH" in each]
    (mounted,) = plain["file_mounts"]
    assert token.endswith(mounted.replace("~", "/home/clipmill"))
    (head,) = [each for each in plain["head_start_ray_commands"] if "--head" in each]
    assert "--dashboard-host=127.0.0.1" in head


# --- what is started exists


def texts() -> Iterator[str]:
    """The lines of shell that people are told to type, in the files' headers and pages."""
    for path in (DEPLOY / "README.md", REPOSITORY / "SECURITY.md"):
        for block in re.findall(r"```\n(.*?)```", path.read_text(), re.DOTALL):
            yield from block.replace("\\\n", " ").splitlines()
    for path in (*DEPLOY.rglob("*.yaml"), DEPLOY / "Dockerfile"):
        yield from re.findall(r"^#   (\S.*)$", path.read_text(), re.MULTILINE)


def started() -> Iterator[list[str]]:
    """The words that containers start with."""
    for service in composed().values():
        yield service.get("command") or []
        yield service.get("healthcheck", {}).get("test", [])[1:]
    for document in manifests():
        for name in ("args", "command"):
            yield from below(document, name)
        yield from (shlex.split(each) for each in below(document, "entrypoint"))
    cluster = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    for line in (*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]):
        yield shlex.split(line)


def commands() -> list[list[str]]:
    """Every command of clipmill, ray and mlflow that a file or a page names."""
    found = []
    typed = [shlex.split(line, comments=True) for line in texts()]
    quoted = [shlex.split(word) for words in typed for word in words if " " in word]
    for words in (*started(), *typed, *quoted):
        for place, word in enumerate(words):
            namespace = place and words[place - 1] in ("-n", "--namespace")
            if word in ("clipmill", "ray", "mlflow") and not namespace and words[place + 1 :]:
                ends = [
                    at for at, each in enumerate(words) if at > place and each in ("|", "&&", ";")
                ]
                found.append(words[place : (*ends, len(words))[0]])
                break
    return found


def command_line(program: str) -> Any:
    if program == "clipmill":
        from clipmill.cli import app

        return typer.main.get_command(app)
    if program == "ray":
        from ray.scripts.scripts import cli
    else:
        with warnings.catch_warnings():  # MLflow's dependencies warn of each other
            warnings.simplefilter("ignore")
            from mlflow.cli import cli
    return cli


def test_there_are_commands_of_each_kind() -> None:
    heads = {" ".join(words[:2]) for words in commands()}
    assert {"clipmill train", "clipmill serve", "ray start", "mlflow server"} <= heads


@pytest.mark.parametrize(
    "program", ["clipmill", "ray", pytest.param("mlflow", marks=pytest.mark.slow)]
)
def test_every_command_is_one_with_options_that_it_has(program: str) -> None:
    told = {tuple(words[1:]) for words in commands() if words[0] == program}
    for words in sorted(told):
        command, rest = command_line(program), list(words)
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            if rest[0].startswith("-"):
                break
            assert rest[0] in command.commands, f"{program} {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        with contextlib.suppress(click.exceptions.Exit):  # of --help and --version
            command.make_context(words[0], rest)


def test_every_recipe_that_is_named_holds() -> None:
    from clipmill import recipe

    for words in commands():
        if words[:2] == ["clipmill", "train"]:
            recipe.load(words[2], [word for word in words[3:] if "=" in word])


def variables() -> dict[str, set[str]]:
    """The environment that files set, by who is to read it: clipmill's image, or another."""
    image = re.findall(
        r"^ENV (.*?[^\\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL
    )
    ours = {pair.split("=")[0] for text in image for pair in text.replace("\\\n", " ").split()}
    others: set[str] = set()
    for service in composed().values():
        names = ours if service["image"].startswith("clipmill:") else others
        names |= set(service.get("environment") or {})
    for document in manifests():
        for name in ("env", "data"):
            for listed in below(document, name):
                names = others if document["metadata"].get("name") == "postgres" else ours
                names |= {each["name"] for each in listed} if name == "env" else set(listed)
    cluster = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    ours |= set(re.findall(r"--env=(\w+)=", " ".join(cluster["docker"]["run_options"])))
    return {"ours": ours, "others": others}


# Python's and the desktop's own, and those of the driver's runtime, which is not here.
COMMON = set("PATH TMPDIR XDG_CACHE_HOME PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE".split())
COMMON |= set("NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES".split())
COMMON |= set("PIP_NO_CACHE_DIR PIP_DISABLE_PIP_VERSION_CHECK".split())


def says(folder: Path, patterns: str, names: set[str]) -> set[str]:
    """Which of the names some file of a library holds, in text or compiled."""
    found: set[str] = set()
    for pattern in patterns.split():
        for path in (each for each in folder.glob(pattern) if each.stat().st_size):
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
            ):
                found |= {name for name in names - found if text.find(name.encode()) >= 0}
    return found


def place_of(package: str) -> Path:
    """Where a package lies; not every one likes to be imported by itself."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"no package {package}"
    return Path(spec.origin).parent


def test_every_variable_is_read_by_someone() -> None:
    import mlflow.environment_variables as mlflow_names

    asked = variables()["ours"] - COMMON
    known = {name.removesuffix("_FILE") for name in asked if name.endswith("_FILE")} & entered()
    asked = {name for name in asked if name.removesuffix("_FILE") not in known} | known
    asked -= {name for name in asked if hasattr(mlflow_names, name)}
    libraries = [
        (REPOSITORY / "platform/clipmill", "cli/*.py *.py", "CLIPMILL_"),
        (place_of("ray"), "_raylet.so _common/*.py _common/*/*.py _private/*.py _private/*/*.py dashboard/modules/job/*.py", "RAY_"),
        (place_of("botocore"), "configprovider.py credentials.py utils.py", "AWS_"),
        (place_of("psycopg_binary").parent / "psycopg_binary.libs", "libpq*", "PGPASSWORD"),
        (place_of("matplotlib"), "__init__.py", "MPLCONFIGDIR"),
    ]  # fmt: skip
    for folder, patterns, prefix in libraries:
        asked -= says(folder, patterns, {name for name in asked if name.startswith(prefix)})
    asked -= says(place_of("torch") / "lib", "libtorch_cpu.so libtorch_python.so", asked)
    assert asked <= {"NCCL_SOCKET_IFNAME"}  # read by a library that is only there with CUDA
    database = set(
        "POSTGRES_USER POSTGRES_DB POSTGRES_PASSWORD POSTGRES_INITDB_ARGS PGDATA".split()
    )
    assert {name.removesuffix("_FILE") for name in variables()["others"]} <= database


def test_the_image_gets_what_it_installs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    server = {re.split(r"[\[>=]", each)[0] for each in project["optional-dependencies"]["server"]}
    pinned = {line.split("==")[0] for line in (DEPLOY / "constraints.txt").read_text().splitlines()}
    assert {"boto3", "psycopg", "flask-wtf"} == {each.lower() for each in server}
    assert {"boto3", "psycopg", "psycopg-binary", "Flask-WTF"} <= pinned


def test_kubectl_builds_the_whole(tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on this machine")
    built = list(yaml.safe_load_all(run("kubectl", "kustomize", KUBERNETES)))
    images = {image for each in built for image in below(each, "image")}
    assert images == {"clipmill:cpu", "postgres:17-alpine"}
