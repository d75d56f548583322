// 词表、分词、句子，以及各目标共用的几个小函数；词表由构建时的 vocabulary.js 给出。
"use strict";
const playTokens = (() => {
  const { specials, letters } = playVocabulary;

  const vocabulary = [...specials, ...letters];
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  const UNK = ids.get("[UNK]");
  const CLS = ids.get("[CLS]");
  const SEP = ids.get("[SEP]");
  const MASK = ids.get("[MASK]");
  const BOS = ids.get("<s>");
  const EOS = ids.get("</s>");
  const PAD = ids.get("[PAD]");
  // 随机替换只从普通词元里抽，它们从 first 起连成一片
  const first = specials.length;
  const plain = vocabulary.length - first;

  const encode = (text) =>
    Array.from(text.normalize("NFC"), (letter) => ids.get(letter) ?? UNK);
  const words = (row) => row.map((id) => (id === null ? null : vocabulary[id]));
  const range = (count) => Array.from({ length: count }, (_, i) => i);
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

  // 累积和；表里不大于 value 的有几个
  const cumulative = (weights) => {
    let total = 0;
    return weights.map((weight) => (total += weight));
  };

  const searchRight = (table, value) => table.filter((each) => each <= value).length;

  // ---- 句子（sentences.py）：句末与紧跟着的后引号归前一句
  const ends = new Set(Array.from("。！？；…!?\n", (mark) => ids.get(mark)));
  const closers = new Set(Array.from("”’」』）》", (mark) => ids.get(mark)));
  ends.delete(undefined);
  closers.delete(undefined);

  const splitSentences = (body) => {
    const sentences = [];
    let tail = true;
    body.forEach((id, at) => {
      const decides = at === 0 || ends.has(id) || !closers.has(id);
      const before = tail;
      if (decides) tail = ends.has(id);
      if (at === 0 || (before && !tail)) sentences.push([]);
      sentences[sentences.length - 1].push(at);
    });
    return { sentences };
  };

  return {
    specials, first, plain, ids, encode, words, range, sum, cumulative, searchRight,
    splitSentences, UNK, CLS, SEP, MASK, BOS, EOS, PAD,
  };
})();
