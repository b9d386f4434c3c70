"""What the files of deploy/ give to serving, held against the most that it may take."""

import re

from clipmill.serve import WAITING, Allowed
from clipmill.serve.upload import MEMORY_BYTES
from test_deploy import composed, manifests

UNITS = {"": 1, "m": 1 << 20, "g": 1 << 30, "Mi": 1 << 20, "Gi": 1 << 30}
# Left for what no limit counts: the interpreter, networks at work, buffers of connections; files of
# versions that are fetched.
MODELS_BYTES = MODEL_FILES_BYTES = 2 << 30


def bytes_of(text: str) -> int:
    """A size as Kubernetes or compose writes it."""
    ((number, unit),) = re.findall(r"^(\d+)(\D*)$", text)
    return int(number) * UNITS[unit]


def allowed(cpus: float) -> Allowed:
    """The limits of a server that has so many cores."""
    return Allowed(decoders=int(cpus), waiting=WAITING * int(cpus))


def most_memory(allowed: Allowed) -> int:
    """A decoder at its limit holds as much here: the video that it got, and the answer that it gives."""
    requests = allowed.receiving + allowed.waiting + allowed.decoders
    decoder = allowed.cell.memory_bytes + allowed.max_bytes + allowed.cell.answer_bytes
    held = requests * MEMORY_BYTES + allowed.ahead_bytes
    return MODELS_BYTES + held + allowed.decoders * decoder


def most_space(allowed: Allowed) -> int:
    uploads = max(allowed.upload_bytes, allowed.max_batch_bytes)
    return MODEL_FILES_BYTES + uploads + allowed.decoders * allowed.cell.file_bytes


def test_a_pod_of_serving_has_room_for_the_worst() -> None:
    (pod,) = [
        each["spec"]["template"]["spec"]
        for each in manifests()
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "serve"
    ]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    limits = container["resources"]["limits"]
    most = allowed(int(limits["cpu"]))
    assert most_memory(most) <= bytes_of(limits["memory"])
    assert most_space(most) <= bytes_of(volume["emptyDir"]["sizeLimit"])


def test_so_has_its_container_in_compose() -> None:
    serve = composed()["serve"]
    limits = serve["deploy"]["resources"]["limits"]
    (size,) = re.findall(r"size=(\w+)", " ".join(serve["tmpfs"]))  # which is memory
    assert most_memory(allowed(limits["cpus"])) + bytes_of(size) <= bytes_of(limits["memory"])


def test_a_decoder_may_give_all_that_may_be_looked_at() -> None:
    assert Allowed().cell.answer_bytes > Allowed().bounds.decoded_bytes
