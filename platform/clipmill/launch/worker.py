"""One rank of a run: restore, feed, step, commit. Runs in a Ray Train worker or in the process."""

import hashlib
import time
from dataclasses import replace
from typing import Any

import torch
import torch.distributed

from clipmill import checkpoint, feed, infer, recipe, storage, train
from clipmill import plan as plans
from clipmill.checkpoint import Keeper, State
from clipmill.launch.folder import Folder, add_lines, cut_bad_clips, cut_metrics
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
        catalog = plans.catalog_of(given.data)
        self.catalog_digest = str(catalog.meta["digest"])
        torch.manual_seed(given.train.seed)
        device = infer.device()
        self.keeper = Keeper(folder)
        again = self.keeper.last() is not None
        model = infer.build(self.plan.plugin, catalog.classes, restored=again)
        self.model = model.to(device)
        self.optimizer = self.plan.plugin.optimizer(self.model)
        self.loop = self._loop(device)
        self.digest, self.pending, self.folded = bytes(32), list[list[bytes]](), 0
        self.waited = self.copied = self.computed = 0.0

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
        self.feed = feed.batches(self.plan, share, self.given.feed, self.transport)
        try:
            for step in train.steps(
                self._parallel(), self.optimizer, self.feed, self.loop, done=done
            ):
                self.pending.append(step.digests)
                self._measure(step)
                self._log(step)
                if self._due(step.number, self.given.train.checkpoint_every):
                    train.check_finite(step)
                    self._commit(step.number)
        finally:
            self.feed.close()
            self.keeper.wait()  # nobody may find a checkpoint half-written after this run
        if self.rank == 0:
            storage.put_json(self.home.feed, self._figures().plain())

    def _restored(self) -> int:
        last = self.keeper.last()
        done = 0
        if last is not None:
            state = checkpoint.restore(last, self.model, self.optimizer)
            self.digest, done = bytes.fromhex(state.takes_sha256), state.step
            self.folded = state.position
        if self.rank == 0:
            cut_metrics(self.home.metrics, done)
            cut_bad_clips(self.home.bad_clips, done * self.loop.batch)
        return done

    def _parallel(self) -> torch.nn.Module:
        if self.world == 1:
            return self.model
        return torch.nn.parallel.DistributedDataParallel(self.model)

    def _due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.given.train.steps

    def _measure(self, step: train.Step) -> None:
        """Add up what the steps waited, copied and computed; the wait of the first is a start."""
        self.waited += step.wait_seconds if self.computed else 0.0
        self.copied += step.copy_seconds
        self.computed += step.compute_seconds

    def _figures(self) -> feed.Figures:
        """The feed's figures, with the times that the step itself saw."""
        return replace(
            self.feed.figures,
            wait_seconds=self.waited,
            copy_seconds=self.copied,
            step_seconds=self.computed,
        )

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
            **self._feed_figures(),
        }
        add_lines(self.home.metrics, [row])

    def _feed_figures(self) -> dict[str, float]:
        told = self._figures().plain()
        names = ("cpu_ms_a_clip", "ready_batches", "bad", "wait_share", "copy_seconds")
        return {f"feed_{name}": float(told[name]) for name in names}

    def _commit(self, number: int) -> None:
        self._fold(number * self.loop.batch)
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

    def _fold(self, position: int) -> None:
        """Gather what all ranks trained on since the last commit, and fold it in order."""
        bad = [row for row in self.feed.ledger if self.folded <= row["position"] < position]
        gathered: list[Any] = [(self.pending, bad)]
        if self.world > 1:
            gathered = [None] * self.world
            torch.distributed.all_gather_object(gathered, (self.pending, bad))
        digests = [part[0] for part in gathered]
        for parts in zip(*digests, strict=True):  # one step: the slices of all ranks in order
            batch = b"".join(digest for part in parts for digest in part)
            self.digest = hashlib.sha256(self.digest + batch).digest()
        if self.rank == 0:
            rows = [row for part in gathered for row in part[1]]
            add_lines(self.home.bad_clips, sorted(rows, key=lambda row: int(row["position"])))
        self.pending, self.folded = [], position
