"""Weights files: fetched, resumed, checked, recorded, found again in every place; a broken one is never used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from uadctl.cli.readiness import network_of
from uadctl.errors import WeightsError
from uadctl.features import weights
from uadctl.features.download import DownloadFailed, alone, download, sha256_of
from uadctl.features.weights import available, fetch, find_weights, records
from uadctl.spec import MODELS, ModelEntry, create_model
from uadctl.spec.registry import BACKBONES, resolve_backbone
from uadctl.spec.registry import _behind_a_door as find_door

CONTENT = bytes(range(256)) * 9000  # 2.2 MiB: three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


@dataclass
class Server:
    """A server of one file, on 127.0.0.1.

    ranges: it can send a part. cut: it says the full length and sends only so much. redirect: it first sends the
    client on, naming the SHA-256 as the Hugging Face hub does.
    """

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True
    cut: int | None = None
    status: int = 200
    redirect: bool = False
    linked: str = f'"{SHA256}"'
    asked: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = {key: self.headers[key] for key in ("Range", "If-Range") if self.headers[key]}
            self.close_connection = True
            if state.redirect and self.path == "/file":
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.send_header("X-Linked-Etag", state.linked)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            state.asked.append(wanted)
            if state.status != 200:
                self.send_response(state.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(wanted.get("Range", "bytes=0-")[6:-1])
            partial = state.ranges and "Range" in wanted and wanted.get("If-Range", state.etag) == state.etag
            if partial and start >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:] if partial else state.content
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if state.cut is None else body[: state.cut])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/file"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A machine without caches or weights folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("UADCTL_WEIGHTS", "UADCTL_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def served(server, elsewhere, monkeypatch):
    """resnet18, its weights those of the server; the registry's entry for the time of the test."""
    entry = resolve_backbone("resnet18")
    entry = dataclasses.replace(
        entry, weights=dataclasses.replace(entry.weights, url=server.url, sha256=SHA256[:8], file="served.pth")
    )
    monkeypatch.setitem(BACKBONES, "resnet18", entry)
    return entry


def without_checksum(entry):
    return dataclasses.replace(entry, weights=dataclasses.replace(entry.weights, sha256=""))


# -- downloading


def get(url: str, target: Path, *, resumable: bool = True):
    return download(url, target, check=sha256_of, resumable=resumable)


def test_a_file_comes_whole_and_nothing_else_is_left(server, tmp_path):
    found = get(server.url, tmp_path / "new" / "file.pth")
    assert (found.sha256, found.known) == (SHA256, None)
    assert (tmp_path / "new" / "file.pth").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.pth"]
    assert server.asked == [{}]


def test_a_download_that_was_cut_off_goes_on_where_it_ended(server, tmp_path):
    server.cut = 1_500_000
    with pytest.raises(DownloadFailed) as caught:
        get(server.url, tmp_path / "file.pth")
    assert caught.value.message == (
        f"{server.url}: the download failed: the connection ended after 1500000 of {len(CONTENT)} bytes; "
        "run it again to go on"
    )
    assert not (tmp_path / "file.pth").exists()
    assert (tmp_path / "file.pth.part").read_bytes() == CONTENT[:1_500_000]
    server.cut = None
    assert get(server.url, tmp_path / "file.pth").sha256 == SHA256
    assert server.asked == [{}, {"Range": "bytes=1500000-", "If-Range": '"v1"'}]
    assert [p.name for p in tmp_path.iterdir()] == ["file.pth"]


def test_a_server_that_knows_no_parts_is_taken_at_its_word(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(b"x" * 3_000_000)
    server.ranges = False
    assert get(server.url, tmp_path / "file.pth").sha256 == SHA256
    assert (tmp_path / "file.pth").stat().st_size == len(CONTENT)


def test_a_file_that_changed_meanwhile_comes_anew(server, tmp_path):
    server.cut = 1000
    with pytest.raises(DownloadFailed):
        get(server.url, tmp_path / "file.pth", resumable=False)
    server.cut, server.etag, server.content = None, '"v2"', OTHER
    get(server.url, tmp_path / "file.pth", resumable=False)
    assert (tmp_path / "file.pth").read_bytes() == OTHER


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_without_a_checksum_only_a_server_that_can_tell_is_asked_for_the_rest(server, tmp_path, etag):
    server.etag, server.cut = etag, 1000
    with pytest.raises(DownloadFailed):
        get(server.url, tmp_path / "file.pth", resumable=False)
    server.cut, server.content = None, OTHER
    get(server.url, tmp_path / "file.pth", resumable=False)
    assert server.asked == [{}, {}]
    assert (tmp_path / "file.pth").read_bytes() == OTHER


@pytest.mark.parametrize(("have", "asked"), [(len(CONTENT), 1), (len(CONTENT) + 5, 2)])
def test_a_part_as_long_as_the_file_or_longer(server, tmp_path, have, asked):
    (tmp_path / "file.pth.part").write_bytes((CONTENT + b"12345")[:have])
    assert get(server.url, tmp_path / "file.pth").sha256 == SHA256
    assert len(server.asked) == asked


def test_a_missing_file_is_an_error_that_names_the_address(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadFailed) as caught:
        get(server.url, tmp_path / "file.pth")
    assert caught.value.message == f"{server.url}: the download failed: HTTP Error 404: Not Found"
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_that_the_server_names_must_hold(server, tmp_path):
    server.redirect = True
    assert get(server.url, tmp_path / "file.pth").known == SHA256
    server.linked = f'"{"0" * 64}"'
    with pytest.raises(WeightsError) as caught:
        get(server.url, tmp_path / "again.pth")
    assert caught.value.message == f"{server.url}: came with the SHA-256 {SHA256}, the server names {'0' * 64}"
    assert [p.name for p in tmp_path.iterdir()] == ["file.pth"]


def test_a_server_that_is_not_there(server, tmp_path):
    with pytest.raises(DownloadFailed, match=r"the download failed: <urlopen error "):
        get("http://127.0.0.1:9/file", tmp_path / "file.pth")


# -- fetching


def test_fetching_checks_and_records(server, served, tmp_path):
    found = fetch(served, tmp_path / "w")
    assert found == weights.Fetched(tmp_path / "w" / "served.pth", SHA256, new=True, checked="published")
    (row,) = records(tmp_path / "w").items()
    assert row[0] == "served.pth"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row[1].pop("fetched"))
    assert row[1] == {
        "backbone": "resnet18",
        "sha256": SHA256,
        "checked": "published",
        "url": server.url,
        "licence": "BSD-3-Clause",
    }
    assert fetch(served, tmp_path / "w") == dataclasses.replace(found, new=False)
    assert len(server.asked) == 1


def test_a_wrong_file_is_not_kept(server, served, tmp_path):
    server.content = OTHER
    with pytest.raises(WeightsError) as caught:
        fetch(served, tmp_path / "w")
    digest = hashlib.sha256(OTHER).hexdigest()
    assert caught.value.message == (
        f"{server.url}: not the published weights of resnet18: SHA-256 {digest}, expected {SHA256[:8]}…"
    )
    assert list((tmp_path / "w").iterdir()) == []


def test_of_several_that_want_a_file_one_fetches_it(server, served, tmp_path):
    start = threading.Barrier(6)

    def get_it(_: int) -> weights.Fetched:
        start.wait(timeout=20)
        return fetch(served, tmp_path / "w")

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(get_it, range(6)))
    assert len(server.asked) == 1
    assert sorted(one.new for one in found) == [False] * 5 + [True]
    assert {one.sha256 for one in found} == {SHA256}
    assert sorted(file.name for file in (tmp_path / "w").iterdir()) == ["served.pth", "weights.json"]


def test_records_of_files_that_come_at_once_all_stay(server, served, tmp_path):
    entries = [
        dataclasses.replace(served, weights=dataclasses.replace(served.weights, file=f"{i}.pth")) for i in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda entry: fetch(entry, tmp_path), entries))
    assert sorted(records(tmp_path)) == [f"{i}.pth" for i in range(8)]


def test_who_waits_for_a_file_goes_on_when_it_is_let_go(tmp_path):
    inside = []

    def hold(number: int) -> None:
        with alone(tmp_path / "w" / "file"):
            inside.append(number)
            time.sleep(0.01)
            assert inside[-1] == number
            inside.append(-1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(24)))
    assert sorted(inside[::2]) == list(range(24))
    assert inside[1::2] == [-1] * 24
    assert list((tmp_path / "w").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_download_that_fails(server, served, elsewhere):
    (elsewhere / "torch").write_text("a file")
    with pytest.raises(WeightsError, match=r"served\.pth are not on this machine, and the download failed: "):
        find_weights(served)


@pytest.mark.parametrize(("redirect", "etag", "checked"), [(False, '"v1"', "nothing"), (True, '"v1"', "server"), (False, f'"{SHA256}"', "server")])  # fmt: skip
def test_where_no_checksum_is_published_the_record_is_one(
    server, served, tmp_path, monkeypatch, redirect, etag, checked
):
    server.redirect, server.etag = redirect, etag
    entry = without_checksum(served)
    assert fetch(entry, tmp_path).checked == checked
    assert fetch(entry, tmp_path).checked == "recorded"
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path))
    assert find_weights(entry).sha256 == SHA256
    (tmp_path / "served.pth").write_bytes(OTHER)
    with pytest.raises(WeightsError) as caught:
        find_weights(entry)
    assert caught.value.message == (
        f"{tmp_path / 'served.pth'}: not the file it was when it was fetched: "
        f"SHA-256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}"
    )


def test_records_of_other_files_stay(server, served, tmp_path):
    fetch(served, tmp_path)
    other = dataclasses.replace(served, weights=dataclasses.replace(served.weights, file="other.pth"))
    fetch(other, tmp_path)
    assert list(records(tmp_path)) == ["other.pth", "served.pth"]


@pytest.mark.parametrize("text", ["no json", "[]", '{"files": {"served.pth": 3}}', '{"files": {"served.pth": {}}}'])
def test_a_record_that_cannot_be_read_is_said(served, tmp_path, monkeypatch, text):
    (tmp_path / "weights.json").write_text(text)
    (tmp_path / "served.pth").write_bytes(CONTENT)
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"^{re.escape(str(tmp_path / 'weights.json'))}: not ") as caught:
        find_weights(served)
    assert caught.value.help == "Remove it, and fetch the weights again."


def test_without_network_nothing_is_asked(server, served, tmp_path, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"served\.pth are not on this machine, and UADCTL_OFFLINE is set$"):
        fetch(served, tmp_path)
    assert server.asked == []


def test_the_package_that_carries_weights_is_copied(elsewhere):
    entry = resolve_backbone("efficientnet_lite0")
    found = fetch(entry, elsewhere / "w")
    assert (found.new, found.checked, found.sha256) == (True, "published", entry.weights.sha256)
    assert sha256_of(found.path) == entry.weights.sha256


def test_a_model_that_is_used_fetches_into_torch_hubs_cache(server, served, elsewhere):
    found = find_weights(served)
    assert (found.source, found.sha256) == ("network", SHA256)
    assert found.path == elsewhere / "torch" / "hub" / "checkpoints" / "served.pth"
    assert find_weights(served).source == "cache"
    assert len(server.asked) == 1


# -- the cache of the Hugging Face hub


def hub_file(home: Path, content: bytes, *, name: str | None = None) -> None:
    """A file as the hub's library lays it down: a link to a blob called by its SHA-256."""
    repo = home / "hub" / "models--timm--net.tag"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repo / folder).mkdir(parents=True)
    blob = repo / "blobs" / (name or hashlib.sha256(content).hexdigest())
    blob.write_bytes(content)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)


@pytest.fixture
def of_the_hub(elsewhere):
    entry = resolve_backbone("resnet18")
    url = "https://huggingface.co/timm/net.tag/resolve/main/model.safetensors"
    wanted = dataclasses.replace(entry.weights, url=url, sha256="", file="timm-net.tag.safetensors")
    return dataclasses.replace(entry, weights=wanted)


def test_the_hubs_cache_is_looked_into(of_the_hub, elsewhere):
    assert available(of_the_hub) is None
    hub_file(elsewhere / "hf", CONTENT)
    found = find_weights(of_the_hub)
    assert (found.source, found.sha256, found.path.name) == ("huggingface", SHA256, "model.safetensors")


def test_the_hubs_library_finds_the_same_file(of_the_hub, elsewhere):
    hub = pytest.importorskip("huggingface_hub", reason="compares with huggingface_hub, which is not installed")
    hub_file(elsewhere / "hf", CONTENT)
    theirs = hub.try_to_load_from_cache("timm/net.tag", "model.safetensors", cache_dir=elsewhere / "hf" / "hub")
    assert Path(theirs) == find_weights(of_the_hub).path


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_hubs_cache_may_lie_elsewhere(of_the_hub, elsewhere, monkeypatch, variable):
    hub_file(elsewhere / "moved", CONTENT)
    monkeypatch.setenv(variable, str(elsewhere / "moved" / "hub"))
    assert available(of_the_hub) == "huggingface"


def test_a_damaged_file_of_the_hubs_cache_is_refused(of_the_hub, elsewhere):
    hub_file(elsewhere / "hf", OTHER, name=SHA256)
    with pytest.raises(WeightsError, match=r": not the file it was in the cache it lies in: SHA-256 "):
        find_weights(of_the_hub)


# -- models fetch


def test_fetch_says_what_came_under_which_licence(uadctl, server, served, tmp_path):
    ended = uadctl("models", "fetch", "resnet18", "--to", "w")
    assert ended.out == f"w/served.pth: licence BSD-3-Clause; its SHA-256 is the published one\n  sha256 {SHA256}\n"
    assert ended.err == "note: To use them: UADCTL_WEIGHTS=w\n"
    again = uadctl("models", "fetch", "resnet18", "--to", "w")
    assert again.out.startswith("w/served.pth: was there already; licence BSD-3-Clause; ")


def test_fetch_in_json(uadctl, server, served, tmp_path):
    found = uadctl("models", "fetch", "resnet18", "--to", "w", "--json").json
    assert found == {
        "schema": 1,
        "files": [
            {
                "backbone": "resnet18",
                "file": "w/served.pth",
                "new": True,
                "sha256": SHA256,
                "checked": "published",
                "licence": "BSD-3-Clause",
                "url": server.url,
                "bytes": len(CONTENT),
            }
        ],
    }


def test_fetch_takes_models_and_says_where_there_is_nothing_to_do(uadctl, elsewhere):
    ended = uadctl("models", "fetch", "patchcore")
    assert (ended.out, ended.err) == ("", "note: efficientnet_lite0: its weights came with pip: nothing to fetch\n")
    assert "efficientnet-lite0-57934424.pth" in uadctl("models", "fetch", "patchcore", "--to", "w").out


def test_fetch_of_a_name_that_is_not_there(uadctl, elsewhere):
    ended = uadctl("models", "fetch", "resnet19", "--to", "w", code=2)
    assert ended.err.startswith('error: "resnet19": no such backbone; did you mean resnet')
    ended = uadctl("models", "fetch", "patchcor", "--to", "w", code=2)
    assert ended.err.startswith('error: "patchcor": no such model; did you mean vision_patchcore?')


def test_fetch_that_fails_can_be_repeated(uadctl, server, served):
    server.cut = 1000
    ended = uadctl("models", "fetch", "resnet18", "--to", "w", code=2)
    assert "the connection ended after 1000 of " in ended.err
    assert ended.err.endswith(
        "\n  Where there is a network: uadctl models fetch resnet18 --to DIR\n"
        "  Then copy DIR with its weights.json, and name it: UADCTL_WEIGHTS=DIR. Or put the file at w/served.pth\n"
    )
    server.cut = None
    uadctl("models", "fetch", "resnet18", "--to", "w")
    assert server.asked[-1]["Range"] == "bytes=1000-"


def test_fetch_into_what_is_no_folder(uadctl, elsewhere):
    Path("afile").touch()
    ended = uadctl("models", "fetch", "patchcore", "--to", "afile", code=2)
    assert (ended.out, ended.err) == ("", "error: --to afile: not a folder\n")


def test_every_model_that_wants_weights_names_their_network(elsewhere):
    pytest.importorskip("open_clip", reason="describes the networks of its models")
    named = {}
    for name, entry in MODELS.items():
        if not entry.requires_checkpoint:
            detector = create_model(name)
            network = network_of(detector)
            assert (network is None) == (detector.weights_state() == "none"), name
            if network is not None:
                named[name] = network.name
    assert len(named) >= 25
    assert named["vision_patchcore"] == named["vision_padim"] == named["vision_iforest"] == "efficientnet_lite0"
    assert named["vision_anomalydino"] == "dinov2_vits14"
    assert named["vision_winclip"].startswith("openclip:ViT-B-16")


def test_a_detector_names_no_network_where_it_uses_none(elsewhere):
    class Embedder:
        def embed(self, image):
            raise NotImplementedError

    assert create_model("anomalydino", embedder=Embedder()).weights_entry() is None
    assert create_model("openclip_patchknn", embedder=Embedder()).weights_entry() is None
    assert create_model("iforest", features="histogram").weights_entry() is None


@pytest.mark.parametrize("verb", ["fetch", "verify"])
def test_without_the_extra_nobody_says_that_a_model_uses_no_network(uadctl, elsewhere, monkeypatch, verb):
    find_door.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    ended = uadctl("models", verb, "vision_winclip", code=2)
    assert ended.out == ""
    assert re.fullmatch(
        r"error: .* needs open_clip, which is not installed\. Install it with: pip install 'uadctl\[clip\]'\n",
        ended.err,
    )


def test_a_model_that_does_not_name_its_network_is_no_model_without_one(uadctl, elsewhere, monkeypatch):
    monkeypatch.setitem(MODELS, "vision_dumb", ModelEntry(name="vision_dumb", target=f"{__name__}:Dumb", summary="-"))
    for verb in ("fetch", "verify"):
        assert uadctl("models", verb, "vision_dumb", code=2).err == (
            "error: vision_dumb does not say which network's weights it uses\n"
            "  If it is one of uadctl's, name it: uadctl models list --backbones\n"
        )
    monkeypatch.setattr(Dumb, "weights_state", lambda self: "none")
    assert uadctl("models", "verify", "vision_dumb").err == "note: vision_dumb uses no network: nothing to verify\n"


class Dumb:
    """A detector of a plug-in that knows nothing of `weights_entry`."""

    def weights_state(self) -> str:
        return "network"


# -- models verify


def test_verify_lists_every_file(uadctl, served, tmp_path):
    uadctl("models", "fetch", "resnet18", "efficientnet_lite0", "--to", "w")
    (tmp_path / "w" / "resnet34-b627a593.pth").write_bytes(b"")
    found = uadctl("models", "verify", "--in", "w", "--json", code=2)
    rows = {Path(row["file"]).name: (row["backbone"], row["state"], row["against"]) for row in found.json["files"]}
    assert rows == {
        "efficientnet-lite0-57934424.pth": ("efficientnet_lite0", "ok", "published"),
        "resnet34-b627a593.pth": ("resnet34", "wrong", "published"),
        "served.pth": ("resnet18", "ok", "published"),
    }
    assert found.err == (
        f"error: w/resnet34-b627a593.pth: not the published weights of resnet34: SHA-256 {hashlib.sha256(b'').hexdigest()}\n"
        "  Fetch it again, after removing what is wrong: uadctl models fetch NAME --to DIR\n"
    )
    (tmp_path / "w" / "resnet34-b627a593.pth").unlink()
    assert "served.pth" in uadctl("models", "verify", "--in", "w").out


def test_verify_holds_files_against_the_record(uadctl, server, served, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "resnet18", without_checksum(served))
    uadctl("models", "fetch", "resnet18", "--to", "w")
    assert uadctl("models", "verify", "resnet18", "--in", "w", "--json").json["files"][0]["against"] == "recorded"
    (tmp_path / "w" / "served.pth").write_bytes(OTHER)
    for words in (["resnet18"], []):
        ended = uadctl("models", "verify", *words, "--in", "w", "--json", code=2)
        assert [(row["state"], row["against"]) for row in ended.json["files"]] == [("wrong", "recorded")]
    # A record whose backbone nobody knows any more holds its file all the same.
    monkeypatch.setitem(BACKBONES, "resnet18", resolve_backbone("resnet34"))
    assert "served.pth: not the recorded weights of resnet18" in uadctl("models", "verify", "--in", "w", code=2).err


def test_verify_knows_what_nobody_knows_and_what_is_absent(uadctl, served, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "resnet18", without_checksum(served))
    (tmp_path / "w").mkdir()
    ended = uadctl("models", "verify", "resnet18", "--in", "w", code=2)
    assert ended.err.startswith("error: w/served.pth: the weights of resnet18 are not there\n")
    (tmp_path / "w" / "served.pth").write_bytes(CONTENT)
    (row,) = uadctl("models", "verify", "resnet18", "--in", "w", "--json").json["files"]
    assert (row["state"], row["against"], row["sha256"]) == ("unknown", "", SHA256)
    assert uadctl("models", "verify", "--in", "nowhere", code=2).err == "error: --in nowhere: no such folder\n"


def test_verify_lists_files_that_nobody_knows(uadctl, elsewhere, monkeypatch):
    Path("w").mkdir()
    Path("w/mine.safetensors").write_bytes(CONTENT)
    Path("w/notes.txt").write_text("no weights")
    Path("w/folder.pth").mkdir()
    found = uadctl("models", "verify", "--in", "w", "--json").json["files"]
    assert found == [
        {"backbone": "", "file": "w/mine.safetensors", "state": "unknown", "against": "", "sha256": SHA256}
    ]
    monkeypatch.setenv("UADCTL_WEIGHTS", "w")
    rows = {Path(row["file"]).name: row["state"] for row in uadctl("models", "verify", "--json").json["files"]}
    assert rows == {"mine.safetensors": "unknown", "efficientnet-lite0-57934424.pth": "ok"}


def test_verify_looks_into_every_place(uadctl, elsewhere):
    (row,) = uadctl("models", "verify", "--json").json["files"]
    assert (row["backbone"], row["state"]) == ("efficientnet_lite0", "ok")
    assert json.dumps(row)
