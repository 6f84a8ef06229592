"""The page's style sheet: light and dark by the reader's own setting, one column on a phone."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--panel:#f5f7f9;--text:#1b1f24;--muted:#56606b;--rule:#d5dae0;
--c0:#0b57d0;--c1:#ad4207;--c2:#00695c;--c3:#8e24aa;--c4:#9a1750;--c5:#5d5300;--mark:#e8f0fe;--edge:#0003}
@media(prefers-color-scheme:dark){:root{--back:#12161b;--panel:#1a2027;--text:#e6ebf1;--muted:#a3adb9;--rule:#39424d;
--c0:#82b4ff;--c1:#ffad73;--c2:#6fd6c2;--c3:#d7a3f0;--c4:#ff9dbb;--c5:#d8cd6a;--mark:#1b2c46;--edge:#fff4}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3,h4{font-size:1rem;margin:0 0 .25rem}
p{margin:.5rem 0}
.lead{font-size:1.2rem;line-height:1.4;font-weight:600;margin:1rem 0 .5rem}
.verdict{margin:0 0 1.25rem;padding-left:1.2rem}.verdict li{margin:.2rem 0}
.muted,.note,caption{color:var(--muted)}
.note,caption{font-size:.9rem}
.caution{border-left:4px solid var(--c1);padding-left:.75rem}
.wide{overflow-x:auto;max-width:100%;margin:.75rem 0;background:
linear-gradient(to left,var(--back) 1rem,transparent 2.5rem) right/2.5rem 100% no-repeat local,
linear-gradient(to left,var(--edge),transparent) right/1.1rem 100% no-repeat scroll}
table{border-collapse:separate;border-spacing:0;font-variant-numeric:tabular-nums;min-width:min(100%,24rem)}
caption{text-align:left;padding:0 .25rem .25rem}
th,td{padding:.35rem .75rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:.25rem}
td{white-space:nowrap}
tbody th{font-weight:400;position:sticky;left:0;background:var(--back)}
thead th{font-size:.9rem;vertical-align:bottom}
tr.mark>*{background:var(--mark);font-weight:600}
.key{display:inline-block;width:.75rem;height:.75rem;border-radius:50%;margin-right:.4rem;border:2px solid var(--own);
background:var(--own)}
.key.start{background:none}
.one{white-space:nowrap}
tbody th span{display:block;font-weight:400;font-size:.85rem;line-height:1.3;text-indent:0}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.75rem;
margin:.5rem 0 1.25rem}
.answer{margin:0;padding:.6rem .75rem;background:var(--panel);border-top:4px solid var(--own)}
.answer div{white-space:pre-wrap;overflow-wrap:anywhere}
figcaption{font-size:.9rem;margin-bottom:.35rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem;align-items:start}
.pair>*{min-width:0}
figure{margin:.5rem 0}
svg{display:block;width:100%;height:auto;max-width:34rem;margin:0 auto}
svg text{fill:var(--text);font-size:13px}
svg .tick{fill:var(--muted)}
svg .grid{stroke:var(--rule)}
svg .axis{fill:none;stroke:var(--muted)}
.sb{--own:var(--muted)}.s0{--own:var(--c0)}.s1{--own:var(--c1)}.s2{--own:var(--c2)}
.s3{--own:var(--c3)}.s4{--own:var(--c4)}.s5{--own:var(--c5)}
svg .line{fill:none;stroke:var(--own);stroke-width:2.25;stroke-linejoin:round}
svg .line.s1{stroke-dasharray:7 4}svg .line.s2{stroke-dasharray:2 3}svg .line.s3{stroke-dasharray:10 3 2 3}
svg .line.s4{stroke-dasharray:4 2}svg .line.s5{stroke-dasharray:12 5}
svg .level{fill:none;stroke:var(--own);stroke-width:1;opacity:.6}svg .level.sb{stroke-width:2;opacity:1}
svg :is(.dot,.end,.bar){fill:var(--own)}
svg .end{font-weight:600}
svg .strong{font-weight:600}
svg .bar{fill-opacity:.75}
svg .whisker{fill:none;stroke:var(--text);stroke-width:1.5}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.25rem 0}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
details.part{border-top:1px solid var(--rule);margin:0}
details.part>summary{padding:.6rem 0}
details.part>summary :is(h2,h3){display:inline;margin:0;padding:0;border:0;font-size:1.05rem}
details.part[open]{padding-bottom:1.5rem}
details.run{border:1px solid var(--rule);border-radius:.4rem;padding:0 1rem;margin:1rem 0}
details.run>summary{padding:.75rem 0}
details.run>summary h2{display:inline;margin:0;padding:0;border:0}
details.run>h3{font-size:1.1rem;margin:2rem 0 .5rem}
table.cards{width:100%}
table.cards tbody th{min-width:11rem;padding-left:1.4rem;text-indent:-1.15rem}
table.prose td{white-space:normal;text-align:left}
table.prose td:nth-child(2){min-width:9rem}
table.prose th,table.noted :is(th,td):last-child{text-align:left}
table.noted td:last-child{white-space:normal;min-width:16rem}
pre{background:var(--panel);padding:.75rem;overflow-x:auto;font-size:.85rem}
@media(max-width:37.5rem){th,td{padding:.35rem .5rem}main{padding:1rem .75rem 2rem}tbody th{min-width:7.5rem}
table.cards,table.cards :is(caption,tbody,tr,th,td){display:block}
table.cards thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
table.cards tr{border:1px solid var(--rule);border-radius:.4rem;margin:.6rem 0;padding:.4rem .6rem}
table.cards tr.mark{background:var(--mark)}
table.cards :is(th,td){border:0;padding:.1rem 0;background:none;position:static}
table.cards tbody th{font-weight:600;padding:0 0 .25rem 1.15rem}
table.cards td{display:flex;justify-content:space-between;gap:.75rem;padding-left:1.15rem}
.wide:has(.cards){background:none}
table.cards td::before{content:attr(data-head);color:var(--muted);font-weight:400;
font-size:.9rem;white-space:normal;text-align:left}
table.cards td:empty{display:none}}
"""
