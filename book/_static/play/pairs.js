// 编码器–解码器的目标：片段破坏、文本填补、掩码序列到序列。
"use strict";
const playPairs = (() => {
  const { documentKey, uniform, chooseRagged, round } = playNoise;
  const { first, plain, ids, words, range, sum, cumulative, searchRight, splitSentences } =
    playTokens;
  const { MASK, BOS, EOS, PAD } = playTokens;

  // 编码器–解码器：解码器的输入是目标右移一格
  const pair = (tokens, hidden, inputs, targets, start) => ({
    tokens: words(tokens),
    hidden,
    inputs: words(inputs),
    decoder: words([start, ...targets.slice(0, -1)]),
    visible: targets.map(() => true),
    labels: words(targets),
    sides: ["编码器", "解码器"],
  });

  // ---- 片段破坏（span_corruption.py）
  const spanCorruption = (body, seed) => {
    const key = documentKey(seed);
    const full = Math.max(body.length, 2);
    const clip = (value, low, high) => Math.min(Math.max(value, low), high);
    const noise = clip(round(full * 0.15), 1, full - 1);
    const spans = clip(round(noise / 3), 1, Math.min(noise, full - noise));
    const kept = partition(full - noise, spans, key, 1);
    const hidden = partition(noise, spans, key, 0);
    const flags = kept
      .flatMap((size, i) => [
        ...Array(size).fill(false),
        ...Array(hidden[i]).fill(true),
      ])
      .slice(0, body.length);
    const inputs = [];
    const targets = [];
    let used = 0;
    body.forEach((id, at) => {
      if (!flags[at]) return inputs.push(id);
      if (at === 0 || !flags[at - 1]) {
        const sentinel = ids.get(`<extra_id_${used++}>`);
        inputs.push(sentinel);
        targets.push(sentinel);
      }
      return targets.push(id);
    });
    if (used === 0) targets.push(ids.get("<extra_id_0>"));
    return pair(
      [...body, EOS],
      [...flags, false],
      [...inputs, EOS],
      [...targets, EOS],
      PAD,
    );
  };

  // total 分成 parts 个正整数，一切分法机会相等
  const partition = (total, parts, key, stream) => {
    const cuts = chooseRagged(key, total - 1, parts - 1, stream)
      .map((cut, at) => (cut ? at + 1 : 0))
      .filter(Boolean);
    return [0, ...cuts].map((cut, i) => (cuts[i] ?? total) - cut);
  };

  // ---- 文本填补（text_infilling.py）
  const textInfilling = (body, seed) => {
    const key = documentKey(seed);
    const { sentences } = splitSentences(body);
    const scores = uniform(key, sentences.length, 0);
    const order = range(sentences.length)
      .sort((a, b) => scores[a] - scores[b] || a - b)
      .flatMap((s) => sentences[s]);
    const { sizes, inserts } = drawSpans(Math.ceil(body.length * 0.3 - 1e-9), key);
    const { heads, covered } = placeDisjoint(body.length, sizes, key);
    const shown = [];
    order.forEach((at, i) => {
      if (heads[i]) shown.push(MASK);
      else if (!covered[i]) shown.push(body[at]);
    });
    const extra = Math.min(inserts, body.length - shown.length);
    const gaps = uniform(key, extra, 5).map((lot) =>
      Math.floor(lot * (shown.length + 1)),
    );
    const inputs = [];
    for (let gap = 0; gap <= shown.length; gap++) {
      for (const each of gaps) if (each === gap) inputs.push(MASK);
      if (gap < shown.length) inputs.push(shown[gap]);
    }
    const hidden = body.map(() => false);
    order.forEach((at, i) => (hidden[at] = covered[i]));
    const wrap = (row, edge) => [edge ?? BOS, ...row, edge ?? EOS];
    return pair(wrap(body), wrap(hidden, false), wrap(inputs), wrap(body), EOS);
  };

  // 泊松分布（λ = 3）的累积概率，末项为 1
  const poisson = (() => {
    const longest = Math.floor(3 + 12 * Math.sqrt(3) + 24);
    let log = -3;
    const terms = [Math.exp(-3)];
    for (let k = 1; k <= longest; k++) {
      log += Math.log(3) - Math.log(k);
      terms.push(Math.exp(log));
    }
    const table = cumulative(terms);
    return table.map((each) => each / table[longest]);
  })();

  const drawSpans = (budget, key) => {
    const drawn = [];
    let covered = 0;
    for (let width = 2 * budget + 32; covered < budget; width *= 2) {
      drawn.length = 0;
      covered = 0;
      for (const lot of uniform(key, width, 1)) {
        if (covered >= budget) break;
        const size = Math.min(searchRight(poisson, lot), budget - covered);
        drawn.push(size);
        covered += size;
      }
    }
    if (drawn.length) {
      const last = drawn.length - 1;
      const other = Math.floor(uniform(key, 1, 2)[0] * drawn.length);
      [drawn[last], drawn[other]] = [drawn[other], drawn[last]];
    }
    const sizes = drawn.filter((size) => size > 0);
    return { sizes, inserts: drawn.length - sizes.length };
  };

  const placeDisjoint = (length, sizes, key) => {
    const slots = length - sum(sizes) + sizes.length;
    const isSpan = chooseRagged(key, slots, sizes.length, 3);
    const state = [];
    let span = 0;
    for (const each of isSpan) {
      if (!each) state.push(0);
      else range(sizes[span++]).forEach((i) => state.push(i === 0 ? 2 : 1));
    }
    const turn = Math.floor(uniform(key, 1, 4)[0] * length);
    const turned = range(length).map((i) => state[(i + turn) % length]);
    const covered = turned.map((each) => each > 0);
    return { heads: turned.map((each, i) => each === 2 || (i === 0 && covered[0])), covered };
  };

  // ---- 掩码序列到序列（masked_seq2seq.py）
  const maskedSeq2seq = (body, seed) => {
    const key = documentKey(seed);
    const size = Math.max(round(body.length * 0.5), 1);
    const slots = body.length - size + 1;
    const [lot, place] = uniform(key, 2, 0);
    const start =
      lot < 0.2 ? 0 : lot < 0.4 ? slots - 1 : Math.floor(place * slots);
    const hidden = body.map((_, at) => start <= at && at < start + size);
    const inputs = [...body];
    uniform(key, size, 1).forEach((fate, i) => {
      if (fate >= 0.8 + 0.1) return;
      const draw = (fate * 2 ** 20) % 1;
      inputs[start + i] = fate < 0.8 ? MASK : first + Math.floor(draw * plain);
    });
    const tokens = [BOS, ...body, EOS];
    const seen = [false, ...hidden, false];
    const shifted = [EOS, ...tokens.slice(0, -1)];
    return {
      tokens: words(tokens),
      hidden: seen,
      inputs: words([BOS, ...inputs, EOS]),
      decoder: words(shifted.map((id, at) => (seen[at] ? id : MASK))),
      visible: seen,
      labels: words(tokens.map((id, at) => (seen[at] ? id : null))),
      sides: ["编码器", "解码器"],
    };
  };

  return { spanCorruption, textInfilling, maskedSeq2seq };
})();
