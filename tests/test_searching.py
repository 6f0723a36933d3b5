"""An index and its answers against sums of cosines in float64; filters, words, and every error a person can make."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from indexed import HEAD, MODEL, FakeEncoder, header, random_vectors, write_file
from numpy.typing import NDArray
from runs import CommandLine, forked
from torch import Tensor

from oskar.embedding.file import EmbeddingRow, Embeddings, write_embeddings
from oskar.errors import InputError, StoppedRunError
from oskar.searching import database as database_module
from oskar.searching.clips import Filters
from oskar.searching.database import open_database
from oskar.searching.indexing import IndexConfig, index
from oskar.searching.queries import Question
from oskar.searching.search import Searcher, search

ROWS: list[dict[str, Any]] = [
    {"label": "kick", "label_id": 0, "subject": "1", "caption": "a person kicks the ball", "fps": 25.0},
    {"label": "wave", "label_id": 1, "subject": "2", "caption": "she waves slowly", "fps": 30.0},
    {"label": "kick", "label_id": 0, "subject": "2", "metadata": {"Camera": "left", "note": "it's \"odd\""}},
    {"label": "o'clock", "label_id": 2, "caption": "waving and kicking", "start_seconds": 1.0, "end_seconds": 2.5},
]  # fmt: skip


def cosines(vectors: Tensor, query: Tensor) -> NDArray[np.float64]:
    v, q = vectors.double().numpy(), query.double().numpy()
    return np.asarray(v @ q / np.linalg.norm(v, axis=1) / np.linalg.norm(q))


@pytest.fixture
def vectors() -> Tensor:
    return random_vectors(4)


@pytest.fixture
def db(vectors: Tensor, tmp_path: Path) -> Path:
    index([write_file(tmp_path / "e.safetensors", vectors, ROWS)], tmp_path / "db")
    return tmp_path / "db"


def test_a_stored_clip_finds_the_others_by_their_cosines(db: Path, vectors: Tensor) -> None:
    found = search(db, like=["c1"])
    wanted = cosines(vectors, vectors[1])
    order = [row for row in np.argsort(-wanted).tolist() if row != 1]
    assert [hit.row for hit in found.hits] == order
    assert [hit.similarity for hit in found.hits] == pytest.approx([wanted[row] for row in order], abs=1e-6)
    assert (found.n_searched, found.recall) == (4, 1.0)
    values = next(hit.values for hit in found.hits if hit.row == 2)
    assert (values["clip_id"], values["camera"], values["note"], values["caption"]) == (
        "c2",
        "left",
        'it\'s "odd"',
        None,
    )
    shown = found.hits[0].to_json()
    assert shown["row"] == order[0]
    assert None not in shown.values()


def test_queries_are_summed_by_the_weights_of_their_kinds(tmp_path: Path) -> None:
    """Video through a head, so that sentences share its space, and skeletons in a space of their own."""
    video, skeleton = random_vectors(5, 6, seed=1), random_vectors(3, 4, seed=2)
    files = [
        write_file(tmp_path / "v.safetensors", video, head_sha256=HEAD),
        write_file(
            tmp_path / "s.safetensors", skeleton, [{"clip_id": f"c{i}"} for i in (4, 0, 9)], modality="skeleton"
        ),
    ]
    card = index(files, tmp_path / "db")
    assert card.n_rows == 6
    assert [(space.name, space.n_rows) for space in card.spaces] == [("common", 5), ("skeleton", 3)]
    asked = {"run": random_vectors(1, 6, 3)[0], "jump": random_vectors(1, 6, 4)[0], "q.mp4": random_vectors(1, 6, 5)[0]}
    asked["q.npz"] = random_vectors(1, 4, 6)[0]
    question = Question(
        texts=("run", "jump"), clips=(Path("q.mp4"),), skeletons=(Path("q.npz"),),
        text_weight=0.5, clip_weight=2.0, skeleton_weight=1.5,
    )  # fmt: skip
    with open_database(tmp_path / "db") as opened:
        found = Searcher(opened, FakeEncoder(asked)).search(question)
    scores = np.zeros(6)
    scores[:5] += 0.5 * cosines(video, asked["run"]) + 0.5 * cosines(video, asked["jump"])
    scores[:5] += 2.0 * cosines(video, asked["q.mp4"])
    scores[[4, 0, 5]] += 1.5 * cosines(skeleton, asked["q.npz"])
    scores /= 0.5 + 0.5 + 2.0 + 1.5
    assert [hit.row for hit in found.hits] == np.argsort(-scores).tolist()
    assert [hit.similarity for hit in found.hits] == pytest.approx(np.sort(scores)[::-1].tolist(), abs=1e-6)
    assert {hit.row: hit.values["clip_id"] for hit in found.hits}[5] == "c9"


def test_windows_of_a_clip_are_rows_and_like_takes_them_all(tmp_path: Path) -> None:
    vectors = random_vectors(4, seed=8)
    rows: list[dict[str, Any]] = [
        {"clip_id": "a", "window": 0},
        {"clip_id": "a", "window": 1},
        {"clip_id": "b"},
        {"clip_id": "d"},
    ]
    index([write_file(tmp_path / "e.safetensors", vectors, rows)], tmp_path / "db")
    found = search(tmp_path / "db", like=["a"])
    wanted = (cosines(vectors, vectors[0]) + cosines(vectors, vectors[1])) / 2
    assert {hit.row: pytest.approx(hit.similarity, abs=1e-6) for hit in found.hits} == {2: wanted[2], 3: wanted[3]}


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (Filters(equal=(("label", "kick"),)), [0, 2]),
        (Filters(equal=(("label", "kick"), ("subject", "2"))), [2]),
        (Filters(equal=(("label_id", "1"),)), [1]),
        (Filters(equal=(("fps", "25"),)), [0]),
        (Filters(equal=(("label", "o'clock"),)), [3]),
        (Filters(equal=(("camera", "left"),)), [2]),
        (Filters(where="label = 'kick' OR fps > 26"), [0, 1, 2]),
        (Filters(where="label = 'kick' -- a comment", equal=(("subject", "1"),)), [0]),
        (Filters(where="end_seconds - start_seconds > 1"), [3]),
        (Filters(equal=(("label", "none of them"),)), []),
        (Filters(), [0, 1, 2, 3]),
    ],
)
def test_filters(db: Path, filters: Filters, wanted: list[int]) -> None:
    with open_database(db) as opened:
        assert opened.clips.allowed(filters) == wanted
        found = Searcher(opened, FakeEncoder({"q.mp4": torch.ones(6)})).search(
            Question(clips=(Path("q.mp4"),)), filters
        )
    assert sorted(hit.row for hit in found.hits) == wanted
    assert found.n_searched == len(wanted)


def test_a_condition_can_change_nothing(db: Path) -> None:
    before = {path.name: path.read_bytes() for path in db.iterdir()}
    for where in ("1); DROP TABLE clips; --", "1) UNION SELECT 1; DELETE FROM clips --", "load_extension('x')", ""):
        with pytest.raises(InputError, match="is no condition on the clips"):
            search(db, like=["c0"], filters=Filters(where=where))
    assert {path.name: path.read_bytes() for path in db.iterdir()} == before


def test_words_of_captions(db: Path) -> None:
    """Endings are ignored; rare words count more; what holds none of them is not found."""
    assert [hit.row for hit in search(db, captions="wave").hits] == [1, 3]
    assert [hit.row for hit in search(db, captions="ball, kicked!").hits] == [0, 3]
    assert [hit.row for hit in search(db, captions='"ball" OR NEAR(', n_top=1).hits] == [0]
    assert search(db, captions="kick", filters=Filters(equal=(("label", "o'clock"),))).hits[0].row == 3
    assert search(db, captions="kick wave").hits[0].row == 3  # the only one with both
    assert search(db, captions="elephant").hits == ()


def test_lists_are_kept_and_their_recall_is_said(tmp_path: Path) -> None:
    vectors = random_vectors(600, seed=3)
    path = write_file(tmp_path / "e.safetensors", vectors)
    card = index([path], tmp_path / "db", IndexConfig(approximate_above=599, recall=0.8))
    space = card.spaces[0]
    assert (space.n_lists, space.n_queries) == (24, 128)
    assert f"{space.n_probes} of 24 lists" in space.how
    found = search(tmp_path / "db", like=["c5"])
    assert found.recall == space.recall
    exact = search(tmp_path / "db", like=["c5"], is_exact=True)
    assert exact.recall == 1.0
    wanted = cosines(vectors, vectors[5])
    assert [hit.row for hit in exact.hits] == np.argsort(-wanted)[1:11].tolist()
    assert index([path], tmp_path / "exact", IndexConfig(approximate_above=600)).spaces[0].n_lists == 0


def test_writing_again_needs_leave_and_removes_what_was(db: Path, tmp_path: Path) -> None:
    other = write_file(tmp_path / "o.safetensors", random_vectors(2, seed=9))
    with pytest.raises(InputError, match=r"holds an index already.*--replace"):
        index([other], db)
    index([other], db, replace=True)
    assert search(db, like=["c0"]).n_searched == 2
    assert sorted(path.name.split("-")[0] for path in db.iterdir()) == ["clips", "index.json", "vectors"]


def test_a_failed_write_leaves_the_old_index(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_file(tmp_path / "o.safetensors", random_vectors(2, seed=9))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database_module, "save_file", full)
    with pytest.raises(StoppedRunError, match="No space left"):
        index([other], db, replace=True)
    assert search(db, like=["c0"]).n_searched == 4
    assert not list(db.glob(".tmp-*"))


def test_a_killed_writer_leaves_one_of_two_indexes(tmp_path: Path) -> None:
    files = [write_file(tmp_path / f"{n}.safetensors", random_vectors(n, 64, seed=n)) for n in (300, 500)]
    index([files[0]], tmp_path / "db")

    def write_forever() -> None:
        while True:
            for file in files:
                index([file], tmp_path / "db", replace=True)

    for attempt in range(6):
        child = forked(write_forever, tmp_path / "log")
        time.sleep(0.15 + 0.05 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open_database(tmp_path / "db") as opened:
            assert opened.card.n_rows in (300, 500)
            assert len(opened.clips.allowed(Filters())) == len(opened.spaces["video"].vectors) == opened.card.n_rows
    index([files[1]], tmp_path / "db", replace=True)
    assert len(names := sorted(path.name for path in (tmp_path / "db").iterdir())) == 3, names


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    def made(name: str, rows: list[dict[str, Any]] | None = None, n: int = 2, width: int = 6, **changed: Any) -> Path:
        return write_file(tmp_path / f"{name}.safetensors", random_vectors(n, width), rows, **changed)

    first = made("first")
    zeros = write_file(tmp_path / "zeros.safetensors", torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    cases: list[tuple[list[Path], str]] = [
        ([], "no file of embeddings"),
        ([tmp_path / "gone.safetensors"], "gone.safetensors is not a file"),
        ([tmp_path / "x.npy"], "safetensors or .parquet"),
        ([first, made("model", model_sha256="d" * 64)], f"model {'d' * 64}, .*first.safetensors with {MODEL}"),
        ([first, made("pre", preprocessing_sha256="d" * 64)], "preprocessing dddd"),
        (
            [first, made("wide", [{"clip_id": "x"}, {"clip_id": "y"}], width=7)],
            "its width is 7, that of the files before it 6",
        ),
        ([first, made("pool", [{"clip_id": "x"}, {"clip_id": "y"}], pooling="mean+std")], "its pooling is mean.std"),
        ([made("h", head_sha256=HEAD), made("i", [{"clip_id": "x"}] * 2, head_sha256="e" * 64)], "its head is eeee"),
        ([first, first], "clip 'c0', window 0 is there twice"),
        ([zeros], "row 1 .clip 'c1'. is a vector of zeros"),
        ([made("row", [{"metadata": {"RowId": "1"}}, {}])], "a column called 'RowId'"),
    ]
    for files, named in cases:
        with pytest.raises(InputError, match=named):
            index(files, tmp_path / "db")
        assert not (tmp_path / "db").exists(), named
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for out, named in ((tmp_path / "other", "with other files"), (first, "is a file")):
        with pytest.raises(InputError, match=named):
            index([first], out, replace=True)
    for config, named in (({"approximate_above": 0}, "--approximate-above 0"), ({"recall": 1.5}, "--recall 1.5")):
        with pytest.raises(InputError, match=named):
            IndexConfig(**config)


def test_a_grid_of_tokens_is_refused(tmp_path: Path) -> None:
    grid = Embeddings(
        header=header(6, pooling="tokens", n_tokens=3), vectors=torch.ones(1, 3, 6),
        rows=(EmbeddingRow(row=0, clip_id="c0"),), is_valid=torch.ones(1, 3, dtype=torch.bool),
    )  # fmt: skip
    write_embeddings(tmp_path / "grid.safetensors", grid)
    with pytest.raises(InputError, match="holds a grid of tokens"):
        index([tmp_path / "grid.safetensors"], tmp_path / "db")


def test_a_damaged_index_says_what_is_wrong(db: Path) -> None:
    card = json.loads((db / "index.json").read_text())
    vectors, clips = db / card["vectors"]["name"], db / card["clips"]["name"]
    kept = {path: path.read_bytes() for path in (vectors, clips, db / "index.json")}

    def changed(**values: object) -> bytes:
        return json.dumps({**card, **values}).encode()

    cases: list[tuple[Path, bytes | None, str]] = [
        (vectors, kept[vectors][:-9], f"truncated or changed: {len(kept[vectors]) - 9} bytes of {len(kept[vectors])}"),
        (vectors, b"\xff" * len(kept[vectors]), "is damaged"),
        (vectors, None, "vectors-.* is missing"),
        (clips, b"\x00" * len(kept[clips]), "clips-.*cannot open"),
        (db / "index.json", b"{", "is not the card of an index"),
        (db / "index.json", b"[]", "is not the card of an index"),
        (db / "index.json", changed(format="oskar-encoder"), "format = 'oskar-encoder'"),
        (db / "index.json", changed(version=2), "version = 2, this oskar reads 1"),
        (db / "index.json", changed(n_rows=5), r"common|video.vectors is \[4, 6\], index.json says \[5, 6\]"),
        (db / "index.json", changed(colour="red"), "unknown key 'colour'"),
        (db / "index.json", None, "holds no index"),
    ]
    for path, content, named in cases:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=named):
            search(db, like=["c0"])
        path.write_bytes(kept[path])
    assert len(search(db, like=["c0"]).hits) == 3


def test_questions_that_cannot_be_answered(db: Path, tmp_path: Path) -> None:
    common = tmp_path / "common"
    index([write_file(tmp_path / "h.safetensors", random_vectors(2), head_sha256=HEAD)], common)
    text, clip = Question(texts=("run",)), Question(clips=(Path("q.mp4"),))
    encoder = FakeEncoder({"run": torch.ones(6), "q.mp4": torch.ones(6)})
    cases: list[tuple[Path, Question, FakeEncoder | None, str]] = [
        (db, Question(), None, "nothing to look for"),
        (db, clip, None, "needs the run .* add --run"),
        (db, text, encoder, "a sentence is not comparable .*text-video-retrieval.*--captions"),
        (db, Question(skeletons=(Path("q.npz"),)), encoder, "embeddings of video, not of skeleton"),
        (db, clip, replace(encoder, changed={"model_sha256": "d" * 64}), f"with model {MODEL}, the query is with dddd"),
        (db, clip, replace(encoder, changed={"preprocessing_sha256": "d" * 64}), "with preprocessing b.*dddd"),
        (common, text, replace(encoder, changed={"head_sha256": "d" * 64}), f"with head {HEAD}, .*dddd"),
        (common, text, replace(encoder, has_head=False), f"the retrieval head {HEAD}, and none is given.*--head"),
        (db, Question(rows=(4,)), None, "row 4: the index has 4 rows"),
    ]
    for where, question, used, named in cases:
        with open_database(where) as opened, pytest.raises(InputError, match=named):
            Searcher(opened, used).search(question)
    for name in ("text_weight", "clip_weight", "skeleton_weight"):
        weight: dict[str, Any] = {name: 0}
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} 0"):
            Question(**weight)
    for words, named in (
        ({"captions": "  ?"}, "holds no word"),
        ({"captions": "kick", "like": ["c0"]}, "--captions beside another query"),
        ({"like": ["c0"], "n_top": 0}, "--top 0"),
        ({"like": ["nobody"]}, "--like 'nobody': the index holds no such clip"),
        ({"like": ["c0"], "filters": Filters(equal=(("colour", "red"),))}, "no column 'colour'.*clip_id, path"),
        ({"like": ["c0"], "filters": Filters(where="colour = 'red'")}, "no such column: colour.*label = 'kick'"),
    ):
        with pytest.raises(InputError, match=named):
            search(db, **words)
    with pytest.raises(InputError, match="no clip has a caption"):
        search(common, captions="kick")


def test_commands(
    vectors: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    file, db = write_file(tmp_path / "e.safetensors", vectors, ROWS), tmp_path / "db"
    code, printed = oskar("index", file, "--out", db)
    assert (code, "video: 4 vectors of 6 numbers, compared with every row" in printed) == (0, True)
    code, printed = oskar("search", db, "--like", "c1", "label=kick", "--json")
    assert code == 0, printed
    assert {json.loads(line)["clip_id"] for line in printed.splitlines()} == {"c0", "c2"}
    code, printed = oskar("search", db, "--captions", "ball", "--where", "subject = '1'")
    assert code == 0, printed
    assert printed.split()[:2] == ["#", "words"]
    assert "a person kicks the ball" in printed.splitlines()[1]
    assert printed.splitlines()[-1] == "1 of 1 rows"
    for words, named in (
        (("index", file, "--out", db), "--replace"),
        (("index", tmp_path / "no.safetensors", "--out", tmp_path / "d"), "no.safetensors is not a file"),
        (("search", tmp_path, "--like", "c1"), "holds no index"),
        (("search", db, "--like", "c1", "kick"), "filter 'kick' is not column=value"),
        (("search", db, "--text", "run", "--run", tmp_path), "no encoder"),
        (("serve", db, "--videos", tmp_path / "gone"), "is not a folder"),
        (("serve", db, "--videos", tmp_path, "--port", 70000), "--port 70000 is no port"),
    ):
        code, printed = oskar(*words)
        assert (code, named in printed) == (2, True), printed
