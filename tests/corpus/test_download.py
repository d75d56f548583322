"""下载与取得：对着本机的真实 HTTP 服务，断线、变卦、造假、离线都试过。"""

import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from companion.corpus.catalog import NAMED, Expected, NamedSource
from companion.corpus.download import download, sha256_of
from companion.corpus.fetching import fetch, fetch_source
from companion.corpus.sources import read_corpus, resolve
from companion.corpus.tongjian import all_juan
from companion.errors import CorpusError

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """能断线、能不理 Range、能换内容的文件服务。"""

    def __init__(self) -> None:
        """在本机随便一个空闲的端口上。"""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None  # 送这么多字节就断线
        self.cuts = 0  # 还要断几次
        self.ranges = True
        self.tagged = True
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        """服务的地址，末尾没有斜杠。"""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """见 `Server`。"""

    server: Server

    def do_GET(self) -> None:
        """按 `Server` 的设置送文件。"""
        path = unquote(self.path).lstrip("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((path, wanted))
        body = self.server.files.get(path)
        if body is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        start = 0
        if wanted and self.server.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}"
            )
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        if self.server.tagged:
            self.send_header("ETag", tag)
        self.end_headers()
        part = body[start:]
        if self.server.cuts and self.server.cut_after is not None:
            self.server.cuts -= 1
            part = part[: self.server.cut_after]
            self.close_connection = True
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """不往终端写访问日志。"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """一个只在本机的 HTTP 服务，绕过代理。"""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        running.files["a.bin"] = BODY
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """空的缓存，没有 COMPANION_DATA。"""
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "companion"


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    """下好的文件逐字节相同，不留临时文件，进度走到头。"""
    seen: list[tuple[int, int | None]] = []
    result = download(
        [f"{server.url}/a.bin"],
        tmp_path / "夹" / "a.bin",
        sha256=DIGEST,
        progress=lambda have, total: seen.append((have, total)),
    )
    assert result.path.read_bytes() == BODY
    assert (result.sha256, result.num_bytes) == (DIGEST, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [item.name for item in result.path.parent.iterdir()] == ["a.bin"]


def test_a_cut_connection_is_resumed_from_where_it_broke(
    server: Server, tmp_path: Path
) -> None:
    """断线后带着 Range 从断处接着下，已有的不重下。"""
    server.cut_after, server.cuts = 100_000, 2
    result = download([f"{server.url}/a.bin"], tmp_path / "a.bin", sha256=DIGEST)
    assert result.path.read_bytes() == BODY
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_run_resumes_what_an_earlier_one_left(
    server: Server, tmp_path: Path
) -> None:
    """这次没下完，下次运行接着下。"""
    server.cut_after, server.cuts = 30_000, 3
    with pytest.raises(CorpusError, match="连接中断"):
        download([f"{server.url}/a.bin"], tmp_path / "a.bin", sha256=DIGEST)
    assert (tmp_path / "a.bin.part").stat().st_size == 90_000
    assert not (tmp_path / "a.bin").exists()
    download([f"{server.url}/a.bin"], tmp_path / "a.bin", sha256=DIGEST)
    assert server.requests[-1] == ("a.bin", "bytes=90000-")


@pytest.mark.parametrize("change", ["content", "no ranges", "no tag"])
def test_versions_are_never_spliced(
    server: Server, tmp_path: Path, change: str
) -> None:
    """断线之后内容变了、服务器不认 Range 或没有版本标记：都从头下，不拼接。"""
    server.tagged = change != "no tag"
    server.cut_after, server.cuts = 30_000, 3
    with pytest.raises(CorpusError):
        download([f"{server.url}/a.bin"], tmp_path / "a.bin")
    body = BODY[::-1] if change == "content" else BODY
    server.files["a.bin"] = body
    server.ranges = change != "no ranges"
    result = download([f"{server.url}/a.bin"], tmp_path / "a.bin")
    assert result.path.read_bytes() == body


def test_a_wrong_digest_is_refused_and_the_next_url_tried(
    server: Server, tmp_path: Path
) -> None:
    """摘要不符的内容扔掉，换下一个地址；都不符就报出两个摘要。"""
    server.files["假.bin"] = b"fake"
    urls = [f"{server.url}/%E5%81%87.bin", f"{server.url}/a.bin"]
    assert download(urls, tmp_path / "a.bin", sha256=DIGEST).url == urls[1]
    with pytest.raises(CorpusError, match="sha256") as caught:
        download(urls[:1], tmp_path / "b.bin", sha256=DIGEST)
    assert DIGEST in caught.value.found
    assert hashlib.sha256(b"fake").hexdigest() in caught.value.found
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_a_missing_file_moves_on_to_the_second_url(
    server: Server, tmp_path: Path
) -> None:
    """404 不重试，直接换下一个地址。"""
    result = download([f"{server.url}/none", f"{server.url}/a.bin"], tmp_path / "a.bin")
    assert result.url.endswith("/a.bin")
    assert [path for path, _ in server.requests] == ["none", "a.bin"]


def test_offline_the_message_names_every_url_and_the_alternatives(
    server: Server, tmp_path: Path
) -> None:
    """全连不上时列出每个主机的原因与别的办法。"""
    dead = "http://127.0.0.1:9/a.bin"
    with pytest.raises(CorpusError) as caught:
        download([dead, f"{server.url}/none"], tmp_path / "a.bin")
    assert "127.0.0.1:9：连不上" in caught.value.found
    assert "HTTP 404" in caught.value.found
    assert "COMPANION_DATA" in caught.value.remedy
    assert "--url" in caught.value.remedy


# ── 取得整份语料 ────────────────────────────────────────────────────────

CHAPTERS = tuple(juan for juan in all_juan() if juan.number in (1, 2, 6, 15))
"""卷 1、2 训练，卷 6 留出，卷 15 测试。"""


def upstream_files() -> dict[str, bytes]:
    """假的上游：每卷三个好句对（各卷不同）、一个标题、一个错位。"""
    files: dict[str, bytes] = {}
    for index, juan in enumerate(CHAPTERS):
        mark = "甲乙丙丁"[index]
        left = [
            f"{mark}王{n}月伐赵，取其三城。".replace(str(n), "正二三"[n])
            for n in range(3)
        ]
        right = [
            line.replace("伐赵", "攻打赵国").replace("取其", "夺取了") for line in left
        ]
        left += [f"{mark}王四十三年", f"{mark}使者自长安还，言于天子曰善哉。"]
        right += [f"{mark}王四十三年", "从前有座山，山里住着一个老和尚。"]
        files[juan.path("classical")] = ("\n".join(left) + "\n").encode()
        files[juan.path("modern")] = "\n".join(right).encode()
    return files


def archive_of(files: dict[str, bytes]) -> bytes:
    """仓库归档的样子：首层一个文件夹，另有不相干的与想越界的路径。"""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, body in {**files, "../../逃.txt": b"x", "README.md": b"x"}.items():
            member = tarfile.TarInfo(f"Classical-Modern-4e746ea/{path}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def tiny_source(server: Server, **changes: object) -> NamedSource:
    """只有四卷的《资治通鉴》，镜像都在本机；第一个镜像什么也没有。"""
    upstream = NAMED["tongjian"].upstream
    assert upstream is not None
    small = replace(
        upstream,
        files=(f"{server.url}/none/{{path}}", f"{server.url}/raw/{{path}}"),
        archives=(f"{server.url}/all.tar.gz",),
        chapters=CHAPTERS,
        expected={"train": Expected(6, 72, 90)},
    )
    return replace(NAMED["tongjian"], upstream=replace(small, **changes))  # type: ignore[arg-type]


def serve(server: Server, files: dict[str, bytes]) -> None:
    """把文件放上第二个镜像。"""
    server.files |= {f"raw/{path}": body for path, body in files.items()}


def test_fetching_cleans_splits_and_locks(server: Server, cache: Path) -> None:
    """逐个文件取得（第一个镜像全是 404），清洗、按卷切分、锁住、告知权利状况。"""
    serve(server, upstream_files())
    steps: list[tuple[int, int, str]] = []
    report = fetch_source(
        tiny_source(server), progress=lambda *step: steps.append(step)
    )
    assert report.fresh
    assert report.folder == cache / "corpora" / "tongjian"
    assert {name: count.lines for name, count in report.splits.items()} == {
        "train": 6,
        "valid": 3,
        "test": 3,
    }
    assert report.dropped == {"title": 4, "misaligned": 4}
    assert report.warnings == []
    assert "权利未澄清" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["splits"]["train"]["lines"] == 6
    assert steps[-1][:2] == (8, 8)
    assert (report.folder / "NOTICE.txt").is_file()
    docs = list(read_corpus("tongjian:classical"))
    assert [doc.source for doc in docs] == [
        "train.classical.txt：周纪一",
        "train.classical.txt：周纪二",
    ]
    assert (
        docs[0].text
        == "甲王正月伐赵，取其三城。甲王二月伐赵，取其三城。甲王三月伐赵，取其三城。"
    )
    pairs = list(read_corpus("tongjian:pairs", "valid"))
    assert (len(pairs), pairs[0].target) == (3, "丙王正月攻打赵国，夺取了三城。")
    assert len(list(read_corpus("tongjian", "test"))) == 2


def test_a_second_fetch_touches_no_network(server: Server, cache: Path) -> None:
    """已经取得的只核对；`force` 重新整理时重用下好的文件。"""
    serve(server, upstream_files())
    first = fetch_source(tiny_source(server))
    server.requests.clear()
    again = fetch_source(tiny_source(server))
    assert not again.fresh
    assert again.splits == first.splits
    assert fetch_source(tiny_source(server), force=True).splits == first.splits
    assert server.requests == []


def test_the_archive_is_the_last_resort_and_cannot_escape(
    server: Server, cache: Path
) -> None:
    """逐个文件不成就下整个归档；归档里不相干的、想越界的路径一概不写。"""
    server.files["all.tar.gz"] = archive_of(upstream_files())
    report = fetch_source(tiny_source(server))
    assert report.origin == f"{server.url}/all.tar.gz"
    names = {path.name for path in cache.parent.parent.rglob("*") if path.is_file()}
    assert "逃.txt" not in names
    assert "README.md" not in names
    assert "archive.tar.gz" not in names


def test_a_mirror_a_local_archive_or_a_checkout_will_do(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    """`--url` 可以是镜像前缀、含 {path} 的模板、本地 tar.gz 或检出的文件夹。"""
    files = upstream_files()
    serve(server, files)
    (tmp_path / "全.tar.gz").write_bytes(archive_of(files))
    for path, body in files.items():
        target = tmp_path / "检出" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
    sizes = []
    for url in (
        f"{server.url}/raw/",
        f"{server.url}/raw/{{path}}?x=1",
        str(tmp_path / "全.tar.gz"),
        str(tmp_path / "检出"),
    ):
        if "?" in url:
            server.files |= {f"raw/{path}?x=1": body for path, body in files.items()}
        sizes.append(fetch_source(tiny_source(server), url=url, force=True).splits)
        for raw in (cache / "upstream").rglob("*.txt"):
            raw.unlink()
    assert all(size == sizes[0] for size in sizes)
    with pytest.raises(CorpusError, match="里没有 双语数据"):
        fetch_source(tiny_source(server), url=str(cache), force=True)


def test_content_that_changed_since_the_first_fetch_is_refused(
    server: Server, cache: Path
) -> None:
    """锁记着第一次的 sha256：上游内容换了，重新取得时拒绝，原来的语料不动。"""
    files = upstream_files()
    serve(server, files)
    folder = fetch_source(tiny_source(server)).folder
    before = sha256_of(folder / "train.classical.txt")
    path = CHAPTERS[0].path("classical")
    server.files[f"raw/{path}"] = files[path].replace("城".encode(), "县".encode())
    next((cache / "upstream").rglob("周纪一/source.txt")).unlink()
    with pytest.raises(CorpusError, match="sha256"):
        fetch_source(tiny_source(server, archives=()), force=True)
    assert sha256_of(folder / "train.classical.txt") == before


def test_a_damaged_corpus_is_refused_at_use(server: Server, cache: Path) -> None:
    """取得之后文件变了或丢了，使用时拒绝，并说怎么恢复。"""
    serve(server, upstream_files())
    folder = fetch_source(tiny_source(server)).folder
    path = folder / "train.modern.txt"
    path.write_text("改过\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="sha256"):
        resolve("tongjian:modern")
    path.unlink()
    with pytest.raises(CorpusError, match="文件不在了"):
        resolve("tongjian:modern")
    (folder / "corpus.lock.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorpusError, match="损坏"):
        resolve("tongjian:modern")


def test_a_corpus_of_another_size_is_refused_or_flagged(
    server: Server, cache: Path
) -> None:
    """规模与已知的差一成以上就拒绝、什么也不留；差百分之几只提醒。"""
    serve(server, upstream_files())
    with pytest.raises(CorpusError, match="相差"):
        fetch_source(tiny_source(server, expected={"train": Expected(12, 72, 90)}))
    assert not (cache / "corpora" / "tongjian").exists()
    assert list((cache / "corpora").iterdir()) == []
    near = tiny_source(server, expected={"train": Expected(6, 76, 90)})
    assert "与已知的相差 -5.3%" in fetch_source(near).warnings[0]


def test_offline_fetching_names_the_ways_out(server: Server, cache: Path) -> None:
    """全连不上：一条消息说清地址、原因与四条出路，不留半份语料。"""
    source = tiny_source(
        server,
        files=("http://127.0.0.1:9/{path}",),
        archives=("http://127.0.0.1:9/all.tar.gz",),
    )
    with pytest.raises(CorpusError) as caught:
        fetch_source(source)
    assert "连不上" in caught.value.found
    for way in ("HTTPS_PROXY", "--url", "COMPANION_DATA", "sample"):
        assert way in caught.value.remedy
    assert not (cache / "corpora").exists()


def test_unequal_sides_of_a_juan_are_refused(server: Server, cache: Path) -> None:
    """某卷两侧行数不同，指出卷名与行数。"""
    files = upstream_files()
    files[CHAPTERS[1].path("modern")] = "只有一行。\n".encode()
    serve(server, files)
    with pytest.raises(CorpusError, match="周纪二文言 5 行、白话 1 行"):
        fetch_source(tiny_source(server))


def test_only_known_downloadable_names_can_be_fetched(cache: Path) -> None:
    """拼错的名字给出建议；随包附带的不必取得。"""
    with pytest.raises(CorpusError, match="是不是 tongjian"):
        fetch("tongjain")
    with pytest.raises(CorpusError, match="随包附带"):
        fetch("sample:classical")
