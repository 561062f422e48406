"""The models of a run: base, and base with the compression of an arm."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.compress.spec import Arm, Checkpoint
from anomia.items import ItemSet
from anomia.models import LoadedModel, load_model
from anomia.models.fingerprint import architecture
from anomia.probe.select import ChosenEngine, choose_engine
from anomia.run.compress import compress_arm
from anomia.run.folder import RunFolder, Shard
from anomia.run.progress import Progress
from anomia.study import Study


def load(study: Study, name: str, progress: Progress) -> LoadedModel:
    """Loads base or a checkpoint as the study says."""
    progress.stage(f"loading {name}", 1)
    loaded = load_model(
        name,
        dtype=study.dtype,
        device=study.device,
        revision=study.revision if name == study.base else None,
        trust_remote_code=study.trust_remote_code,
        chat=study.chat,
    )
    progress.advance()
    return loaded


def load_arm(
    study: Study,
    arm: Arm,
    item_sets: Sequence[ItemSet],
    folder: RunFolder,
    progress: Progress,
) -> LoadedModel:
    """Base (or the arm's own checkpoint) with the arm's compression applied in place."""
    steps = arm.steps
    first = steps[0]
    name = first.model if isinstance(first, Checkpoint) else study.base
    loaded = load(study, name, progress)
    rest = steps[1:] if isinstance(first, Checkpoint) else steps
    if rest:
        passages = [item.question.context for items in item_sets for item in items.items]
        report = compress_arm(loaded, rest, study, [s.language for s in item_sets], passages, progress)
        whole = Shard(arm.name, study.data, "-".join(s.language for s in item_sets), 0, 0)
        name = whole.file_name.removesuffix(".parquet")
        folder.note(f"compression/{name}.json", {"arm": arm.name, **report})
    return loaded


def engine_for(study: Study, folder: RunFolder | None, loaded: LoadedModel) -> ChosenEngine:
    """The engine of base for all models of its architecture, else one of the model's own."""
    if folder is not None and folder.provenance["architecture"] == architecture(loaded.model):
        return choose_engine(loaded.model, folder.provenance["engine"], tried=True)
    return choose_engine(loaded.model, study.engine)
