"""`companion corpus …`：列出、取得、统计、分章、缺字、清洗、切分、掺和。"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from companion.cli.chinese import ChineseCommand, ChineseGroup
from companion.cli.console import emit, make_console, make_table, note
from companion.cli.options import CORPUS_HELP, AsJson, ModelName, Seed
from companion.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from companion.corpus.document import Document

app = typer.Typer(
    cls=ChineseGroup,
    help="语料：列出、取得、统计、分章、缺字、清洗、切分、掺和。",
    no_args_is_help=True,
)
CorpusArgument = Annotated[str, typer.Argument(metavar="语料", help=CORPUS_HELP)]


@app.command("list", cls=ChineseCommand)
def list_(as_json: AsJson = False) -> None:
    """列出有名字的语料、许可，以及本机有没有。"""
    from companion.corpus import list_sources

    listed = list_sources()
    table = make_table("名字", "本机", "内容", title="有名字的语料")
    for each in listed:
        table.add_row(each.name, "没有" if each.folder is None else "有", each.title)
    licences = {each.name.partition(":")[0]: each.licence for each in listed}
    emit(
        {"sources": [each.as_dict() for each in listed]},
        table,
        *(f"{name} 的权利状况：{text}" for name, text in licences.items()),
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="名字", help="companion corpus list 里的名字")
    ],
    url: Annotated[
        str | None,
        typer.Option(metavar="来处", help="换一个镜像、本地的 tar.gz 或检出的仓库"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="已有也重新整理；下好的文件仍会重用")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """取得一份语料放进缓存，核对每个文件的 sha256；断了可以接着取。"""
    from companion.corpus import fetch as run

    console = make_console()
    with console.status(f"取得 {name}"):
        report = run(name, url=url, force=force)
    emit(report.as_dict(), str(report), as_json=as_json)


@app.command(cls=ChineseCommand)
def stats(
    corpus: CorpusArgument,
    split: Annotated[
        str, typer.Option(metavar="切分", help="有名字的语料读哪个切分")
    ] = "train",
    as_json: AsJson = False,
) -> None:
    """数一数：多少篇、多少字、多长、重复多少。"""
    from companion.corpus import corpus_stats

    documents, skipped = _read(corpus, split)
    found = corpus_stats(documents)
    emit(
        {"corpus": corpus, "skipped": skipped, **found.as_dict()},
        str(found),
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def missing(
    corpus: CorpusArgument,
    model: ModelName,
    words: Annotated[
        bool, typer.Option("--words", help="也数被拆开的词（用 jieba 切词）")
    ] = False,
    min_count: Annotated[
        int, typer.Option(metavar="整数", help="出现不到这么多次的不列")
    ] = 2,
    split: Annotated[
        str, typer.Option(metavar="切分", help="有名字的语料读哪个切分")
    ] = "train",
    as_json: AsJson = False,
) -> None:
    """语料里哪些字、哪些词，分词器认不得或要拆开；训练时用 --set new_characters 添。"""
    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus import jieba_segmenter, missing_vocabulary

    found = missing_vocabulary(
        _read(corpus, split)[0],
        load_tokenizer(model),
        segmenter=jieba_segmenter() if words else None,
        min_count=min_count,
    )
    emit(
        {"corpus": corpus, "model": model, **found.as_dict()},
        str(found),
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def chapters(
    file: Annotated[Path, typer.Argument(metavar="文件", help="小说一类的 .txt")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="已有篇目表时替换它")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """照“第三回”一类的标题分章，写成旁边的 chapters.tsv，此后一章一篇。"""
    from companion.corpus.document import CHAPTERS, write_chapters

    headings = write_chapters(file, overwrite=overwrite)
    table = file.parent / CHAPTERS
    emit(
        {"output": str(table), "chapters": [each.title for each in headings]},
        f"{len(headings):,} 章，从“{headings[0].title}”到“{headings[-1].title}”",
        f"写下 {table}；读 {file.name} 时从此一章一篇",
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def clean(
    corpus: CorpusArgument,
    output: Annotated[
        Path,
        typer.Option(metavar="文件", help="写到哪里；后缀决定格式，例如 干净.jsonl"),
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="规则", help="只用这几条规则，可以写多次"),
    ] = None,
    deduplicate: Annotated[
        bool, typer.Option("--dedup/--no-dedup", help="是否去掉重复的文档")
    ] = True,
    near: Annotated[
        bool, typer.Option("--near/--exact", help="去重时近似的也去，或只去完全相同的")
    ] = True,
    errors: Annotated[
        Literal["strict", "replace"],
        typer.Option(
            metavar="做法", help="解不开的字节：strict 拒绝，replace 换成“□”并计数"
        ),
    ] = "strict",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="目标文件已存在时替换它")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """清洗并去重，每条规则改了几篇、丢了几篇都记账；从不改全角标点。"""
    from companion.corpus import clean_documents, write_documents
    from companion.corpus import deduplicate as drop_duplicates

    # 乱码也读进来：收拾它正是清洗的事
    documents, skipped = _read(corpus, refuse_garble=False, errors=errors)
    lost = 0

    def counted() -> "Iterator[Document]":
        nonlocal lost
        for each in documents:
            lost += each.text.count("\ufffd")
            yield each

    kept, cleaning = clean_documents(counted(), rules or None)
    reports: dict[str, Any] = {"cleaning": cleaning}
    if deduplicate:
        kept, reports["deduplication"] = drop_duplicates(kept, near=near)
    count = write_documents(kept, output, overwrite=overwrite)
    emit(
        {
            "output": str(output),
            "documents": count,
            "skipped": skipped,
            "lost_characters": lost,
            **{name: report.as_dict() for name, report in reports.items()},
        },
        *(str(report) for report in reports.values()),
        *([f"解不开、已经丢了的字 {lost:,} 处"] if lost else []),
        f"写下 {count:,} 篇，在 {output}",
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def split(
    corpus: CorpusArgument,
    output: Annotated[
        Path, typer.Option(metavar="文件夹", help="其中写 train.jsonl 与 valid.jsonl")
    ],
    valid_ratio: Annotated[
        float, typer.Option(metavar="比例", help="留出的比例，在 0 与 1 之间")
    ] = 0.05,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="两个文件已存在时替换它们")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """按文档切成训练集与留出集，并查留出集有没有混进训练集。"""
    from companion.corpus import overlap, split_corpus

    targets = {name: output / f"{name}.jsonl" for name in ("train", "valid")}
    for path in targets.values():
        if path.exists() and not overwrite:
            raise ConfigError(
                found=f"{path} 已经存在",
                expected="新的文件夹",
                remedy="换一个 --output；确要替换，加 --overwrite",
            )
    done = split_corpus(_read(corpus)[0], valid_ratio, seed)
    shared = overlap(done.train, done.valid)
    _write_both({targets["train"]: done.train, targets["valid"]: done.valid}, output)
    sizes = done.as_dict()
    emit(
        {"output": str(output), **sizes, "overlap": shared.as_dict()},
        f"训练集 {len(done.train):,} 篇、留出集 {len(done.valid):,} 篇，在 {output}",
        str(shared),
        as_json=as_json,
    )


@app.command(cls=ChineseCommand)
def mix(
    corpora: Annotated[
        list[str],
        typer.Argument(metavar="[名字=]语料[:权重]…", help="两份以上的语料"),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="文件", help="写到这个新文件，格式照后缀"),
    ] = None,
    characters: Annotated[
        int | None, typer.Option(metavar="整数", help="共多少字；缺省是各份之和")
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="数", help="没有写权重时，份量是 大小^(1/温度)")
    ] = 1.0,
    seed: Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="只列出会读什么，不写")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """把几份语料照权重或大小掺成一份；训练时不必先掺，直接写几个 --corpus。"""
    from companion.corpus import write_documents
    from companion.corpus.documents import open_corpus
    from companion.corpus.mixing import mixed, parse_sources, shares_of

    if dry_run == (output is not None):
        raise ConfigError(
            found="--dry-run 与 --output " + ("都给了" if dry_run else "都没有给"),
            expected="只看用 --dry-run，要写用 --output",
            remedy="留下其中一个",
        )
    if temperature <= 0 or (characters is not None and characters < 1):
        raise ConfigError(
            found=f"--temperature {temperature:g}、--characters {characters}",
            expected="都是正数",
            remedy="温度 1 是照大小，2 更平均；字数例如 1000000",
        )
    sources = parse_sources(corpora)
    texts = [open_corpus(each.spec) for each in sources]
    sizes = [sum(document.num_chars for document in text) for text in texts]
    shares = shares_of(sources, sizes, temperature)
    total = characters or sum(sizes)
    table = make_table("份", "篇数", "字数", "占", "读几遍", title=f"共 {total:,} 字")
    listed: list[dict[str, Any]] = []
    for source, text, size, share in zip(sources, texts, sizes, shares, strict=True):
        laps = total * share / size
        table.add_row(
            source.name, f"{len(text):,}", f"{size:,}", f"{share:.1%}", f"{laps:.2f}"
        )
        listed.append(
            {
                "name": source.name,
                "documents": len(text),
                "characters": size,
                "share": share,
                "epochs": laps,
            }
        )
    if output is not None:
        write_documents(mixed(texts, shares, total, seed), output)
    emit({"characters": total, "sources": listed}, table, as_json=as_json)


def _read(
    corpus: str, split: str = "train", **options: Any
) -> "tuple[Iterator[Document], list[str]]":
    """打开语料；跳过了的文件说出来，并列出名字。"""
    from companion.corpus import resolve

    found = resolve(corpus)
    note(*found.notices)
    return found.read(split, **options), [str(path) for path in found.skipped]


def _write_both(parts: "Mapping[Path, Sequence[Document]]", folder: Path) -> None:
    """两份都写好了才一起搬过去：不会只有训练集而没有留出集。"""
    from companion.corpus import write_documents

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".未完成-", dir=folder.parent) as name:
            drafts = {path: Path(name) / path.name for path in parts}
            for path, documents in parts.items():
                write_documents(documents, drafts[path])
            folder.mkdir(exist_ok=True)
            for path, draft in drafts.items():
                draft.replace(path)
    except OSError as error:
        raise CorpusError(
            found=f"写不进 {folder}（{error.strerror or error}）",
            expected="可写的文件夹，磁盘有空间",
            remedy="换一个 --output，或检查权限与磁盘",
        ) from error
