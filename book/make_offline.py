"""离线版：网页的 zip 与 EPUB，放进 _build/offline/。

    python book/make_offline.py              # 先 make book
    python book/make_offline.py --zip-only

zip 解开之后打开 index.html，搜索、公式、互动页都能用。EPUB 给阅读器：那里没有脚本，公式
照 TeX 的写法显示，互动页只剩文字。
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NAME = "continued-pretraining"


def make_zip(html: Path, out: Path) -> Path:
    """把构建好的网页装成一个 zip，里面是一个文件夹。"""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(html, Path(folder, NAME))
        made = shutil.make_archive(str(out / NAME), "zip", folder, NAME)
    return Path(made)


def make_epub(out: Path) -> Path:
    """另用一份设置构建 EPUB：启动按钮与仓库按钮在那里用不了，留着还会出错。"""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    for key in ("launch_buttons", "repository"):
        config.pop(key)
    config["html"] = {}
    # EPUB 自己管样式与封面；网页的补丁与脚本用不上
    extensions = config["sphinx"]["local_extensions"]
    for name in ("zh_theme", "page_repairs", "local_mathjax", "play_vocabulary",
                 "readers_ways"):  # fmt: skip
        extensions.pop(name)
    for name, folder in extensions.items():
        extensions[name] = str(ROOT / folder)  # 相对的路径从设置文件所在处算起
    settings = config["sphinx"]["config"]
    for key in ("html_css_files", "html_js_files", "html_static_path", "mathjax_path"):
        settings.pop(key, None)
    settings |= {
        "epub_title": config["title"],
        "epub_basename": NAME,
        "epub_uid": NAME,
        "epub_identifier": NAME,
        "epub_scheme": "ID",
        "epub_description": config["title"],
        "epub_contributor": config["author"],
        "epub_show_urls": "no",
        "epub_css_files": [],
        "epub_writing_mode": "horizontal",
        "suppress_warnings": ["epub.unknown_project_files"],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "_config.yml")
        path.write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from jupyter_book.cli.main import main; main()",
                *("build", str(ROOT), "--config", str(path)),
                *("--toc", str(ROOT / "_toc.yml"), "--path-output", folder),
                *("--builder", "custom", "--custom-builder", "epub"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        made = list(Path(folder).rglob("*.epub"))
        if done.returncode or not made:
            raise SystemExit((done.stdout + done.stderr)[-3000:])
        return Path(shutil.copy2(made[0], out / f"{NAME}.epub"))


def main() -> None:
    """做两份，各写出大小与 sha256。"""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "offline")
    parser.add_argument("--zip-only", action="store_true", help="不做 EPUB")
    given = parser.parse_args()
    if not (given.html / "index.html").is_file():
        raise SystemExit(f"{given.html} 里没有构建好的书：先运行 make book")
    given.out.mkdir(parents=True, exist_ok=True)
    made = [make_zip(given.html, given.out)]
    if not given.zip_only:
        made.append(make_epub(given.out))
    for path in made:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest}")


if __name__ == "__main__":
    main()
