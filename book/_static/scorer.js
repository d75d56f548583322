// 搜索的打分：对象的名字里恰有这几个字母的（RAG 在 average 里）排到最后；其余同 Sphinx
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 1,
  objPrio: { 0: 0, 1: 0, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
