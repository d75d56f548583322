# 日常的几条命令；没有 make 时，照抄右边的命令即可
PYTHON ?= python
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help check lint types test demo book preview chapter offline notebooks nb-clean constraints clean

help:  ## 列出这些命令
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check: lint types test  ## 提交之前要全绿

lint:  ## 风格与格式
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## 类型
	$(PYTHON) -m pyright

test:  ## 全部测试，含书与笔记本
	$(PYTHON) -m pytest -n 2

demo:  ## 三分钟的演示
	companion demo --output demo

book:  ## 构建书，有警告就失败
	jupyter-book build . -n -W --keep-going

preview: book  ## 构建之后在 http://localhost:8000 看；Ctrl-C 停下
	$(PYTHON) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

chapter:  ## 照模板开一章：make chapter STEM=13_topic TITLE=章名
	$(PYTHON) book/new_chapter.py "$(STEM)" "$(TITLE)"

offline: book  ## 离线版：网页的 zip、EPUB 与 PDF，放进 _build/offline/
	$(PYTHON) book/make_offline.py

notebooks:  ## 笔记本：检查、单独重跑、核对输出
	$(PYTHON) -m pytest tests/test_notebooks.py -q

nb-clean:  ## 去掉笔记本里多余的元数据，保留输出
	$(PYTHON) tests/clean_notebooks.py notebooks/*.ipynb

constraints:  ## 由当前环境重写 constraints.txt
	$(PYTHON) tests/write_constraints.py constraints.txt

clean:
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis
