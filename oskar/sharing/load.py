"""One door to a run's encoders, in whatever form they are kept."""

from pathlib import Path

from oskar.errors import InputError
from oskar.sharing.pretrained import Pretrained, is_sealed_checkpoint, pretrained_checkpoint, pretrained_run
from oskar.sharing.saved import from_pretrained, is_saved_folder


def load_pretrained(path: Path | str) -> Pretrained:
    """The encoders of a run folder, of its ``encoder`` folder, of a checkpoint, or of a folder of ``save_pretrained``.

    Raises:
        InputError: nothing of the kind there, damaged, a pickle, or not fitting its own configuration.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"run {folder} is not a folder", fix="name the folder of a pretraining run that has ended")
    if is_sealed_checkpoint(folder):
        return pretrained_checkpoint(folder)
    if is_saved_folder(folder):
        return from_pretrained(folder)
    return pretrained_run(folder)
