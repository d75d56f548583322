// GLM 的自回归填空。
"use strict";
const playBlanks = (() => {
  const { documentKey, uniform, choose } = playNoise;
  const { ids, words, range, sum, cumulative, searchRight, splitSentences, CLS, EOS } =
    playTokens;

  // ---- GLM 填空（blank_infilling.py、blanks.py）；各处随机的股号同 blanks.py
  const blankInfilling = (body, seed) => {
    const key = documentKey(seed);
    const [level] = uniform(key, 1, 1);
    let spans = null;
    let mask = "[MASK]";
    if (level < 0.3) [spans, mask] = [tailSpan(body, key), "[gMASK]"];
    else if (level < 0.3 + 0.3) {
      spans = sentenceSpans(body, key);
      if (spans) mask = "[sMASK]";
    }
    spans ??= tokenSpans(body, key);
    const lots = uniform(key, spans.length, 2);
    const order = range(spans.length).sort((a, b) => lots[a] - lots[b]);
    const hidden = body.map(() => false);
    const inputs = [...body];
    for (const { start, size } of spans) {
      hidden.fill(true, start, start + size);
      inputs[start] = ids.get(mask);
      inputs.fill(null, start + 1, start + size);
    }
    const decoder = [];
    const labels = [];
    for (const { start, size } of order.map((s) => spans[s])) {
      const span = body.slice(start, start + size);
      decoder.push(ids.get("[sop]"), ...span);
      labels.push(...span, ids.get("[eop]"));
    }
    return {
      tokens: words([CLS, ...body, EOS]),
      hidden: [false, ...hidden, false],
      inputs: words([CLS, ...inputs.filter((id) => id !== null), EOS]),
      decoder: words(decoder),
      visible: decoder.map(() => true),
      labels: words(labels),
      sides: ["A 部分", "B 部分"],
    };
  };

  const tailSpan = (body, key) => {
    const count = body.length;
    const least = Math.max(1, Math.min(Math.ceil(count / 2), count - 1));
    const most = Math.max(least, count - 1);
    const size = least + Math.floor(uniform(key, 1, 14)[0] * (most - least + 1));
    return [{ start: count - size, size }];
  };

  const blankBudget = (body) => Math.max(1, Math.trunc(0.15 * body.length));

  const sentenceSpans = (body, key) => {
    const { sentences } = splitSentences(body);
    if (sentences.length < 2) return null;
    const lots = uniform(key, sentences.length, 13);
    const order = range(sentences.length).sort((a, b) => lots[a] - lots[b] || a - b);
    const chosen = [];
    let before = 0;
    for (const s of order.slice(0, -1)) {
      if (before >= blankBudget(body)) break;
      chosen.push(s);
      before += sentences[s].length;
    }
    return chosen
      .sort((a, b) => a - b)
      .map((s) => ({ start: sentences[s][0], size: sentences[s].length }));
  };

  // 去掉零、截到 39 的泊松分布的累积概率
  const truncated = (() => {
    let log = 0;
    const weights = [];
    for (let k = 1; k <= 39; k++) weights.push(Math.exp((log += Math.log(3 / k))));
    const table = cumulative(weights);
    return table.map((each, i) => (i === 38 ? 1 : each / table[38]));
  })();

  const tokenSpans = (body, key) => {
    const budget = blankBudget(body);
    const longest = Math.max(body.length - 1, 1);
    let total = 0;
    const drawn = uniform(key, budget, 10).map((lot, i) => {
      const size = Math.min(1 + searchRight(truncated, lot), longest);
      total += size;
      return total - size < budget && total + i <= body.length ? size : 0;
    });
    const scores = uniform(key, budget, 11).map((lot, i) => (drawn[i] ? lot : 2));
    const sizes = range(budget)
      .sort((a, b) => scores[a] - scores[b])
      .map((i) => drawn[i])
      .filter((size) => size > 0);
    const queue = body.length - sum(sizes) + 1;
    const places = choose(uniform(key, queue, 12), sizes.length)
      .map((chosen, at) => (chosen ? at : -1))
      .filter((at) => at >= 0);
    return places.map((place, i) => ({
      start: place + sum(sizes.slice(0, i)),
      size: sizes[i],
    }));
  };

  return { blankInfilling };
})();
