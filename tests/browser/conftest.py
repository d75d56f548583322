"""真的 Chromium：打开构建好的书，记下控制台的错误与出站的请求。"""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """系统里的 Chromium；可用环境变量 CHROMIUM 指定。"""
    pytest.importorskip(
        "playwright", reason='没有装浏览器测试：pip install -e ".[test]"'
    )
    paths = (os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES))
    found = next(filter(None, paths), None)
    if not found:
        pytest.skip("没有 Chromium：装一个（Debian：apt install chromium）再测")
    return found


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """不刷屏。"""


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[str]:
    """本机上的一个网站，内容是构建好的书。"""
    handler = functools.partial(_Quiet, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """一个浏览器，用完就关：它的事件循环开着，同一进程里别的测试就不能再开。"""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


class Visit:
    """一个标签页，连同它说过的错误与要过的外站。"""

    def __init__(self, page: Any, site: str) -> None:
        self.page, self.site = page, site
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._see)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _see(self, request: Any) -> None:
        if not request.url.startswith((self.site, "file:", "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, name: str, query: str = "") -> Any:
        """打开书里的一页，等公式画完。"""
        self.page.goto(f"{self.site}/{name}.html{query}")
        self.page.evaluate("window.MathJax?.startup?.promise")
        return self.page

    def assert_quiet(self) -> None:
        """控制台没有错误，也没有要过外站的东西。"""
        errors, self.errors = self.errors, []
        outside, self.outside = self.outside, []
        assert not errors, errors[:5]
        assert not outside, outside[:5]


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """一份缓存与存储，同一文件的测试共用；减少动画，等待因此也少。"""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        reduced_motion="reduce",
        locale="zh-CN",
    )
    context.set_default_timeout(60_000)  # 机器忙的时候也等得起
    yield context
    context.close()


@pytest.fixture(scope="module")
def tab(context: Any, site: str) -> Iterator[Visit]:
    """一个标签页，同一文件的测试共用。"""
    tab = Visit(context.new_page(), site)
    yield tab
    tab.page.close()


@pytest.fixture
def visit(context: Any, site: str) -> Iterator[Visit]:
    """一个新标签页；测试结束时查它有没有出错。"""
    visit = Visit(context.new_page(), site)
    yield visit
    visit.page.close()
    visit.assert_quiet()
