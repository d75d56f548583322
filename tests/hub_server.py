"""本机上的模型仓库：标准库写成，答 huggingface_hub 会问的那几个问题。

    with HubServer({"SIKU-BERT/sikubert": folder}) as hub:
        环境变量 HF_ENDPOINT=hub.url、全新的 HF_HOME，再去 load_checkpoint

| 请求 | 回答 |
|---|---|
| HEAD、GET /{id}/resolve/{版本}/{路径} | 文件；ETag、X-Repo-Commit、Range |
| GET /api/models/{id}[/revision/{版本}] | id、sha、siblings |
| GET /api/models/{id}/tree/{版本} | 文件表 |

没有的仓库、版本、文件答 404，`X-Error-Code` 说明是哪一种。每个仓库只有一个提交，编号由
内容算出；分支 main 指向它。
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]

_RESOLVE = re.compile(
    r"/(?:datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
_API = re.compile(
    r"/api/(?:models|datasets)/(?P<id>[^/]+/[^/]+)"
    r"(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+))?/?"
)


def answers_of(program: str, asked: Any, environment: dict[str, str]) -> list[Any]:
    """在新进程里运行一段程序：问题是它的参数，它逐行打印 JSON，一行一个答案。

    huggingface_hub 装入时就读 HF_*，所以要新的进程；这里的 HF_* 一概不带过去。
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(asked)],
        env={**inherited, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


class HubServer:
    """以上下文管理器的方式开关；`requests` 记下收到的每个请求。

    Args:
        repositories: 仓库编号（组织/模型）→ 存放其文件的文件夹。
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """http://127.0.0.1:端口。"""
        return f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, repository: str) -> str:
        """仓库唯一的提交，40 位十六进制。"""
        digest = hashlib.sha1()
        for path in sorted(self.repositories[repository].iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _missing(code: str) -> _Reply:
    return _Reply(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})


def _json(content: Any) -> _Reply:
    body = json.dumps(content).encode()
    return _Reply(200, body, {"Content-Type": "application/json"})


def _answer(hub: HubServer, path: str, wanted: str | None) -> _Reply:
    """一个请求的回答；`wanted` 是 Range 头。"""
    found = _RESOLVE.fullmatch(path) or _API.fullmatch(path)
    if found is None:
        return _missing("EntryNotFound")
    repository, revision = found["id"], found["revision"]
    if repository not in hub.repositories:
        return _missing("RepoNotFound")
    commit = hub.commit(repository)
    if revision not in (None, "main", commit):
        return _missing("RevisionNotFound")
    folder = hub.repositories[repository]
    if found.re is _RESOLVE:
        return _file(folder / found["path"], commit, wanted)
    names = sorted(path.name for path in folder.iterdir())
    if found["kind"] == "tree":
        return _json([_entry(folder / name) for name in names])
    siblings = [{"rfilename": name} for name in names]
    return _json({"id": repository, "sha": commit, "siblings": siblings})


def _entry(path: Path) -> dict[str, Any]:
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    return {"type": "file", "path": path.name, "size": size, "oid": oid}


def _file(path: Path, commit: str, wanted: str | None) -> _Reply:
    if not path.is_file():
        return _missing("EntryNotFound")
    body = path.read_bytes()
    headers = {
        "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
        "X-Repo-Commit": commit,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if span is None:
        return _Reply(200, body, headers)
    start, stop = int(span[1]), int(span[2] or len(body) - 1)
    headers["Content-Range"] = f"bytes {start}-{stop}/{len(body)}"
    return _Reply(206, body[start : stop + 1], headers)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def _reply(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            reply = _answer(hub, path, self.headers.get("Range"))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if with_body:
                self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:
            """不往测试的输出里写。"""

    return Handler
