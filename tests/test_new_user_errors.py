"""What a new user gets wrong, command by command: exit code 2, the named thing, its value and a fix."""

import shlex
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from embedded import write_joints
from indexed import random_vectors, write_file
from runs import TINY, CommandLine, noise_video, video_folder, write_index

from oskar.embedding.embed import EmbedConfig, embed
from oskar.searching.indexing import index


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What the commands of the table name: folders under ``root``, a finished run, its data, a port that is taken."""

    root: Path
    run: Path
    data: Path
    port: int

    def filled(self, text: str, new: Path) -> str:
        """``text`` with its places filled; ``new`` is an --out that is not there."""
        places = {"root": self.root, "run": self.run, "data": self.data, "port": self.port, "new": new}
        return text.format(**places, tiny=shlex.join(TINY))


def write_folders(root: Path) -> None:
    """Data with one fault each, and files that are something else than their place in a command wants."""
    (root / "empty").mkdir()
    (root / "full").mkdir()
    (root / "full/notes.txt").write_text("kept")
    video_folder(root / "plain", 2)
    noise_video(root / "lettered/v0.mkv")
    write_index(root / "lettered", [{"clip_id": "v0", "path": "v0.mkv", "lable": "a"}])
    noise_video(root / "lost/v0.mkv")
    write_index(root / "lost", [{"clip_id": "v0", "path": "v0.mkv"}, {"clip_id": "w", "path": "w.mkv"}])
    noise_video(root / "posed/v0.mkv")
    np.savez(root / "posed/v0.npz", joints2d=np.ones((1, 8, 17, 2), np.float32), layout=np.array("COCO17"))
    write_index(root / "posed", [{"clip_id": "v0", "path": "v0.mkv", "joints_path": "v0.npz"}])
    write_joints(root / "joints.npz")
    (root / "notes.txt").write_text("no config")
    (root / "cut.mkv").write_bytes((root / "plain/v0.mkv").read_bytes()[:200])
    write_file(root / "made.safetensors", random_vectors(3))
    write_file(root / "of_another.safetensors", random_vectors(3), model_sha256="d" * 64)
    write_file(root / "common.safetensors", random_vectors(3), head_sha256="c" * 64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mixed_run: Path, mixed_data: Path) -> Iterator[Made]:
    """The folders, a run of two steps, one that was stopped before its end, and the index of each kind."""
    root = tmp_path_factory.mktemp("new_user")
    write_folders(root)
    embed(mixed_run, [mixed_data], root / "videos.safetensors", EmbedConfig(workers=0, device="cpu"))
    for name, database in (("videos", "db"), ("made", "db_of_another"), ("common", "db_common")):
        index([root / f"{name}.safetensors"], root / database)
    (root / "unfinished").mkdir()
    shutil.copy(mixed_run / "config.json", root / "unfinished")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield Made(root=root, run=mixed_run, data=mixed_data, port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        # check
        ("check {root}/absent", ("data {root}/absent", "does not exist")),
        ("check {root}/empty", ("{root}/empty", "no index.csv")),
        ("check {root}/lettered --out {root}/audit_lettered", ("data {root}/lettered: 1 errors", "repair the files")),
        ("check {root}/posed --workers 1 --out {root}/audit_posed", ("posed", "layout", "'COCO17'", "COCO-17")),
        ("check {root}/plain --tokenizer {root}/absent.json --workers 1", ("absent.json",)),
        ("check {root}/plain --split-column fold", ("'fold'",)),
        # prepare
        ("prepare {root}/plain", ("needs a folder of videos and --out",)),
        ("prepare {root}/absent --out {new}", ("{root}/absent",)),
        ("prepare {root}/empty --out {new}", ("{root}/empty",)),
        ("prepare {root}/plain --out {new} --poses {root}/absent", ("{root}/absent",)),
        ("prepare {root}/plain --out {new} --pose-model {root}/absent.onnx", ("--pose-convention None", "yolo-pose")),
        ("prepare {root}/plain --out {new} --engine spark", ("engine", "'spark'")),
        ("prepare {root}/plain --out {new} pose.conf=1", ("unknown key 'pose.conf'",)),
        # pretrain
        ("pretrain oskar-tinny --data {data} --out {new}", ("unknown recipe 'oskar-tinny'", "oskar-tiny")),
        ("pretrain oskar-tiny --data {root}/absent --out {new} {tiny}", ("data {root}/absent",)),
        ("pretrain oskar-tiny --data {root}/empty --out {new} {tiny}", ("{root}/empty", "no index.csv")),
        ("pretrain oskar-tiny --data {root}/lost --out {new} {tiny}", ("index.csv line 3", "w.mkv")),
        ("pretrain oskar-tiny --data {data} --out {new} {tiny} train.step=3", ("'train.step'", "train.steps")),
        ("pretrain oskar-tiny --data {data} --out {new} {tiny} train.lr=quick", ("train.lr", "'quick'")),
        ("pretrain oskar-tiny --data {data} --out {new} {tiny} train.device=gpu", ("train.device", "'gpu'")),
        ("pretrain oskar-tiny --data {data} --out {run} {tiny}", ("{run}", "holds a run already")),
        ("pretrain oskar-tiny --data {data} --out {root}/notes.txt {tiny}", ("{root}/notes.txt", "is a file")),
        ("pretrain oskar-tiny --out {new} {tiny}", ("--data",)),
        (
            "pretrain oskar-tiny --data {root}/plain --out {new} {tiny} 'tokens.modalities=[\"skeleton\"]'",
            ("plain", "skeleton"),
        ),
        # plan
        ("plan oskar-hugest", ("unknown recipe 'oskar-hugest'", "`oskar recipes` lists all")),
        ("plan oskar-tiny --config {root}/absent.json", ("absent.json",)),
        ("plan --config {root}/absent.json", ("absent.json", "does not exist")),
        ("plan oskar-tiny model.widht=64", ("'model.widht'", "model.width")),
        ("plan oskar-tiny --devices 3 {tiny}", ("--devices 3", "train.batch_size=4")),
        # tokenize
        ("tokenize {root}/absent --out {new}", ("{root}/absent", "does not exist")),
        ("tokenize {root}/plain --out {root}/notes.txt", ("--out {root}/notes.txt is a file",)),
        ("tokenize {root}/plain --out {new} --tokenizer {root}/absent", ("--tokenizer {root}/absent",)),
        ("tokenize {root}/plain --out {new} --recipe small", ("'small'", "oskar-small")),
        ("tokenize {root}/plain --out {new} --views 0", ("views", "0")),
        ("tokenize {root}/plain --out {new} token.resolution=32", ("'token.resolution'", "tokens.resolution")),
        # evaluate
        ("evaluate {run} --data {root}/plain", ("data {root}/plain", "no clip of split 'train'", "column split")),
        ("evaluate {root}/absent --data {data}", ("{root}/absent",)),
        ("evaluate {root}/unfinished --data {data}", ("{root}/unfinished",)),
        ("evaluate {run} --data {data} --task recognise", ("'recognise'", "action-recognition")),
        ("evaluate {run} --data {data} --modality audio", ("--modality 'audio'", "video or skeleton")),
        ("evaluate {run} --data {data} --protocol linear", ("--protocol 'linear'", "frozen or finetune")),
        ("evaluate {run} --data {data} step=3", ("'step'", "steps")),
        ("evaluate {run}", ("--data",)),
        # embed
        ("embed {root}/absent {data} --out {root}/e.safetensors", ("{root}/absent is not a folder",)),
        ("embed {root}/unfinished {data} --out {root}/e.safetensors", ("{root}/unfinished",)),
        ("embed {run} {data} --out {root}/e.csv", ("e.csv", ".safetensors or .parquet", "e.safetensors")),
        ("embed {run} {root}/absent.mkv --out {root}/e.safetensors", ("{root}/absent.mkv",)),
        ("embed {run} --out {root}/e.safetensors", ("nothing",)),
        ("embed {run} {data} --modality audio --out {root}/e.safetensors", ("modality", "'audio'")),
        ("embed {run} {data} --pool max --out {root}/e.safetensors", ("pool", "'max'")),
        ("embed {run} {root}/plain --modality skeleton --out {root}/e.safetensors", ("skeleton",)),
        ("embed {run} {root}/plain --modality text --out {root}/e.safetensors", ("text",)),
        ("embed {run} {data} --split validation --out {root}/e.safetensors", ("'validation'",)),
        ("embed {run} {data} --head {root}/absent --out {root}/e.safetensors", ("{root}/absent",)),
        ("embed {run} {data} --windows slide --out {root}/e.safetensors", ("--windows", "'slide'")),
        # index
        ("index {root}/absent.safetensors --out {new}", ("{root}/absent.safetensors is not a file",)),
        ("index {root}/notes.txt --out {new}", ("notes.txt",)),
        ("index {root}/made.safetensors --out {root}/db", ("--out {root}/db holds an index already", "--replace")),
        ("index {root}/made.safetensors --out {root}/full", ("--out {root}/full", "other files")),
        ("index {root}/made.safetensors --out {root}/notes.txt", ("--out {root}/notes.txt is a file",)),
        ("index {root}/made.safetensors {root}/of_another.safetensors --out {new}", ("a" * 64, "d" * 64)),
        ("index {root}/made.safetensors --out {new} --recall 95", ("--recall 95",)),
        # search
        ("search {root}/absent --text walks", ("{root}/absent holds no index", "oskar index")),
        ("search {root}/db", ("nothing to look for", "--text")),
        ("search {root}/db --text walks --run {run}", ("{root}/db", "without a retrieval head")),
        ("search {root}/db_common --text walks", ("needs the run", "--run RUN")),
        ("search {root}/db_of_another --clip {data}/videos/c0.mkv --run {run}", ("db_of_another", "a" * 64)),
        ("search {root}/db --clip {root}/absent.mkv --run {run}", ("{root}/absent.mkv is not a file",)),
        ("search {root}/db --clip {root}/cut.mkv --run {run}", ("{root}/cut.mkv",)),
        ("search {root}/db --skeleton {root}/joints.npz --run {run}", ("{root}/db", "video", "skeleton")),
        ("search {root}/db --like nobody", ("--like 'nobody'", "clip_id")),
        ("search {root}/db_of_another --captions walks", ("db_of_another", "no clip has a caption")),
        ("search {root}/db --captions walks lable=kick", ("'lable'", "label")),
        ("search {root}/db --captions walks label", ("'label' is not column=value", "label=kick")),
        ("search {root}/db --captions walks --where 'label is kick'", ("--where", "label is kick")),
        ("search {root}/db --captions walks --top 0", ("--top 0",)),
        # serve
        ("serve {root}/db --videos {data} --port {port}", ("--port {port}", "is taken", "--port 0")),
        ("serve {root}/db --videos {data} --port 99999", ("--port 99999",)),
        ("serve {root}/absent --videos {data}", ("{root}/absent holds no index",)),
        ("serve {root}/db --videos {root}/absent --port 0", ("{root}/absent",)),
        ("serve {root}/db_of_another --videos {data} --run {run} --port 0", ("db_of_another", "a" * 64)),
        # report
        ("report {root}/empty", ("{root}/empty holds no run", "oskar pretrain")),
        ("report {run} --out {root}/full", ("--out {root}/full cannot be a file",)),
        ("report {run} {run} --out {root}/two.html", ("one run twice",)),
        # compare
        ("compare --out {new} --data {data} --budget-samples 8", ("nothing to compare",)),
        ("compare oskar-tiny --out {new} --data {data} --seeds a,b --budget-samples 8", ("--seeds 'a,b'",)),
        # export
        ("export {root}/absent --out {new}", ("{root}/absent is not a folder",)),
        ("export {root}/absent --out {new} --to tflite", ("--to 'tflite'", "onnx or torch")),
    ],
)  # fmt: skip
def test_a_wrong_command_says_what_to_do(
    words: str, named: tuple[str, ...], made: Made, oskar: CommandLine, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    code, printed = oskar(*shlex.split(made.filled(words, new)))
    assert code == 2, printed
    for part in (*(made.filled(part, new) for part in named), "Fix: "):
        assert part in printed
    assert "Traceback" not in printed
