"""What the local page's server gives away and what it refuses; ranges, moving pictures, joints, the map."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from indexed import FakeEncoder, random_vectors, write_file
from runs import noise_video
from sklearn.decomposition import PCA

from oskar.data.decoding import read_all
from oskar.errors import InputError
from oskar.searching.answers import Answers
from oskar.searching.confined import Confined, OutsideError
from oskar.searching.database import open_database
from oskar.searching.indexing import index
from oskar.searching.moving import Thumbnails, shown_frames, webm
from oskar.searching.nearest import Space
from oskar.searching.ranges import UnsatisfiableError, requested_part
from oskar.searching.scatter import principal_map
from oskar.searching.search import Searcher
from oskar.searching.serve import page_server, serve
from oskar.searching.server import PageServer

SCRIPT = '<script>alert("caption")</script>'


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    server: PageServer

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """A request whose path goes over the wire as it is written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"127.0.0.1:{self.server.port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        reply = connection.getresponse()
        found = Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        connection.close()
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos and joints to show, and files outside that must stay hidden."""
    outside = tmp_path_factory.mktemp("outside")
    noise_video(outside / "secret.mkv")
    videos = outside / "videos"
    for i in range(2):
        noise_video(videos / f"v{i}.mkv", n_frames=10, seed=i, size=48)
    (videos / "broken.mp4").write_bytes(b"\x00" * 100)
    (videos / "link.mkv").symlink_to(outside / "secret.mkv")
    (videos / "notes.mkv").symlink_to(videos / "notes.txt")
    (videos / "notes.txt").write_text("mine")
    (videos / "away").symlink_to(outside)
    joints = np.full((1, 10, 17, 2), 0.5)
    joints[0, :, 0, 0] = np.arange(10) / 10
    np.savez(videos / "j.npz", joints=joints, layout="COCO-17", units="share")
    space = np.random.default_rng(0).normal(size=(10, 17, 3))
    np.savez(videos / "space.npz", joints=space, layout="COCO-17", units="metres", up="+y")
    return videos


def rows(folder: Path) -> list[dict[str, Any]]:
    paths = [
        "v0.mkv", "v1.mkv", "broken.mp4", "link.mkv", "../secret.mkv", str(folder.parent / "secret.mkv"),
        "away/secret.mkv", "notes.mkv", "gone.mkv", "notes.txt", "v0.mkv\0.mkv", None,
    ]  # fmt: skip
    made: list[dict[str, Any]] = [{"clip_id": f"c{i}", "path": path} for i, path in enumerate(paths)]
    made[0] |= {"caption": SCRIPT, "label": "kick", "metadata": {"joints_path": "j.npz"}}
    made[1] |= {"caption": "a wave", "label": "wave", "metadata": {"joints_path": "space.npz"}}
    made[2] |= {"metadata": {"joints_path": "../../etc/passwd"}}
    made[11] |= {"metadata": {"joints_path": "j.npz"}}
    return made


N_ROWS = 12
HIDDEN_ROWS = range(3, N_ROWS)  # what must not be shown as a video


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    file = write_file(folder.parent / "e.safetensors", random_vectors(N_ROWS), rows(folder))
    index([file], folder.parent / "db")
    with running(folder.parent / "db", folder) as server:
        yield Client(server)


@contextmanager
def running(db: Path, folder: Path) -> Iterator[PageServer]:
    with page_server(db, folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_page_is_whole_and_may_load_nothing_from_elsewhere(client: Client) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image"),
    ):
        reply = client(path)
        assert reply.status == 200
        assert reply.headers["content-type"].startswith(kind)
        assert len(reply.body) > 100
        text = reply.body.decode().replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
    for path in ("/", "/api/about", "/video/0", "/nothing"):
        headers = client(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "img-src", "media-src", "connect-src")} == {
            "'self'"
        }
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_it_listens_on_this_machine_alone(client: Client) -> None:
    assert client.server.server_address[0] == "127.0.0.1"
    assert client.server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "evil.example:{port}", "localhost:1", "", "127.0.0.1:{port}.evil.example"]
)
def test_another_name_for_it_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/api/search?like=0", "/video/0"):
        reply = client(path, Host=host.format(port=client.server.port))
        assert reply.status == 421
        assert b"c0" not in reply.body
    assert client("/api/about", Host=f"LocalHost:{client.server.port}").status == 200


def test_what_other_sites_start_and_what_would_write_is_refused(client: Client) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client("/api/some", Sec_Fetch_Site=site).status == status
        assert client("/video/0", Sec_Fetch_Site=site).status == status
    assert client("/", Sec_Fetch_Site="cross-site").status == 200  # a link to the page
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"):
        assert client("/api/about", method).status == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.mkv", "/video/../../secret.mkv", "/video/%2e%2e/secret.mkv", "/%2e%2e%2fsecret.mkv",
        "/video/..%2f..%2fsecret.mkv", "/video/{folder}/v0.mkv", "//{folder}/v0.mkv", "/v0.mkv", "/video/v0.mkv",
        "/page.html", "/page/page.js", "/video/0/../1", "/video/-1", "/video/1e1", "/video/", "/video/0x0",
        "/thumbnail/../video/0", "/video/99999999999999999999", "/video/12", "/api/../video/0", "/joints/v0.mkv",
        "/video/0%00", "/video\\0", "/.//video/0",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(client: Client, folder: Path, path: str) -> None:
    reply = client(path.format(folder=folder))
    assert reply.status == 404
    assert "error" in reply.json


@pytest.mark.parametrize("row", HIDDEN_ROWS)
def test_an_index_that_names_other_files_shows_none(client: Client, folder: Path, row: int) -> None:
    secret = (folder.parent / "secret.mkv").read_bytes()
    for kind in ("video", "thumbnail"):
        reply = client(f"/{kind}/{row}")
        assert reply.status in (400, 404)
        assert secret not in reply.body
        assert b"mine" not in reply.body
    assert client("/joints/2").status == 404


def test_where_files_may_be(folder: Path, tmp_path: Path) -> None:
    confined = Confined.at(folder)
    assert confined.video({"path": "v0.mkv"}) == folder.resolve() / "v0.mkv"
    assert confined.video({"path": str(folder / "v0.mkv")}) == folder.resolve() / "v0.mkv"
    above = Confined.at(folder.parent)
    assert above.video({"path": "v0.mkv", "folder": str(folder)}) == folder.resolve() / "v0.mkv"
    for path in (
        "../secret.mkv",
        "link.mkv",
        "away/secret.mkv",
        str(folder.parent / "secret.mkv"),
        "notes.mkv",
        "a\0.mkv",
    ):
        with pytest.raises(OutsideError):
            confined.video({"path": path, "folder": str(folder.parent)})
    with pytest.raises(InputError, match=r"gone.mkv is not in"):
        confined.video({"path": "gone.mkv"})
    assert confined.video({"path": "notes.txt"}) is None
    assert confined.video({"path": None}) is None
    with pytest.raises(
        InputError, match=r"holds none of the indexed files .*the folder they were embedded from, /there"
    ):
        Confined.at(tmp_path).require_some([{"path": "v0.mkv", "folder": "/there", "clip_id": "c0"}])


def test_videos_come_in_the_parts_asked_for(client: Client, folder: Path) -> None:
    whole = (folder / "v0.mkv").read_bytes()
    n = len(whole)
    reply = client("/video/0")
    assert (reply.status, reply.body, reply.headers["accept-ranges"]) == (200, whole, "bytes")
    assert reply.headers["content-type"] == "video/x-matroska"
    for asked, start, end in (
        ("0-9", 0, 10),
        ("5-", 5, n),
        ("-7", n - 7, n),
        (f"10-{n + 50}", 10, n),
        (f"-{n + 9}", 0, n),
    ):
        reply = client("/video/0", Range=f"bytes={asked}")
        assert (reply.status, reply.body) == (206, whole[start:end])
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{n}"
        assert reply.headers["content-length"] == str(end - start)
    for asked in (f"{n}-", f"{n}-{n + 1}", "-0"):
        reply = client("/video/0", Range=f"bytes={asked}")
        assert (reply.status, reply.body, reply.headers["content-range"]) == (416, b"", f"bytes */{n}")
    for odd in ("bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=-", "bytes=a-b"):
        assert client("/video/0", Range=odd).body == whole
    head = client("/video/0", "HEAD", Range="bytes=0-9")
    assert (head.status, head.body, head.headers["content-length"]) == (206, b"", "10")
    thumbnail = client("/thumbnail/0").body
    assert client("/thumbnail/0", Range="bytes=4-8").body == thumbnail[4:9]


def test_parts_of_a_file_by_hand() -> None:
    part = requested_part("bytes=2-4", 10)
    assert part is not None
    assert (part.start, part.end, part.content_range) == (2, 5, "bytes 2-4/10")
    assert requested_part(None, 10) is None
    with pytest.raises(UnsatisfiableError):
        requested_part("bytes=0-", 0)


def test_thumbnails_play_what_the_clip_shows(client: Client, folder: Path, tmp_path: Path) -> None:
    """Colours of each half survive VP8 within its loss."""
    reply = client("/thumbnail/0")
    assert (reply.status, reply.headers["content-type"]) == (200, "video/webm")
    assert reply.body[:4] == b"\x1a\x45\xdf\xa3"
    pictures = np.zeros((12, 40, 60, 3), np.uint8)
    pictures[:6, :, :, 0] = 220
    pictures[6:, :, :, 2] = 220
    (tmp_path / "made.webm").write_bytes(webm(torch.from_numpy(pictures).permute(0, 3, 1, 2), frames_per_second=12.0))
    with av.open(str(tmp_path / "made.webm")) as container:
        assert container.streams.video[0].codec_context.name == "vp8"
        assert float(container.duration or 0) / 1e6 == pytest.approx(1.0, abs=0.02)
    shown = read_all(tmp_path / "made.webm").float()
    assert shown.shape == (12, 3, 40, 60)
    assert shown[2].mean((1, 2)).tolist() == pytest.approx([220, 0, 0], abs=25)
    assert shown[9].mean((1, 2)).tolist() == pytest.approx([0, 0, 220], abs=25)


def test_which_frames_a_thumbnail_shows() -> None:
    whole = shown_frames(25, 25.0, None, None)  # one second at 12 a second
    assert (len(whole.frame_idx), whole.frames_per_second) == (12, 12.0)
    assert whole.speed == pytest.approx(1.0)
    assert whole.frame_idx[0] == 1
    assert whole.frame_idx[-1] == 23
    part = shown_frames(100, 25.0, 1.0, 2.0)
    assert (part.frame_idx[0], part.frame_idx[-1]) == (26, 48)
    assert part.speed == pytest.approx(1.0)
    long = shown_frames(2500, 25.0, None, None)  # 100 seconds: 48 frames, at 6 a second in 8 seconds
    assert (len(long.frame_idx), long.frames_per_second) == (48, 6.0)
    assert long.speed == pytest.approx(100 / 8)
    assert shown_frames(1, 25.0, 0.0, 0.04).frame_idx == (0,)
    assert shown_frames(10, 25.0, 90.0, 95.0).frame_idx == (9,)


def test_kept_thumbnails_are_bounded(folder: Path) -> None:
    shown = [shown_frames(10, 25.0, start, start + 0.2) for start in (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)]
    one = len(Thumbnails().of(folder / "v0.mkv", shown[0]))
    kept = Thumbnails(most_bytes=int(2.5 * one))
    made = [kept.of(folder / "v0.mkv", each) for each in shown]
    assert 1 <= len(kept) <= 3
    assert sum(map(len, made[-len(kept) :])) <= 2.5 * one
    assert kept.of(folder / "v0.mkv", shown[-1]) is made[-1]
    assert kept.of(folder / "v0.mkv", shown[0]) is not made[0]
    none = Thumbnails(most_bytes=10)
    none.of(folder / "v0.mkv", shown[0])
    assert len(none) == 0


def test_joints_lie_in_the_frames_that_are_shown(client: Client, folder: Path) -> None:
    """Joint 0 of frame t lies at t / 10."""
    found = client("/joints/0").json
    shown = shown_frames(10, 25.0, None, None)
    assert [frame[0][0] for frame in found["people"][0]] == pytest.approx([t / 10 or None for t in shown.frame_idx])
    assert (found["is_over_video"], found["aspect"], found["frames_per_second"]) == (True, 1.0, shown.frames_per_second)
    apart = client("/joints/1").json
    assert (apart["is_over_video"], apart["aspect"]) == (False, 1.0)
    alone = client("/joints/11").json
    assert alone["is_over_video"] is False
    assert all(0 <= x < 1 and 0 <= y < 1 for x, y in apart["people"][0][0])
    assert "has no joints" in client("/joints/3").json["error"]


def test_a_broken_video_says_so(client: Client) -> None:
    reply = client("/thumbnail/2")
    assert reply.status == 400
    assert "broken.mp4" in reply.json["error"]


def test_answers_name_what_is_shown(client: Client) -> None:
    about = client("/api/about").json
    assert (about["n_rows"], about["labels"], about["has_captions"]) == (N_ROWS, ["kick", "wave"], True)
    assert about["can_text"] is False
    assert "text-video-retrieval" in about["why_no_text"]
    hits = client("/api/search?captions=alert").json["hits"]
    assert [(hit["row"], hit["caption"], hit["has_video"], hit["has_joints"]) for hit in hits] == [
        (0, SCRIPT, True, True)
    ]
    assert "folder" not in hits[0]
    found = client("/api/search?like=0&label=wave").json
    assert ([hit["row"] for hit in found["hits"]], found["n_searched"]) == ([1], 1)
    assert len(client("/api/search?like=0&top=3").json["hits"]) == 3
    for query, named in (
        ("", "nothing to look for"), ("text=run", "a sentence is not comparable"), ("like=x", "like = 'x'"),
        ("like=999", "row 999"),
        ("captions=%3F%3F", "holds no word"), ("like=0&top=0", "--top 0"), (f"text={'x' * 501}", "501 characters"),
        ("&".join(f"a{i}=1" for i in range(30)), "fields"),
    ):  # fmt: skip
        reply = client(f"/api/search?{query}")
        assert (reply.status, named in reply.json["error"]) == (400, True), reply.json


def test_text_goes_through_the_encoder(folder: Path) -> None:
    file = write_file(folder.parent / "t.safetensors", vectors := random_vectors(3, seed=5), head_sha256="c" * 64)
    index([file], folder.parent / "text-db", replace=(folder.parent / "text-db").exists())
    with open_database(folder.parent / "text-db") as opened:
        answers = Answers(Searcher(opened, FakeEncoder({"second": vectors[1]})), Confined.at(folder))
        assert answers.about()["can_text"] is True
        assert answers.search({"text": ["second"], "top": ["2"]})["hits"][0]["clip_id"] == "c1"


def test_the_map_is_that_of_another_library() -> None:
    vectors = torch.nn.functional.normalize(random_vectors(40, 7, seed=2), dim=1)
    is_present = torch.ones(40, dtype=torch.bool)
    is_present[3] = False
    found = principal_map(Space(name="video", vectors=vectors, is_present=is_present))
    kept = [row for row in range(40) if row != 3]
    assert found.row_idx.tolist() == kept
    pca = PCA(2).fit(vectors[kept].double().numpy())
    wanted = pca.transform(vectors[kept].double().numpy())
    wanted /= np.abs(wanted).max()
    for axis in range(2):
        sign = np.sign(wanted[:, axis] @ found.xy[:, axis].double().numpy())
        assert found.xy[:, axis].tolist() == pytest.approx((sign * wanted[:, axis]).tolist(), abs=1e-4)
    assert found.shares == pytest.approx(pca.explained_variance_ratio_.tolist(), abs=1e-6)
    few = principal_map(Space(name="video", vectors=vectors, is_present=is_present), most=10)
    assert few.row_idx.tolist() == [kept[i * 39 // 10] for i in range(10)]
    same = principal_map(Space(name="v", vectors=torch.ones(2, 1), is_present=torch.ones(2, dtype=torch.bool)))
    assert float(same.xy.abs().max()) == 0.0
    assert same.shares == (0.0, 0.0)


def test_a_taken_port_says_what_to_do(client: Client, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"--port {client.server.port} of 127.0.0.1 is taken.*--port 0"):
        serve(folder.parent / "db", folder, port=client.server.port)


def test_many_at_once_and_those_who_leave(client: Client) -> None:
    replies: list[int] = []
    paths = ("/api/map", "/thumbnail/1", "/api/search?like=2", "/joints/0")
    threads = [threading.Thread(target=lambda p=p: replies.append(client(p).status)) for p in paths * 5]
    for thread in threads:
        thread.start()
    with socket.create_connection(("127.0.0.1", client.server.port)) as gone:
        gone.sendall(f"GET /video/0 HTTP/1.1\r\nHost: 127.0.0.1:{client.server.port}\r\n\r\n".encode())
    for thread in threads:
        thread.join()
    assert replies == [200] * 20
