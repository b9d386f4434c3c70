"""Ingest: a heap of video in; verified shards, a catalog and a ledger of what was not taken out.

Ray Data carries the work: `from_items(...).map(...)`, each row a few sources or one shard. The
catalog comes after all shards; a fresh dataset's mark, `dataset.json`, comes last. What is there
already and has not changed is neither read nor written again.
"""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from clipmill import catalog as catalogs
from clipmill import cluster, storage
from clipmill.errors import DataError, SourceError, StorageError
from clipmill.ingest import arrange, examine, layouts, masks, place, sources, spans, state
from clipmill.ingest.arrange import Part, Sorted
from clipmill.ingest.change import Change
from clipmill.ingest.change import change as changes
from clipmill.ingest.examine import Examined
from clipmill.ingest.forget import forget
from clipmill.ingest.options import MEASURES, Options, revived_options, with_filter_measures
from clipmill.ingest.state import Outcome, Row, State
from clipmill.ingest.verify import verify
from clipmill.ingest.write import RECEIPTS, receipt_rows, shared, write_shard

__all__ = ["MEASURES", "Options", "forget", "run", "verify"]

Progress = Callable[[str, int, int], None]  # what, done, total
EXAMINE_ROWS, MOST_EXAMINE_TASKS = 32, 2000


def run(
    source: str, out: str, options: Options | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Bring `out` to hold all videos of a source, and tell what became of each."""
    started = time.monotonic()
    options = with_filter_measures(options or Options())
    out = storage.absolute(out)
    listing = layouts.read(
        source, options.layout, options=layouts.Options(options.columns, options.fold)
    )
    place.check(out)
    tell = progress or (lambda what, done, total: None)
    with place.holding(out), contextlib.ExitStack() as ray:  # Ray ends first: then nobody writes
        done = _Ingest(out, storage.absolute(source), options, tell, ray).run(listing)
    return {**done, "seconds": time.monotonic() - started}


@dataclass
class _Ingest:
    """One ingest under way."""

    out: str
    root: str
    options: Options
    tell: Progress
    ray: contextlib.ExitStack

    def run(self, listing: layouts.Listing) -> dict[str, Any]:
        """Examine, arrange, write what is missing, and commit."""
        found = state.read(self.out)
        self._check_same(found)
        looked = self._examined(sources.told_apart(listing.sources), found)
        sides = arrange.sort_out(_remembering(each, found) for each in looked)
        parts = self._parts(sides)
        known = {part.key: fault for part in parts if (fault := found.fault(part))}
        wanted = [part for part in parts if part.key not in known]
        change = changes(wanted, found)
        self._refuse_loss(change, found)
        made, faults = self._written(change)
        faults |= known
        rows = {**change.kept, **made}
        if not rows:
            self._leave_nothing()
            raise _none_taken(len(listing.sources), sides, faults)
        outcome = _outcome(sides, parts, faults)
        names = {each.source.name: each for each in looked}
        return self._commit(listing, outcome, rows, change, found, names)

    def _parts(self, sides: Sorted) -> list[Part]:
        parts = arrange.parts_of(sides.taken, self.options)
        profile = self.options.profile
        return arrange.with_splits(arrange.selected(parts, self.options.where, profile))

    def _check_same(self, found: State) -> None:
        if "features" in found.meta:
            raise DataError(f"{self.out} holds features", "videos", "choose another --out")
        if found.meta and found.meta["profile"] != asdict(self.options.profile):
            raise DataError(
                f"{self.out} was written with the profile {found.meta['profile']}",
                f"the profile {asdict(self.options.profile)}",
                "choose another --out",
            )

    def _refuse_loss(self, change: Change, found: State) -> None:
        """Records only leave a dataset whose own source has lost them."""
        if change.leaving and found.meta["source"] != self.root:
            storage.remove_folder(storage.join(self.out, RECEIPTS))
            raise DataError(
                f"{self.out} holds {len(change.leaving)} records of {found.meta['source']}",
                f"a dataset of {self.root} alone",
                "choose another --out",
            )

    def _use_ray(self) -> None:
        self.ray.enter_context(cluster.session())
        cluster.quiet_data()

    def _examined(self, listed: Sequence[sources.Source], found: State) -> list[Examined]:
        look = state.look_of(self.options)
        notebook = state.Notebook(self.out, look)
        noted = notebook.read()
        done: list[Examined] = []
        missing: list[sources.Source] = []
        for source in listed:
            told = found.known(source, look) or _still_true(noted.get(source.name), source)
            if source.left_out:
                done.append(Examined(source))
            elif told is not None:
                done.append(told)
            else:
                missing.append(source)
        before = len(done)
        for some in self._looked_at(missing):
            notebook.note(some)
            done += some
            self.tell("looking at videos", len(done) - before, len(missing))
        return sorted(done, key=lambda each: each.source.name)

    def _looked_at(self, missing: Sequence[sources.Source]) -> Iterator[list[Examined]]:
        if not missing:
            return
        self._use_ray()
        import ray.data

        step = max(EXAMINE_ROWS, len(missing) // MOST_EXAMINE_TASKS)
        if len(missing) < step * cluster.cpus():  # a few large files are spread, too
            step = max(1, len(missing) // (4 * cluster.cpus()))
        rows = [
            {"part": json.dumps([asdict(each) for each in missing[at : at + step]])}
            for at in range(0, len(missing), step)
        ]
        asked = self.options.travelling()

        def look(row: dict[str, Any]) -> dict[str, Any]:
            options = revived_options(asked)
            each = [examine.examine(sources.revived(s), options) for s in json.loads(row["part"])]
            return {"found": json.dumps([one.plain() for one in each])}

        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(look)
        for row in dataset.iter_rows():
            yield [examine.revived(each) for each in json.loads(row["found"])]

    def _written(self, change: Change) -> tuple[dict[str, Row], dict[str, Row]]:
        """Write the shards that are missing; rows by key, and ledger rows of what failed."""
        plan = arrange.shard_plan(change.parts, self.options.profile, change.first)
        if not plan:
            return {}, {}
        storage.put_json(storage.join(self.out, RECEIPTS, "begun.json"), {"source": self.root})
        self._use_ray()
        rows = self._write_shards(plan, change)
        parts = {part.key: part for part in change.parts}  # receipts may be of an earlier run
        good: dict[str, Row] = {}
        bad: dict[str, Row] = {}
        for row in rows:
            if row["members"]:
                good[row["key"]] = {**row, **parts[row["key"]].row}
            else:
                bad[row["key"]] = {name: row.get(name) for name in state.LEDGER_SCHEMA.names}
        return good, bad

    def _write_shards(self, plan: list[dict[str, Any]], change: Change) -> Iterator[Row]:
        """Write all shards of the plan; then give the rows of their receipts, one by one."""
        import ray.data

        total = len(change.parts)
        # Each shard under way is a process, and keeps some 64 pieces busy: a few will do.
        at_once = min(len(plan), 2 + cluster.cpus() // 16)
        common = shared(self.out, self.options, cluster.cpus())
        rows = [
            {"row": json.dumps({**_travelling(shard, change.copied), **common})} for shard in plan
        ]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        written = dataset.flat_map(
            lambda row: write_shard(json.loads(row["row"])),
            num_cpus=0,  # it waits for its pieces; they hold the CPUs
            compute=ray.data.TaskPoolStrategy(size=at_once),
        )
        written.context.target_max_block_size = 1  # each row is told at once, as progress
        done = 0
        for told in written.iter_rows():
            _raise_fault(told["fault"])
            self.tell("writing shards", done := done + told["done"], total)
        return (row for shard in plan for row in receipt_rows(self.out, shard["name"]))

    def _commit(
        self,
        listing: layouts.Listing,
        outcome: Outcome,
        rows: dict[str, Row],
        change: Change,
        found: State,
        looked: dict[str, Examined],
    ) -> dict[str, Any]:
        """Write ledger, memory and catalog, in this order; then remove what is no longer needed."""
        look = state.look_of(self.options)
        memory = state.sources_table(outcome, found, look, looked)
        table = catalogs.with_digests(_table(rows))
        counts = {
            "sources": len(listing.sources),
            **outcome.counts(),
            "records": len(table),
            "shards": len({row["shard"] for row in rows.values()}),
            "bytes": sum(m["length"] for row in rows.values() for m in row["members"]),
            "warnings": [*listing.warnings, *_warnings(outcome)],
        }
        meta = {
            "profile": asdict(self.options.profile), "classes": _classes(rows.values()),
            "source": self.root, "options": _options(self.options), "counts": counts,
            **_mask_classes(listing.sources),
        }  # fmt: skip
        failed = sum(part.key not in rows for part in change.parts)
        same = (
            not change.parts
            and not change.leaving
            and _unchanged(found, meta, memory, catalogs.digest_of(table))
        )
        if not same:
            state.commit(found, state.ledger_table(outcome.ledger), memory, table, meta)
        self._clean({row["shard"] for row in rows.values()})
        return {**counts, **change.told(failed), "nothing_to_do": same}

    def _clean(self, names: set[str]) -> None:
        """Remove shards that no record is in, and all that only a broken-off ingest needs."""
        place.remove_strays(self.out, names)
        storage.remove_folder(storage.join(self.out, RECEIPTS))

    def _leave_nothing(self) -> None:
        storage.remove_folder(storage.join(self.out, RECEIPTS))
        if not storage.exists(storage.join(self.out, "dataset.json")):
            self._clean(set())


def _travelling(shard: dict[str, Any], copied: dict[str, Row]) -> dict[str, Any]:
    parts = [json.dumps(part.plain()) for part in shard["parts"]]  # as text they are small
    olds = {part.key: _plain_row(copied[part.key]) for part in shard["parts"] if part.key in copied}
    return {"name": shard["name"], "parts": parts, "olds": olds}


def _plain_row(row: Row) -> Row:
    return {**row, "attributes": dict(row["attributes"] or ())}


def _still_true(noted: Examined | None, source: sources.Source) -> Examined | None:
    """What an interrupted ingest noted, if the file is still that file."""
    if noted is None or noted.stage in state.PASSING_STAGES:
        return None
    try:
        unchanged = masks.is_unchanged(source, noted.source, noted.stamp)
        return replace(noted, source=source) if unchanged else None
    except StorageError:
        return None


def _remembering(each: Examined, found: State) -> Examined:
    """A source without what was forgotten of it; quarantined where nothing else is left."""
    left = tuple(piece for piece in each.pieces if not found.is_forgotten(each.sha256, piece))
    if each.pieces and not left:
        return replace(each, stage="forgotten", reason=state.FORGOTTEN_REASON)
    return replace(each, pieces=left)


def _outcome(sides: Sorted, parts: Sequence[Part], faults: dict[str, Row]) -> Outcome:
    good: dict[str, list[Part]] = defaultdict(list)
    bad: dict[str, dict[str, Row]] = defaultdict(dict)
    for part in parts:
        if part.key in faults:
            bad[part.source.name][part.key] = {**faults[part.key], **part.place}
        else:
            good[part.source.name].append(part)
    marks = {part.key: part.marks for part in parts if part.key in faults}
    return Outcome(sides, dict(good), dict(bad), marks)


def _table(rows: dict[str, Row]) -> pa.Table:
    ordered = sorted(rows.values(), key=lambda row: (row["shard"], row["members"][0]["offset"]))
    # The digest of a row may be that of the row before its change.
    plain = (
        {name: row.get(name) for name in catalogs.SCHEMA.names} | {"record_digest": None}
        for row in ordered
    )
    return state.table_of(plain, catalogs.SCHEMA)


def _classes(rows: Any) -> list[str]:
    """All class names, sorted: of videos, and of parts of them."""
    names: set[str] = set()
    for row in rows:
        names |= {row["label"], *(row["labels"] or ())} - {None}
        names |= {span["label"] for span in row["spans"] or ()}
    return sorted(names)


def _mask_classes(listed: Sequence[sources.Source]) -> dict[str, list[str]]:
    """What the numbers in masks are called, where there are masks."""
    names = next((each.mask_classes for each in listed if each.masks is not None), ())
    return {"mask_classes": list(names)} if names else {}


def _options(options: Options) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(options.plain()))
    return told


def _unchanged(found: State, meta: dict[str, Any], memory: pa.Table, digest: str) -> bool:
    told = {name: found.meta.get(name) for name in meta}
    if told != meta or found.meta.get("digest") != digest:
        return False
    return bool(memory.to_pylist() == list(found.sources.values()))


def _warnings(outcome: Outcome) -> list[str]:
    unsplit = sum(each.source.split is None for each in outcome.sides.taken)
    crossed = sum(o.source.split != kept.source.split for o, kept in outcome.sides.duplicates)
    lost = outcome.counts()["quarantined"]
    parts = sum(len(faults) for name, faults in outcome.faults.items() if name in outcome.good)
    taken = [(each.source.spans, each.facts) for each in outcome.sides.taken if each.source.spans]
    over = sum(spans.beyond(each, facts["duration_seconds"]) for each, facts in taken)
    crossing = sum(spans.overlapping(each) for each, _ in taken)
    told = [
        (unsplit, f"{unsplit} videos state no split: 80/10/10 by content within each class"),
        (crossed, f"{crossed} videos are in another split too: kept in test, val, train in turn"),
        (lost, f"{lost} videos were not taken: quarantine.parquet tells why"),
        (parts, f"{parts} parts of videos were not taken: quarantine.parquet tells why"),
        (over, f"{over} spans reach beyond their videos: they are cut there, or left out"),
        (crossing, f"{crossing} spans overlap others: a frame has the class that began last"),
    ]
    return [text for count, text in told if count > 0]


def _none_taken(count: int, sides: Sorted, faults: dict[str, Row]) -> SourceError:
    reasons = [*(each.reason for each in sides.quarantined), *(f["reason"] for f in faults.values())]  # fmt: skip
    why = reasons[0] if reasons else "the filter leaves none"
    return SourceError(f"none of {count} videos could be taken: {why}", "at least one that can")


def _raise_fault(fault: str) -> None:
    if fault:
        kind, *words = json.loads(fault)
        raise (StorageError if kind == "store" else DataError)(*words)
