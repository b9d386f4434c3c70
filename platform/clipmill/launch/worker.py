"""One rank of a run: restore, feed, step, commit. Runs in a Ray Train worker or in the process."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed

from clipmill import checkpoint, feed, infer, recipe, storage, train
from clipmill import plan as plans
from clipmill.checkpoint import Keeper, Saved, State
from clipmill.folder import Folder, add_lines, cut_metrics
from clipmill.launch import begin, lesson
from clipmill.launch.judge import Judge, Verdict, patience_of
from clipmill.launch.stop import Agreement
from clipmill.launch.trail import Trail
from clipmill.launch.turn import Turn
from clipmill.plan import Plan
from clipmill.recipe import Recipe


def work(settings: dict[str, Any], turn: Turn | None = None) -> None:
    """Train as one worker: restore, feed, step, commit. The one that writes may have a turn to keep."""
    given = recipe.parse(settings["recipe"])
    threads = torch.get_num_threads()
    torch.set_num_threads(given.train.threads)
    try:
        with train.deterministic(given.train.deterministic):
            Worker(given, settings["folder"], settings["transport"], turn).run()
    finally:
        torch.set_num_threads(threads)


class Worker:
    """One rank of a run."""

    def __init__(
        self, given: Recipe, folder: str, transport: Any, turn: Turn | None = None
    ) -> None:
        self.given, self.home, self.transport = given, Folder(folder), transport
        self.check_turn = turn.check if turn else lambda: None
        parallel = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if parallel else 0
        self.world = torch.distributed.get_world_size() if parallel else 1
        self.plan: Plan = plans.make(given, "train")
        catalog = plans.catalog_of(given.data)
        self.catalog_digest = str(catalog.meta["digest"])
        self.keeper = Keeper(folder, keep=given.train.keep, before_commit=self.check_turn)
        self.loop = self._loop(infer.device())
        self._build(self.plan.plugin.class_names(catalog))
        self.guard = train.Guard(given.train.on_nan, given.train.spike)
        self.judge = (
            Judge(given, catalog, self.rank, self.world) if given.train.validate_every else None
        )
        self.patience = patience_of(given)
        self.agreement = Agreement(folder, self.world)
        most_bad = given.feed.max_bad_share * self.plan.takes_in_catalog
        self.trail = Trail(self.home.bad_clips, most_bad, self._add, self.rank, self.world)
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
            warmup_steps=asked.warmup_steps,
            clip_norm=asked.clip_norm,
            accumulate=asked.accumulate,
            channels_last=asked.channels_last,
        )

    def _build(self, classes: tuple[str, ...]) -> None:
        """Make network, optimizer and average, spread over the workers."""
        asked, device = self.given.train, self.loop.device
        torch.manual_seed(asked.seed)
        again = self.keeper.last() is not None
        lesson.check(self.given, self.plan.plugin)
        module = infer.build(self.plan.plugin, classes, restored=again)
        lesson.check_weights(self.plan.plugin, module)
        if not again:
            begin.load(self.home, module)
        self.model = train.arranged(
            module.to(device),
            channels_last=asked.channels_last,
            remat=asked.remat,
            compiled=asked.compile_,
        )
        if self.plan.plugin.by_gradient:
            self.called = train.spread(self.model, asked.parallel, self.world, device)
            self.optimizer = self.plan.plugin.optimizer(self.model)
        else:
            self.called, self.optimizer = self.model, lesson.no_optimizer()
        self.average = train.Average(self.model, asked.ema) if asked.ema else None

    def run(self) -> None:
        """Go from the last commit to the last step, or to where enough is enough."""
        state = self._restored()
        done = state.step if state else 0
        if (state and state.ended) or done >= self.given.train.steps:
            return self.agreement.close()
        if self.plan.plugin.by_gradient:
            share = feed.Share(done, self.given.train.steps, self.rank, self.world)
            self.feed = feed.batches(self.plan, share, self.given.feed, self.transport)
            learn: Callable[[], None] = partial(self._steps, done)
        else:
            self.feed = lesson.an_epoch(self.plan, self.given, self.transport)
            learn = self._only_fit
        try:
            learn()
        finally:
            self.feed.close()
            self.keeper.wait()  # nobody may find a checkpoint half-written after this run
        self.agreement.close()
        if self.rank == 0:
            self.check_turn()
            storage.put_json(self.home.feed, self._figures().plain())

    def _steps(self, done: int) -> None:
        for step in train.steps(
            self.called,
            self.optimizer,
            self.feed,
            self.loop,
            done=done,
            average=self.average,
            guard=self.guard,
            before_update=self.keeper.taken,
        ):
            self.trail.pending.append(step.digests)
            self._measure(step)
            if self._after(step):
                return

    def _only_fit(self) -> None:
        """Learn without gradients: all batches of the run are one lesson, and one commit."""
        taught = lesson.Lesson(self.feed, self.loop, self.home.path, self._tell)
        if not taught.teach(self.plan.plugin, self.model):
            return
        steps = self.given.train.steps
        self.trail.pending = taught.digests
        verdict = self._verdict() if self.judge else None
        row = {"step": steps, "time": time.time(), **taught.figures(self.model)}
        self._add(self.home.metrics, [row | _told(verdict)])
        self._commit(steps, verdict)

    def _fit(self) -> bool:
        """Learn, after the last step, what gradients could not, from an epoch of the plan."""
        with lesson.an_epoch(self.plan, self.given, self.transport) as batches:
            taught = lesson.Lesson(batches, self.loop, self.home.path)
            is_done = taught.teach(self.plan.plugin, self.model)
        lesson.agree(self.model, self.world)
        return is_done

    def _tell(self, done: int) -> None:
        """Log how far a lesson has come; its end is logged with what was learnt."""
        if done % self.given.train.log_every == 0 and done < self.given.train.steps:
            row = {"step": done, "time": time.time(), **self._feed_figures()}
            self._add(self.home.metrics, [row])

    def _after(self, step: train.Step) -> bool:
        """Log, validate and commit what is due after a step; tell whether it was the last."""
        asked, number = self.given.train, step.number
        if number == asked.steps and lesson.is_due(self.plan.plugin) and not self._fit():
            return True  # told to stop: what was learnt is of no use without the last lesson
        told_to_stop = self.agreement.asked()
        validates = asked.validate_every is not None and self._due(number, asked.validate_every)
        commits = validates or told_to_stop or self._due(number, asked.checkpoint_every)
        logs = validates or self._due(number, asked.log_every)
        self.keeper.check()
        if commits or logs or self.loop.device == "cpu":  # elsewhere it would wait for the device
            self.guard.check(number, step.metrics, self._last_good)
        verdict = self._verdict() if validates else None
        if logs:
            self._log(step, verdict)
        if commits:
            self._commit(number, verdict)
        return told_to_stop or self._has_enough()

    def _restored(self) -> State | None:
        last, state = self.keeper.last(), None
        if last is not None:
            average = self.average.weights if self.average else None
            state = checkpoint.restore(last, self.model, self.optimizer, average)
            self.guard.recall(state.told.get("guard", {}))
            if self.patience:
                self.patience = replace(self.patience, **state.told.get("patience", {}))
        if self.rank == 0:
            self.check_turn()
        self.trail.begin(state)
        if self.rank == 0:
            cut_metrics(self.home.metrics, state.step if state else 0)
        return state

    def _last_good(self) -> str | None:
        self.keeper.wait()
        return self.keeper.last()

    def _due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.given.train.steps

    def _has_enough(self) -> bool:
        return self.patience is not None and self.patience.is_over

    def _answering(self) -> Mapping[str, torch.Tensor]:
        """The weights that answer: the average where there is one."""
        return self.average.state() if self.average else self.model.state_dict()

    def _verdict(self) -> Verdict:
        assert self.judge is not None
        verdict = self.judge.verdict(checkpoint.gathered(self._answering()))
        if self.patience:
            self.patience = self.patience.after(verdict.score)
        return verdict

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

    def _log(self, step: train.Step, verdict: Verdict | None) -> None:
        """Add a line to the metrics, of all ranks together; every rank asks."""
        metrics = train.over_all_ranks(step.metrics, len(step.digests), self.loop)
        if self.rank != 0:
            return
        row = {
            "step": step.number,
            "time": time.time(),
            **metrics,
            "learning_rate": step.learning_rate,
            "wait_share": step.wait_seconds / step.seconds,
            "copy_share": step.copy_seconds / step.seconds,
            "compute_share": step.compute_seconds / step.seconds,
            "takes_per_second": self.loop.batch / step.seconds,
            **({"skipped": float(self.guard.skipped)} if self.guard.is_asked else {}),
            **self._feed_figures(),
        }
        self._add(self.home.metrics, [row | _told(verdict)])

    def _feed_figures(self) -> dict[str, float]:
        told = self._figures().plain()
        names = ("cpu_ms_a_clip", "ready_batches", "bad", "wait_share", "copy_seconds")
        return {f"feed_{name}": float(told[name]) for name in names}

    def _add(self, path: str, rows: list[dict[str, Any]]) -> None:
        self.check_turn()
        add_lines(path, rows)

    def _commit(self, number: int, verdict: Verdict | None) -> None:
        self.trail.fold(number * self.loop.batch, self.feed.ledger)
        told = {"guard": self.guard.told()}
        if self.patience:
            told["patience"] = self.patience.told()
        state = State(
            step=number,
            position=number * self.loop.batch,
            takes_sha256=self.trail.digest.hex(),
            catalog_digest=self.catalog_digest,
            plan_digest=self.plan.digest,
            recipe_identity=self.given.identity(),
            weights_sha256="",
            score=verdict.score if verdict else None,
            ended=self._has_enough(),
            told=told,
        )
        average = self.average.state() if self.average else None
        saved = Saved(self.model, self.optimizer, average)
        self.keeper.save(state, saved, writes=self.rank == 0)


def _told(verdict: Verdict | None) -> dict[str, float]:
    """What a validation found, as a line of metrics has it."""
    return {f"val_{name}": value for name, value in verdict.metrics.items()} if verdict else {}
