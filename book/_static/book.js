// 搜索结果页：高亮整段的词，而不是两字一段的索引项。
// 本文件先于 searchtools.js 载入，它的初始化也等 DOMContentLoaded，因此这里先登记先执行
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  // 从文件夹打开的页面读不了别的文件，摘要取不来，就只列标题
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  const parse = Search._parseQuery;
  Search._parseQuery = (query) => {
    const parsed = parse(query);
    const words = query.trim().toLowerCase().split(/\s+/u).filter(Boolean);
    parsed[3] = new Set(words);
    try {
      localStorage.setItem("sphinx_highlight_terms", words.join(" "));
    } catch {
      // 浏览器不许存东西时，只是没有高亮
    }
    return parsed;
  };
});

// 左右方向键翻页；正在打字、选东西，或停在能左右滑动的表与代码上时不翻
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  const side = { ArrowLeft: "left-prev", ArrowRight: "right-next" }[event.key];
  if (!side || document.activeElement !== document.body) return;
  document.querySelector(`.prev-next-area a.${side}`)?.click();
});
