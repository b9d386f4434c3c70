"""One rank of a run: restore, feed, step, commit. Runs in a Ray Train worker or in the process."""

import hashlib
import json
import time
from typing import Any

import torch
import torch.distributed

from clipmill import catalog as catalogs
from clipmill import checkpoint, feed, infer, recipe, train
from clipmill import plan as plans
from clipmill.checkpoint import Keeper, State
from clipmill.launch.folder import Folder, cut_metrics
from clipmill.plan import Plan
from clipmill.recipe import Recipe


def work(settings: dict[str, Any]) -> None:
    """Train as one worker: restore, feed, step, commit."""
    given = recipe.parse(settings["recipe"])
    threads = torch.get_num_threads()
    torch.set_num_threads(given.train.threads)
    try:
        Worker(given, settings["folder"], settings["transport"]).run()
    finally:
        torch.set_num_threads(threads)


class Worker:
    """One rank of a run."""

    def __init__(self, given: Recipe, folder: str, transport: Any) -> None:
        self.given, self.home, self.transport = given, Folder(folder), transport
        parallel = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if parallel else 0
        self.world = torch.distributed.get_world_size() if parallel else 1
        self.plan: Plan = plans.make(given, "train")
        catalog = catalogs.load(given.data.path)
        self.catalog_digest = str(catalog.meta["digest"])
        torch.manual_seed(given.train.seed)
        device = infer.device()
        self.keeper = Keeper(folder)
        again = self.keeper.last() is not None
        model = infer.build(self.plan.plugin, catalog.classes, restored=again)
        self.model = model.to(device)
        self.optimizer = self.plan.plugin.optimizer(self.model)
        self.loop = self._loop(device)
        self.digest, self.pending = bytes(32), list[list[bytes]]()

    def _loop(self, device: str) -> train.Loop:
        asked = self.given.train
        return train.Loop(
            view=self.plan.plugin.views()["train"],
            batch=asked.batch,
            steps=asked.steps,
            seed=asked.seed,
            rank=self.rank,
            world=self.world,
            device=device,
            precision=train.resolved_precision(asked.precision, device),
            schedule=asked.schedule,
            clip_norm=asked.clip_norm,
        )

    def run(self) -> None:
        """Go from the last commit to the last step."""
        done = self._restored()
        share = feed.Share(done, self.given.train.steps, self.rank, self.world)
        batches = feed.batches(self.plan, share, self.given.plain(), self.transport)
        try:
            for step in train.steps(
                self._parallel(), self.optimizer, batches, self.loop, done=done
            ):
                self.pending.append(step.digests)
                self._log(step)
                if self._due(step.number, self.given.train.checkpoint_every):
                    train.check_finite(step)
                    self._commit(step.number)
        finally:
            self.keeper.wait()  # nobody may find a checkpoint half-written after this run

    def _restored(self) -> int:
        last = self.keeper.last()
        done = 0
        if last is not None:
            state = checkpoint.restore(last, self.model, self.optimizer)
            self.digest, done = bytes.fromhex(state.takes_sha256), state.step
        if self.rank == 0:
            cut_metrics(self.home.metrics, done)
        return done

    def _parallel(self) -> torch.nn.Module:
        if self.world == 1:
            return self.model
        return torch.nn.parallel.DistributedDataParallel(self.model)

    def _due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.given.train.steps

    def _log(self, step: train.Step) -> None:
        if self.rank != 0 or not self._due(step.number, self.given.train.log_every):
            return
        row = {
            "step": step.number,
            "time": time.time(),
            **{name: float(value) for name, value in step.metrics.items()},
            "learning_rate": step.learning_rate,
            "wait_share": step.wait_seconds / (step.wait_seconds + step.compute_seconds),
            "takes_per_second": self.loop.batch / (step.wait_seconds + step.compute_seconds),
        }
        with open(self.home.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _commit(self, number: int) -> None:
        self._fold_digests()
        if self.rank == 0:
            state = State(
                step=number,
                position=number * self.loop.batch,
                takes_sha256=self.digest.hex(),
                catalog_digest=self.catalog_digest,
                recipe_identity=self.given.identity(),
                weights_sha256="",
            )
            self.keeper.save(state, self.model, self.optimizer)

    def _fold_digests(self) -> None:
        """Gather what all ranks trained on since the last commit, and fold it in order."""
        gathered: list[Any] = [self.pending]
        if self.world > 1:
            gathered = [None] * self.world
            torch.distributed.all_gather_object(gathered, self.pending)
        for parts in zip(*gathered, strict=True):  # one step: the slices of all ranks in order
            batch = b"".join(digest for part in parts for digest in part)
            self.digest = hashlib.sha256(self.digest + batch).digest()
        self.pending = []
