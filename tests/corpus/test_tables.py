"""模型仓库里的数据集作语料：在子进程里，HF_ENDPOINT 指向本机上的仓库。"""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, answers_of

from companion.corpus.tables import HubCorpus
from companion.errors import CorpusError

NAME = "shijia/shanchuan"
TEXTS = [f"第{number}卷，院里的水缸满了。\n他把书放在窗前。" for number in range(5)]

_PROGRAM = """
import json, sys
from companion.corpus.documents import open_corpus
from companion.corpus.sources import resolve
from companion.errors import CorpusError

for spec, split in json.loads(sys.argv[1]):
    try:
        found = [[each.text, each.id] for each in open_corpus(spec, split)]
        print(json.dumps([resolve(spec).splits, found]))
    except CorpusError as error:
        print(json.dumps([str(error)]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """一个数据集：训练 5 行、留出 1 行，正文在 content 一列。"""
    folder = tmp_path_factory.mktemp("数据集")
    for split, texts in (("train", TEXTS), ("validation", ["留出的一句。"])):
        lines = [json.dumps({"content": text, "year": 1}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    with HubServer({NAME: folder}) as server:
        yield server


def opened(
    home: Path, environment: dict[str, str], *asked: tuple[str, str | None]
) -> list[list[Any]]:
    """逐份打开：[切分, [[正文, 编号], …]]，或 [错误消息]。"""
    caches = {"HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
    return answers_of(_PROGRAM, asked, caches | environment)


def test_a_dataset_of_the_hub_is_a_corpus_and_stays_one_offline(hub, tmp_path):
    """训练与留出两个切分、另一列的正文、钉住的提交；断网之后同样。错处逐个说明。"""
    commit = hub.commit(NAME)
    asked = [
        (f"hf:{NAME}#content", "train"),
        (f"hf:{NAME}#content", None),
        (f"hf:{NAME}@{commit}#content", "train"),
    ]
    wrong = [
        (f"hf:{NAME}", "train"),
        (f"hf:{NAME}#body", "train"),
        (f"hf:{NAME}@v9", "train"),
        ("hf:shijia/meiyou", "train"),
    ]
    train, valid, pinned, *refused = opened(
        tmp_path, {"HF_ENDPOINT": hub.url}, *asked, *wrong
    )
    splits, documents = train
    assert splits == ["train", "valid"]
    assert [text for text, _ in documents] == TEXTS
    assert documents[0][1] == f"hf:{NAME}#content train#1"
    assert [text for text, _ in valid[1]] == ["留出的一句。"]
    assert [text for text, _ in pinned[1]] == TEXTS

    no_text, no_body, no_revision, missing = (message for [message] in refused)
    assert "content、year" in no_text
    assert "末尾写 #列名" in no_text
    assert "没有 body 一列" in no_body
    assert "取不到数据集" in no_revision
    assert "取不到数据集 shijia/meiyou" in missing

    hub.requests.clear()
    offline = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    assert opened(tmp_path, offline, *asked) == [train, valid, pinned]
    assert not hub.requests


@pytest.mark.parametrize("spec", ["hf:bert", "hf:a/b c", "hf:", "hf:a/b@"])
def test_a_wrong_form_is_explained(spec):
    """少了组织、多了空格、版本空着：说出应有的写法。"""
    with pytest.raises(CorpusError, match=r"hf:组织/名字"):
        HubCorpus.of(spec)
