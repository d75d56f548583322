// 词表、分词、句子，以及各目标共用的几个小函数；词表由构建时的 vocabulary.js 给出。
"use strict";
const playTokens = (() => {
  const { specials, letters } = playVocabulary;

  // 中间填补的记号不在词表里，打开检查点时添在最后
  const marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
  const vocabulary = [...specials, ...letters, ...marks];
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
  const plain = vocabulary.length - first - marks.length;
  const [PRE, SUF, MID] = marks.map((_, i) => first + plain + i);

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

  // 各句的词元在正文里的位置
  const splitSentences = (body) => {
    const sentences = [[]];
    let ended = false;
    body.forEach((id, at) => {
      if (ended && !ends.has(id) && !closers.has(id)) sentences.push([]);
      sentences.at(-1).push(at);
      ended = ends.has(id) || (ended && closers.has(id));
    });
    return sentences;
  };

  // 选中的换成掩码（八成）、随机的字（一成），其余不动（noise.py 的 replace_tokens）
  const replaceTokens = (tokens, chosen, random) => {
    const places = range(tokens.length).filter((at) => chosen[at]);
    const lots = random.random(places.length);
    const draws = random.random(places.length);
    const inputs = [...tokens];
    places.forEach((at, i) => {
      if (lots[i] < 0.8) inputs[at] = MASK;
      else if (lots[i] < 0.8 + 0.1) inputs[at] = first + Math.floor(draws[i] * plain);
    });
    return inputs;
  };

  return {
    specials, ids, encode, words, range, sum, cumulative, searchRight,
    splitSentences, replaceTokens, UNK, CLS, SEP, MASK, BOS, EOS, PAD, PRE, SUF, MID,
  };
})();
