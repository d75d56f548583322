"""README 与书的首页的图与表：表与一张图由 results/ 来，两张图是截图。

    python experiments/draw_readme.py                 # 只画结果，写表
    python experiments/draw_readme.py --site _build/html   # 另拍书的一页
    python experiments/draw_readme.py --report demo/report.html  # 另拍报告卡的上半

结果的图说的是：每个训练目标读完《资治通鉴》之后，领域与通用的每字比特数各变了多少。
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from recording import spread

from companion.objectives import OBJECTIVES
from companion.plots import save_figure, style

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "book" / "_static" / "readme"
SPLITS = {"tongjian_domain": "学到：领域", "tongjian_general": "忘掉：通用"}
HEAD = """| 读什么 | 没有训练 | 对照组 | 继续预训练 | 尺子 | 通用 |
|---|---:|---:|---:|---:|---:|"""
TABLE = re.compile(r"(<!-- 结果表：由 .*? 写 -->\n)(.*?)(\n<!-- 结果表完 -->)", re.S)


def read_changes() -> list[tuple[str, dict[str, dict[str, float]]]]:
    """每个训练目标的名字与变化，学得多的在前。"""
    found: list[tuple[str, dict[str, dict[str, float]]]] = []
    for path in sorted((ROOT / "results").glob("continue_tongjian_*.json")):
        content = json.loads(path.read_text("utf-8"))
        run = content["runs"][0]
        name = f"{OBJECTIVES[run['objective']].title}\n{run['model']}"
        found.append((name, content["relative_change_of_bits_per_char"]))
    return sorted(found, key=lambda row: row[1]["tongjian_domain"]["mean"])


def read_steps() -> tuple[int, int]:
    """最少与最多练了几步。"""
    paths = (ROOT / "results").glob("continue_tongjian_*.json")
    steps = [json.loads(p.read_text("utf-8"))["runs"][0]["steps"] for p in paths]
    return min(steps), max(steps)


def table() -> str:
    """README 的结果表：没有训练的、对照组、训练过的、尺子，同样的目标。"""
    front = json.loads((ROOT / "results" / "front_table.json").read_text("utf-8"))
    demo = front["demo"]
    rows = [
        row_of(
            "《四境纪》文言，掩码，掺两成回放",
            demo["continued"]["before"]["domain"]["mean"],
            demo["control"]["after"]["domain"],
            demo["continued"]["after"]["domain"],
            demo["ruler"]["trigram"],
            change_of(demo["continued"], "general"),
        )
    ]
    for kind, text in (("bloom", "白话，因果"),):
        path = ROOT / "results" / f"continue_tongjian_{kind}.json"
        content = json.loads(path.read_text("utf-8"))
        after = {
            name: spread(
                [
                    run["after"]["domain"]["bits_per_char"]
                    for run in content["runs"]
                    if run["corpus"] == name
                ]
            )
            for name in ("control", "tongjian")
        }
        rows.append(
            row_of(
                f"《资治通鉴》{text}，没有回放",
                content["runs"][0]["before"]["domain"]["bits_per_char"],
                after["control"],
                after["tongjian"],
                front["tongjian"][kind]["trigram"],
                content["relative_change_of_bits_per_char"]["tongjian_general"]["mean"],
            )
        )
    return "\n".join([HEAD, *rows])


def change_of(found: dict[str, Any], where: str) -> float:
    """均值的相对变化。"""
    return found["after"][where]["mean"] / found["before"][where]["mean"] - 1


def row_of(
    name: str,
    untrained: float,
    control: dict[str, float],
    continued: dict[str, float],
    ruler: float,
    general: float,
) -> str:
    """表的一行；对照组与训练过的带三个种子的标准差。"""
    cells = [
        name,
        f"{untrained:.2f}",
        *(
            f"{found['mean']:.2f} ± {found['std']:.2f}"
            for found in (control, continued)
        ),
        f"{ruler:.2f}",
        f"{general:+.1%}".replace("-", "−"),
    ]
    return f"| {' | '.join(cells)} |"


def write_table() -> None:
    """把表写进 README 的两行记号之间。"""
    path = ROOT / "README.md"
    text = path.read_text("utf-8")
    path.write_text(TABLE.sub(lambda m: m[1] + table() + m[3], text), "utf-8")


def draw() -> style.Card:
    """横条：左边学到的，右边忘掉的，须是三个种子的标准差。"""
    rows, (least, most) = read_changes(), read_steps()
    with style.drawing():
        card = style.Card(style.WIDTH, 0.45 * len(rows) + 1.2, constrained=True)
        axes = card.subplots()
        colors = (style.BLUE, style.ORANGE)
        for (split, label), color, hatch in zip(
            SPLITS.items(), colors, ("", "//"), strict=True
        ):
            axes.barh(
                [name for name, _ in rows],
                [100 * change[split]["mean"] for _, change in rows],
                xerr=[100 * change[split]["std"] for _, change in rows],
                color=color,
                edgecolor="white",
                hatch=hatch,
                label=label,
                height=0.62,
            )
        axes.axvline(0, color=style.GREY, lw=0.8)
        axes.invert_yaxis()
        axes.set_xlabel("每字比特数的变化，%（负的是更会猜；须是三个种子的标准差）")
        axes.set_title(f"起步模型读《资治通鉴》{least} 到 {most} 步之后，没有回放")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower right", frameon=False)
        said = "；".join(
            f"{name.partition(chr(10))[0]}领域 "
            f"{100 * change['tongjian_domain']['mean']:+.1f}%，通用 "
            f"{100 * change['tongjian_general']['mean']:+.1f}%"
            for name, change in rows
        )
        return style.finish(card, f"继续预训练前后，每字比特数的变化。{said}。")


def photograph(site: Path, target: Path) -> None:
    """书的互动页，宽屏。"""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 860}, locale="zh-CN")
        page.goto((site.resolve() / "book" / "play.html").as_uri())
        page.locator("#play-seed").fill("3")
        page.locator("#play-objective").select_option("span_corruption")
        page.locator("#play-text").fill(
            "狡兔死，走狗烹；飞鸟尽，良弓藏；敌国破，谋臣亡。"
        )
        page.screenshot(path=target)
        browser.close()
    shrink(target)


def photograph_report(report: Path, target: Path) -> None:
    """`companion demo` 写出的报告卡，上半页。"""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 900, "height": 595}, locale="zh-CN")
        page.goto(report.resolve().as_uri())
        page.screenshot(path=target)
        browser.close()
    shrink(target)


def shrink(target: Path) -> None:
    """减到 64 色，文件小。"""
    from PIL import Image

    picture = Image.open(target).convert("RGB")
    picture.quantize(64).save(target, optimize=True)


def main() -> None:
    """画，存。"""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", type=Path, help="构建好的书；给了才拍")
    parser.add_argument("--report", type=Path, help="demo 的 report.html；给了才拍")
    args = parser.parse_args()
    site = args.site
    print(save_figure(draw(), OUT / "gain.png"))
    write_table()
    if site is not None:
        photograph(site, OUT / "site.png")
        print(OUT / "site.png")
    if args.report is not None:
        photograph_report(args.report, OUT / "report.png")
        print(OUT / "report.png")


if __name__ == "__main__":
    main()
