"""A plan from a recipe: the datasets opened and joined, and what cannot work refused or told.

What is not refused, and a person should know of, is told in sentences.
"""

import os
from dataclasses import replace

import numpy as np

from clipmill import catalog as catalogs
from clipmill import storage
from clipmill.catalog import Catalog
from clipmill.errors import PlanError
from clipmill.plan import shares, unfit
from clipmill.plan.epochs import Plan
from clipmill.plan.lacking import lacking
from clipmill.plan.visits import Sampling
from clipmill.recipe import Data, Recipe
from clipmill.takes import Stage

ROWS_IN_MEMORY = 2_000_000  # about what a catalog keeps of the groups that rows were read from


def catalog_of(data: Data) -> Catalog:
    """Open the datasets of a recipe, as one catalog."""
    opened = [(each, catalogs.load(each.path)) for each in data.datasets]
    whole = catalogs.joined(
        [made.part(where=each.where) if each.where else made for each, made in opened]
    )
    return whole.with_negatives(_negatives(data, whole))


def _negatives(data: Data, catalog: Catalog) -> str | None:
    if data.negatives is None:
        return None
    if storage.is_remote(data.negatives) or os.path.isabs(data.negatives):
        return data.negatives
    return storage.join(catalog.folders[0], data.negatives)


def make(recipe: Recipe, stage: Stage, catalog: Catalog | None = None) -> Plan:
    """Make the plan of one stage of a recipe, or refuse what cannot work."""
    whole = catalog or catalog_of(recipe.data)
    split = recipe.data.split_of(stage)
    part = whole.part(split=split, where=recipe.data.where)
    if not len(part):
        raise PlanError(
            f"the split {split!r} of {whole.folder} has no records"
            + (f" where {recipe.data.where}" if recipe.data.where else ""),
            "at least one",
            f"it has the splits {splits(whole)}",
        )
    check_rates(part)
    plugin = recipe.plugin()
    part, left_out = unfit.without_unfit(part, plugin, split)
    train = recipe.train
    sampling = _sampling(recipe.data, part) if stage == "train" else Sampling()
    if stage == "train" and recipe.data.share < 1:
        part = part.picked(shares.kept(part, recipe.data.share, train.seed, sampling))
    window = recipe.data.window
    plan = Plan(part, plugin, stage, train.seed, train.batch, window, sampling, left_out)
    if stage == "train":
        check_batch(plan)
        check_masks(plan)
        check_ranks(plan, train.workers)
    return plan


def of_all(recipe: Recipe, catalog: Catalog) -> Plan:
    """The plan that asks a model about every record of a catalog, whatever is known of them.

    Where a plugin compares records with one another, each is planned by itself: an answer must not
    depend on who is asked about beside it.
    """
    if not len(catalog):
        raise PlanError(f"no records of {catalog.folder} to ask about", "at least one")
    check_rates(catalog)
    plan = Plan(catalog, recipe.plugin(), "test", recipe.train.seed, recipe.train.batch)
    try:
        record = plan.epoch(0).record
    except PlanError:  # too few, or unlabelled, to be compared
        return replace(plan, alone=True)
    is_own = bool(((record == record[:, :1]) | (record < 0)).all())
    is_whole = len(np.unique(record[:, 0])) == len(catalog)
    return plan if is_own and is_whole else replace(plan, alone=True)


def _sampling(data: Data, catalog: Catalog) -> Sampling:
    easy = data.curriculum
    if data.weights and len(data.weights) != len(catalog.metas):
        raise PlanError(
            f"{len(data.weights)} weights for {catalog.folder}",
            "one for each dataset",
            "give the datasets as a list in data.path",
        )
    return Sampling(
        clips=data.clips,
        weights=data.weights,
        balance=data.balance,
        easy_by=easy.by if easy else None,
        easy_until=easy.until_epoch if easy else 0,
        easy_descending=bool(easy and easy.descending),
        aligned=data.aligned,
        negatives=catalogs.links_digest(catalog.beside) if catalog.beside else "",
    )


def splits(catalog: Catalog) -> dict[str, int]:
    """Records by split."""
    return {str(name): count for name, count in catalog.counts("split").items()}


def check_rates(catalog: Catalog) -> None:
    """Refuse records of which no time can be told: by their frame rates spans are as long as asked."""
    fps = catalog.column("fps").astype(float)
    odd = np.flatnonzero(~(np.isfinite(fps) & (fps > 0)))
    if len(odd):
        key = catalog.keys.picked(odd[:1])[0]
        raise PlanError(
            f"{len(odd)} of {len(catalog)} records of {catalog.folder} have no frame rate, such as"
            f" {key} with fps {fps[odd[0]]:g}",
            "a number of frames a second that is above 0",
            "ingest them again, or leave them out with data.where='fps > 0'",
        )


def check_batch(plan: Plan) -> None:
    """Refuse a batch that an epoch cannot fill."""
    if plan.batch > plan.takes_in_catalog:
        raise PlanError(
            f"train.batch is {plan.batch}, an epoch has {plan.takes_in_catalog} takes",
            "a batch no larger than an epoch",
            f"set train.batch={plan.takes_in_catalog} or less, or"
            f" data.clips={clips_that_fill(plan)} for several clips of each video",
        )


def clips_that_fill(plan: Plan) -> int:
    """How many clips of a video at a time fill a batch, where fewer videos than that are there."""
    return plan.sampling.clips * -(-plan.batch // max(1, plan.takes_in_catalog))


def check_masks(plan: Plan) -> None:
    """Refuse to learn from masks where no record has any."""
    views = plan.plugin.views()
    wanted = {stream for name in plan.at(0, 1).views for stream in views[name].streams}
    if wanted & {"mask", "instances"} and not plan.catalog.has("masks_sha256").any():
        raise PlanError(
            f"{plan.plugin.name} learns from masks, and none of the {len(plan.catalog)} records"
            f" of {plan.catalog.folder} has any",
            "records with masks",
            "ingest a table with the columns masks and mask_classes",
        )


def check_ranks(plan: Plan, ranks: int) -> None:
    """Refuse ranks that would have nothing to do in a batch."""
    if ranks > plan.batch:
        raise PlanError(
            f"train.workers is {ranks}, train.batch {plan.batch}",
            "at least one take of every batch for each worker",
            "raise train.batch or lower train.workers",
        )


# --- what the records do not have


def warnings(plan: Plan) -> list[str]:
    """Tell what the views ask for and the records lack, and what the feed does then."""
    # What learns without gradients takes the last takes in a short batch.
    dropped = (plan.takes_in_catalog - plan.takes_per_epoch) * plan.plugin.by_gradient
    told = [f"{dropped} takes of each epoch fill no batch and are left for the next order"]
    far = [
        f"the rows of {len(plan.catalog)} records do not stay in memory, and in random order each "
        "costs a read: set data.window=100000"
    ]
    is_far = plan.stage == "train" and not plan.window and len(plan.catalog) > ROWS_IN_MEMORY
    unused = [
        f"{count} videos are left out, which {plan.plugin.name} cannot use: {reason}"
        for reason, count in plan.left_out
    ]
    remarks = list(plan.plugin.remarks(plan.catalog))
    return unused + (told if dropped else []) + lacking(plan) + remarks + (far if is_far else [])
